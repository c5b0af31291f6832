"""Figures of panels: in a figure of their own or in an Axes of a user's, at a size, with a title.

What every function that draws can do with its figure is here, once: see `compose`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import ScaledTranslation
from typing_extensions import TypeVar

from implicit_accel.errors import UserError

Canvas = TypeVar("Canvas", bound=Figure | Axes, default=Figure)
"""What a function that draws returns: a figure, or the Axes that it was given."""

Size = str | tuple[float, float]
"""One of `SIZES`, or a width and a height in inches."""

Title = str | bool | None
"""Text; True for the usual title; False or None for no title."""

SIZES: Mapping[str, float] = {"screen": 0.0, "page": 6.8, "column": 3.4}
"""Widths of figures in inches: as they are drawn, and those of a paper's page and column."""

# Lengths in inches that a figure may have.
_LENGTHS = (1.0, 60.0)

# A panel's height over its width, its least width in inches, and sizes of text in a paper, in
# points.
_PANEL_RATIO = 0.72
_PANEL_WIDTH = 3.3
_PAPER_TEXT = 8.0

# Characters of a title that have room above a panel, and of one above panels side by side.
_TITLE_WIDTH = 58

# Of a legend below panels, in inches: a line, a line's sample with the gaps around it, a character;
# and the points from the axes down to it, with ticks and a label between.
_LEGEND_LINE, _LEGEND_SAMPLE, _CHARACTER = 0.16, 0.45, 0.065
_BELOW_AXES = 36.0


@dataclass(frozen=True)
class Panel:
    """One plot of a figure: its title, and what draws it."""

    title: str
    draw: Callable[[Axes], None]


def compose(
    panels: Sequence[Panel],
    *,
    ax: Canvas | None,
    size: Size,
    title: Title,
    heading: str = "",
    panel_size: tuple[float, float] = (4.4, 3.4),
    margins: tuple[float, float] = (0.0, 0.4),
    grid: str = "both",
    ylabel: str = "",
    legend: int = 0,
    are_legends_below: bool = False,
    is_tall: bool = False,
    is_text: bool = False,
) -> Canvas:
    """Draws panels into a new figure, or the only one into an Axes.

    Args:
        panels: What is drawn.
        ax: An Axes to draw into; None for a new figure.
        size: Of the new figure.
        title: Of the new figure or the Axes. The usual title of an Axes is its panel's; that of a
            figure is its heading, which figures of a given size (for a paper, whose caption has it)
            do without.
        heading: The usual title of a figure, in lines.
        panel_size: Of a panel on screen, in inches.
        margins: What the figure is wider and higher than its panels.
        grid: Along which axis grid lines are drawn: ``both``, ``x`` or ``none``.
        ylabel: Beside the first panel of a row, if panels have none of their own.
        legend: Columns of one legend of the first panel's lines, below all; 0 if panels have their
            own.
        are_legends_below: Whether panels' own legends come below them on screen too, because lines
            leave no corner free. In figures of a given size they always do.
        is_tall: Whether panels keep their height at any width: those with a row for each model.
        is_text: Whether the heading is text only, in which a dollar sign starts no formula.

    Returns:
        The Axes, or the new figure.

    Raises:
        UserError: If the panels do not fit the Axes, or there is no such size.
    """
    size = _checked_size(size)
    if ax is not None:
        return _draw_into(ax, panels, size, title, grid, ylabel=ylabel, has_legend=legend > 0)
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(panel_size[0] * columns + margins[0], panel_size[1] * rows + margins[1]),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, panel in zip(axes, panels, strict=False):
        _draw_panel(place, panel, grid)
        place.set_title(panel.title, fontsize=10)
    for place in axes[len(panels) :]:
        place.set_visible(False)
    if size != "screen":
        columns = _columns(len(panels), size)
    for place in axes[: len(panels) : columns] if ylabel else ():
        place.set_ylabel(ylabel)
    if legend:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=legend, fontsize=8, frameon=False
        )
    usual = title is True and size == "screen"
    shown = heading if usual else title if isinstance(title, str) else ""
    if shown:
        if isinstance(title, str) and size != "screen" and "$" not in shown:
            shown = textwrap.fill(shown, int(_width(size) / _CHARACTER))
        # The names in the usual title are text; in one that is given, a formula may be wanted.
        math_off = {"parse_math": False, "usetex": False} if usual and is_text else {}
        figure.suptitle(shown, fontsize=10, **math_off)
    if size != "screen":
        _fit(figure, size, height=panel_size[1] if is_tall else 0.0)
    elif are_legends_below:
        width, height = figure.get_size_inches()
        height += _legends_below(figure, axes[: len(panels)].tolist(), width, columns)
        figure.set_size_inches(width, height)
    return figure  # pyright: ignore[reportReturnType]


