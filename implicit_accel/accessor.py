"""The accessor of results: ``runs.ia.summary()``, ``runs.ia.plot("speed_up")``.

Importing `implicit_accel` gives every xarray dataset the accessor ``ia``.
"""

from __future__ import annotations

import functools
import html
import inspect
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from implicit_accel import summary
from implicit_accel.engine.chunks import Timing
from implicit_accel.errors import UserError
from implicit_accel.files import printable
from implicit_accel.latex import to_latex
from implicit_accel.statistics import summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from implicit_accel.panels import Canvas
    from implicit_accel.tasks.parameters import Parameters

# Figures of every sweep; what was recorded along the runs has one too.
PLOTS = ("excess_loss", "learning_rates", "steps_to_target", "speed_up")


@dataclass(frozen=True, repr=False)
class Summary:
    """A sweep's answer: a table and sentences, which a notebook shows as such.

    Attributes:
        table: From `summarise`.
        title: What was fitted.
    """

    table: pd.DataFrame
    title: str

    @property
    def answers(self) -> list[str]:
        """The question answered in words, see `summary.answers`."""
        return summary.answers(self.table)

    def to_latex(self, *, caption: str | None = None, label: str = "") -> str:
        """The table for a paper, see `latex.to_latex`."""
        return to_latex(self.table, caption=caption, label=label)

    def __repr__(self) -> str:
        """The table and the sentences, as plain text."""
        rows = [summary.cells(self.table, m) for m in range(len(self.table))]
        headings = [" ".join(name.split()) for name in summary.columns(self.table)]
        shown = pd.DataFrame(rows, columns=pd.Index(headings), dtype=object)
        lines = [self.title, shown.to_string(index=False), summary.caption(self.table)]
        return "\n".join([*lines, *(f"→ {sentence}" for sentence in self.answers)])

    def _repr_html_(self) -> str:
        """What a notebook shows; whatever comes from data is text."""
        said = [f"<p><strong>{html.escape(sentence)}</strong></p>" for sentence in self.answers]
        headings = "".join(
            f'<th scope="col">{html.escape(name).replace(chr(10), "<br>")}</th>'
            for name in summary.columns(self.table)
        )
        rows = []
        for m in range(len(self.table)):
            model, *cells = map(html.escape, summary.cells(self.table, m))
            rest = "".join(f"<td>{cell}</td>" for cell in cells)
            rows.append(f'<tr><th scope="row" style="text-align:left">{model}</th>{rest}</tr>')
        return (
            f"<div>{''.join(said)}<table><caption>{html.escape(self.title)}</caption>"
            f"<thead><tr>{headings}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            f"<p>{html.escape(summary.caption(self.table))}</p></div>"
        )


def attach(
    runs: xr.Dataset, *, timing: Timing | None = None, params: Parameters | None = None
) -> None:
    """Lets ``runs.ia`` say what the runs cost, and their parameters.

    They are no part of the results, which are equal to the bit whatever they cost.
    """
    accessor: Accessor = runs.ia
    accessor._timing = timing or accessor._timing
    accessor._params = params or accessor._params