def heading(lines: Sequence[str], num_panels: int, name: str = "") -> str:
    """Lines of a title above panels, wrapped, and below them a name."""
    width = _TITLE_WIDTH * (2 if num_panels == 4 else min(num_panels, 3))
    return "\n".join([line for text in lines for line in textwrap.wrap(text, width)] + [name])


def _checked_size(size: Size) -> Size:
    if isinstance(size, str):
        if size not in SIZES:
            raise UserError(
                f"size {size!r}: choose from {', '.join(SIZES)}, or give (width, height)"
            )
        return size
    low, high = _LENGTHS
    try:
        lengths = [float(length) for length in size]
    except (TypeError, ValueError):
        lengths = []
    if len(lengths) != 2 or not all(low <= length <= high for length in lengths):
        raise UserError(
            f"size {size!r}: give a width and a height from {low:g} to {high:g} inches, or one of "
            f"{', '.join(SIZES)}"
        )
    return lengths[0], lengths[1]


def _draw_into(
    ax: Canvas,
    panels: Sequence[Panel],
    size: Size,
    title: Title,
    grid: str,
    *,
    ylabel: str,
    has_legend: bool,
) -> Canvas:
    if not isinstance(ax, Axes):
        raise UserError(f"ax is a {type(ax).__name__}: give an Axes of matplotlib")
    if size != "screen":
        raise UserError("size is of a new figure: give the figure that has this ax its size")
    if len(panels) != 1:
        names = ", ".join(repr(panel.title) for panel in panels)
        raise UserError(
            f"these results need {len(panels)} panels ({names}), ax is one: select one of them, "
            'e.g. ia.select(runs, loss_name="l4"), or draw without ax'
        )
    _draw_panel(ax, panels[0], grid)
    if ylabel:
        ax.set_ylabel(ylabel)
    if has_legend:
        ax.legend(fontsize=7.5, framealpha=0.85, edgecolor="none")
    shown = panels[0].title if title is True else title or ""
    if shown:
        ax.set_title(shown, fontsize=10)
    return ax


def _draw_panel(ax: Axes, panel: Panel, grid: str) -> None:
    panel.draw(ax)
    if grid != "none":
        ax.grid(True, which="major", axis=grid, alpha=0.25, linewidth=0.6)  # pyright: ignore[reportArgumentType]
    ax.spines[["top", "right"]].set_visible(False)


def fitted(figure: Figure, size: Size) -> Figure:
    """A figure of panels, fitted to a paper: without its title, panels below each other if narrow.

    Legends come below the panels, where they hide nothing.

    Args:
        figure: From one of this package's functions, with a title above its panels; it is changed.
        size: One of `SIZES`, or a width and a height in inches.

    Returns:
        The same figure.

    Raises:
        UserError: If there is no such size.
    """
    size = _checked_size(size)
    if size != "screen":
        figure.suptitle("").set_in_layout(False)
        _fit(figure, size)
    return figure