@xr.register_dataset_accessor("ia")
class Accessor:
    """What can be asked of results: ``runs.ia``.

    Args:
        runs: Results of any axes.
    """

    def __init__(self, runs: xr.Dataset) -> None:
        self._runs = runs
        # Of the dataset that a sweep returned, not of others made from it; see `attach`.
        self._timing: Timing | None = None
        self._params: Parameters | None = None

    @property
    def timing(self) -> Timing:
        """What training the runs cost, in seconds of compilation and of training, and run-steps.

        Of a run in a folder it is the sum over all calls, or nothing where the last call trained
        nothing. It is known of the dataset that `sweep`, `run_sweep` or `run` returned, not of one
        made from it.

        Raises:
            UserError: If it is not known.
        """
        if self._timing is None:
            raise UserError(
                "timing: this is not the dataset that sweep, run_sweep or run returned; ask that "
                "one, or read timing in the folder's config.json"
            )
        return self._timing

    def params(self, **coordinates: Any) -> Any:
        """The parameters of the runs, where ``sweep(…, keep="final")`` or ``"best"`` kept them.

        ``runs.ia.params(learning_rate=0.1, seed=0)`` are those of one run, and ``runs.ia.params()``
        those of all. They are known of the dataset that `sweep` returned, not of one made from it.

        Args:
            coordinates: A value for some of the sweep's axes.

        Returns:
            A pytree like the one that the task's ``init`` returns, with NumPy's arrays, which have
            the other axes of the sweep in front, in their order. NaN where a run was not trained,
            diverged (``final``), or never had a loss (``best``).

        Raises:
            UserError: If none were kept, there is no such run, or the parameters differ in shape
                along an axis for which no value is given.
        """
        if self._params is None:
            raise UserError(
                'params: none were kept; ask the dataset that sweep(…, keep="final") returned. '
                "With the folder of a run that is there, this trains nothing"
            )
        return self._params.at(coordinates)

    def summary(
        self, *, best_by: str = "stable", baseline: Mapping[str, object] | None = None
    ) -> Summary:
        """The table that answers the question, and the answer in words.

        Args:
            best_by: What makes a learning rate the best, see `best_learning_rates`.
            baseline: What models are compared with, see `summarise`.

        Raises:
            UserError: As `summarise`, or if the dataset holds no results.
        """
        runs = self._results()
        table = summarise(runs, best_by=best_by, baseline=baseline)
        return Summary(table, printable(str(runs.attrs["title"]), 160))

    def plot(
        self, what: str = "excess_loss", *, ax: Canvas | None = None, **options: Any
    ) -> Canvas:
        """One of a sweep's figures, see `plotting`.

        Args:
            what: One of `PLOTS`, or the name of something that was recorded along the runs.
            ax: An Axes to draw into, in the place of a new figure.
            options: Of the function that draws it, `plotting.plot_excess_loss` and so on: ``size``,
                ``hue``, ``title``, ``best_by``; ``x`` of ``learning_rates`` and
                ``steps_to_target``; ``baseline`` of ``speed_up``, see `summarise`.

        Returns:
            A matplotlib figure, which a notebook shows, or ``ax`` if it is given.

        Raises:
            UserError: If there is no such figure, it does not have such an option, or the dataset
                holds no results.
        """
        # Imported here: without figures, the package does without matplotlib.
        from implicit_accel import plotting

        runs = self._results()
        makers: dict[str, Callable[..., Any]] = {
            "excess_loss": plotting.plot_excess_loss,
            "learning_rates": plotting.plot_learning_rates,
            "steps_to_target": plotting.plot_steps_to_target,
            "speed_up": plotting.plot_speed_up,
        }
        for name in plotting.observed(runs):
            makers[name] = functools.partial(plotting.plot_observable, name=name)
        if what not in makers:
            raise UserError(f"{what!r} has no figure: choose from {', '.join(makers)}")
        return _drawn(makers[what], runs, ax, options)

    def plot_heatmap(self, *, x: str, y: str, ax: Canvas | None = None, **options: Any) -> Canvas:
        """A quantity over two axes as colours, see `grid_plots.plot_heatmap`.

        Args:
            x: ``learning_rate`` or a coordinate of the models.
            y: Another one.
            ax: An Axes to draw into, in the place of a new figure.
            options: Further ones of that function: ``value``, ``best_by``, ``size``, ``title``.

        Returns:
            A matplotlib figure, which a notebook shows, or ``ax`` if it is given.

        Raises:
            UserError: As that function, or if the dataset holds no results.
        """
        from implicit_accel import grid_plots

        options = {"x": x, "y": y, **options}
        return _drawn(grid_plots.plot_heatmap, self._results(), ax, options)

    def plot_importance(self, *, ax: Canvas | None = None, **options: Any) -> Canvas:
        """How much of the variance of log steps each axis alone explains.

        Args:
            ax: An Axes to draw into, in the place of a new figure.
            options: Of `grid_plots.plot_importance`: ``best_by``, ``size``, ``title``.

        Returns:
            A matplotlib figure, which a notebook shows, or ``ax`` if it is given.

        Raises:
            UserError: As that function, or if the dataset holds no results.
        """
        from implicit_accel import grid_plots

        return _drawn(grid_plots.plot_importance, self._results(), ax, options)

    def _results(self) -> xr.Dataset:
        missing = {"loss", "excess_loss", "steps_to_target", "divergence_step"} - {*self._runs}
        if missing or "title" not in self._runs.attrs:
            raise UserError("this dataset does not hold a sweep's results: ask those of run_sweep")
        return self._runs


def _drawn(
    draw: Callable[..., Any], runs: xr.Dataset, ax: Canvas | None, options: Mapping[str, Any]
) -> Any:
    """A figure that a notebook shows, or the Axes that it was drawn into."""
    allowed = [name for name in inspect.signature(draw).parameters if name not in _GIVEN]
    for option in options:
        if option not in allowed:
            raise UserError(
                f"{option!r} is no option of this figure: choose from {', '.join(allowed)}"
            )
    drawn = draw(runs, ax=ax, **options)
    if ax is None:
        # Notebooks show figures of matplotlib.pyplot by themselves, others by this method.
        setattr(drawn, "_repr_png_", functools.partial(_png, drawn))  # noqa: B010
    return drawn


# Parameters of functions that draw which are no options of the accessor's.
_GIVEN = ("results", "name", "ax")


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return data.getvalue()