def _fit(figure: Figure, size: Size, *, height: float = 0.0) -> None:
    """Fits a figure to a size; its panels get a height in inches, or one by their width."""
    width = _width(size)
    panels = [ax for ax in figure.axes if ax.get_visible()]
    for ax in figure.axes:
        if ax not in panels:
            ax.remove()
    columns = _columns(len(panels), size)
    rows = -(-len(panels) // columns)
    for ax, place in zip(panels, GridSpec(rows, columns, figure=figure), strict=False):  # pyright: ignore[reportArgumentType]
        ax.set_subplotspec(place)
    for text in figure.findobj(Text):
        if isinstance(text, Text):
            text.set_fontsize(min(text.get_fontsize(), _PAPER_TEXT))
    for ax in panels:
        ax.tick_params(labelsize=_PAPER_TEXT - 1)
        _wrap_labels(ax, width / columns)
    tall = rows * (height or _PANEL_RATIO * width / columns)
    tall += _legends_below(figure, panels, width, columns)
    figure.set_size_inches(width, tall if isinstance(size, str) else float(size[1]))


def _width(size: Size) -> float:
    """In inches."""
    return SIZES[size] if isinstance(size, str) else float(size[0])


def _columns(num_panels: int, size: Size) -> int:
    """How many panels have room side by side."""
    return max(min(num_panels, int(_width(size) // _PANEL_WIDTH)), 1)


def _wrap_labels(ax: Axes, width: float) -> None:
    """Breaks names of rows where they would take more than a third of a panel, and long texts."""
    room = max(int(width / 3 / _CHARACTER), 8)
    if isinstance(ax.yaxis.get_major_locator(), FixedLocator):
        names = [label.get_text() for label in ax.get_yticklabels()]
        ax.set_yticks(ax.get_yticks(), [textwrap.fill(name, room) for name in names])
    for text in ax.texts:
        if len(text.get_text()) > room and "$" not in text.get_text():
            text.set_text(textwrap.fill(text.get_text(), int(1.5 * room)))
    for label in (ax.xaxis.label, ax.yaxis.label):
        # A formula must not be broken.
        if "$" not in label.get_text():
            lines = label.get_text().split("\n")
            label.set_text("\n".join(textwrap.fill(line, int(2.6 * room)) for line in lines))


def _legends_below(figure: Figure, panels: Sequence[Axes], width: float, columns: int) -> float:
    """Moves legends below panels, or below all where one has what all others have.

    Args:
        figure: With an own legend already, or without.
        panels: Its panels.
        width: Of the figure, in inches.
        columns: Of panels.

    Returns:
        What the figure needs for them, in inches.
    """
    found = {ax: _entries(legend) for ax in panels if (legend := ax.get_legend()) is not None}
    for legend in figure.legends[:1]:  # has too many columns for a narrow figure
        entries = _entries(legend)
        legend.remove()
        return _shared_legend(figure, entries, width)
    most = max(found.values(), key=len, default={})
    if len(found) == len(panels) > 1 and all({*own} <= {*most} for own in found.values()):
        for ax in panels:
            ax.get_legend().remove()  # pyright: ignore[reportOptionalMemberAccess]
        return _shared_legend(figure, most, width)
    heights = [0.0]
    for ax, entries in found.items():
        lines, options = _arranged(entries, width / columns)
        down = ScaledTranslation(0, -_BELOW_AXES / 72, figure.dpi_scale_trans)
        ax.legend(
            entries.values(), entries.keys(), loc="upper center", bbox_to_anchor=(0.5, 0),
            bbox_transform=ax.transAxes + down, borderaxespad=0.2, **options,
        )  # fmt: skip
        heights.append(lines)
    return max(heights) * -(-len(panels) // columns)


def _entries(legend: Legend) -> dict[str, Artist]:
    """What a legend shows, by the names."""
    names = [text.get_text() for text in legend.get_texts()]
    pairs = zip(names, legend.legend_handles, strict=True)
    return {name: handle for name, handle in pairs if handle is not None}


def _shared_legend(figure: Figure, entries: Mapping[str, Artist], width: float) -> float:
    """Draws one legend below all panels; returns its height in inches."""
    height, options = _arranged(entries, width)
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", **options)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return height


def _arranged(names: Collection[str], width: float) -> tuple[float, dict[str, Any]]:
    """The height of a legend with as many columns as have room, in inches, and its options."""
    longest = max((len(name.replace(r"\eta", "η").replace("$", "")) for name in names), default=0)
    most = max(min(int(width / (_LEGEND_SAMPLE + _CHARACTER * longest)), len(names)), 1)
    lines = -(-len(names) // most)
    options = {
        "ncols": -(-len(names) // max(lines, 1)), "fontsize": _PAPER_TEXT - 0.5, "frameon": False,
        "borderpad": 0.2, "columnspacing": 1.2,
    }  # fmt: skip
    return _LEGEND_LINE * lines + 0.1, options
