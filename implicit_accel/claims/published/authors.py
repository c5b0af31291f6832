"""The two digitised figures of the 2018 paper's authors, and the distance of a run from a curve."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from implicit_accel.errors import DataError, UserError

# Figure → name of a curve in the file → its name in the figure's legend.
FIGURES: dict[str, dict[str, str]] = {
    "l4_ethanol": {
        "gradient_descent_depth_1": "GD, depth 1",
        "gradient_descent_depth_2": "GD, depth 2",
        "adagrad_depth_1": "AdaGrad",
        "adadelta_depth_1": "AdaDelta",
    },
    "mnist_cnn": {"original": "original", "overparameterised": "overparameterised"},
}

_COLUMNS = ("figure", "curve", "iteration", "loss", "loss_low", "loss_high")
# A reading of a falling curve this many times above its lowest one before is ink of the legend or
# an arrow. There are three side by side in each of two curves of the first figure, and two in the
# second.
_MISREAD = 3.0


def authors_curves(figure: str, *, path: Path | None = None) -> dict[str, pd.DataFrame]:
    """The curves of one of the authors' figures, digitised from their blog post.

    Readings more than three times above the curve's lowest loss before are left out, since they
    cannot be the curve's.

    Args:
        figure: ``l4_ethanol`` (the loss against iterations, 10⁶ of them) or ``mnist_cnn`` (the
            batch's loss against iterations).
        path: Another file of the same form as the one that comes with the project.

    Returns:
        By the curve's name, in the order of `FIGURES`: a table with ``iteration`` (whole numbers
        above 0, increasing), ``loss`` and the drawn line's edges ``loss_low`` and ``loss_high``
        (above 0).

    Raises:
        UserError: If there is no such figure.
        DataError: If the file is not such a table.
    """
    if figure not in FIGURES:
        raise UserError(f"figure {figure!r}: choose from {', '.join(FIGURES)}")
    source = path or resources.files(__name__.rpartition(".")[0]) / "authors_figures.csv"
    table = _read(source)
    found = {}
    for name in FIGURES[figure]:
        chosen = (table["figure"] == figure) & (table["curve"] == name)
        rows = table.iloc[np.flatnonzero(chosen)].reset_index(drop=True)
        if not len(rows):
            raise DataError(f"{source}: no readings of figure {figure}, curve {name}")
        if not (np.diff(rows["iteration"]) > 0).all():
            raise DataError(f"{source}: iterations of {figure}, {name} do not increase")
        loss = rows["loss"].to_numpy()
        kept = loss <= _MISREAD * np.minimum.accumulate(loss)
        found[name] = rows.iloc[np.flatnonzero(kept)][list(_COLUMNS[2:])].reset_index(drop=True)
    return found


def _read(source: Path | Traversable) -> pd.DataFrame:
    """The file as a table of checked columns."""
    try:
        with source.open(encoding="utf-8") as file:
            table = pd.read_csv(file, comment="#")
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: not a table of curves ({error})") from None
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise DataError(f"{source}: no column {', '.join(missing)}")
    for name in _COLUMNS[2:]:
        values = np.asarray(pd.to_numeric(table[name], errors="coerce"), float)
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if bad.size:
            raise DataError(
                f"{source}: {name} of reading {bad[0] + 1} is {table[name].iloc[bad[0]]!r}; it "
                "must be a number above 0"
            )
        table[name] = values
    return table


def distance(steps: np.ndarray, losses: np.ndarray, curve: pd.DataFrame) -> float:
    """The distance of a run from a curve: the RMS of ``log₁₀(loss / the curve's)``.

    It is over those of the curve's iterations which the run covers. Between recorded steps the loss
    is interpolated with both axes logarithmic.

    Args:
        steps: (T,) increasing numbers; those not above 0 are ignored.
        losses: (T,) the run's losses, above 0; not finite after a divergence.
        curve: With columns ``iteration`` and ``loss``.

    Returns:
        The distance, 0.30 for a factor of two; inf where the run diverges before the last covered
        iteration, NaN where it covers none.
    """
    steps, losses = np.asarray(steps, float), np.asarray(losses, float)
    later = steps > 0
    steps, losses = steps[later], losses[later]
    iterations = np.asarray(curve["iteration"], float)
    if not steps.size:
        return np.nan
    covered = (iterations >= steps[0]) & (iterations <= steps[-1])
    if not covered.any():
        return np.nan
    # Up to the first record at or after the last iteration compared.
    used = slice(int(np.searchsorted(steps, iterations[covered][-1])) + 1)
    if not (np.isfinite(losses[used]) & (losses[used] > 0)).all():
        return np.inf
    ours = np.interp(np.log(iterations[covered]), np.log(steps[used]), np.log10(losses[used]))
    return float(
        np.sqrt(np.mean((ours - np.log10(np.asarray(curve["loss"], float)[covered])) ** 2))
    )


def draw_authors(
    ax: Axes,
    figure: str,
    *,
    colour: str = "0.45",
    log_steps: bool = True,
    over: bool = False,
) -> None:
    """Draws the authors' curves as thin lines below all others, each with its name at its end.

    Args:
        ax: The loss's axis becomes logarithmic, that of iterations only with ``log_steps``.
        figure: See `authors_curves`.
        colour: Of the lines and names.
        log_steps: Whether iterations are on a logarithmic axis.
        over: Draw them dashed above all others, with one note in place of their names: for curves
            that coincide with ours.

    Raises:
        UserError: If there is no such figure.
    """
    curves = authors_curves(figure)
    last = {name: float(curve["loss"].iloc[-1]) for name, curve in curves.items()}
    below, height = 0.0, 0
    look: dict[str, Any] = {"zorder": 3, "linestyle": (0, (3, 2))} if over else {"zorder": 1.5}
    for name in sorted(curves, key=last.__getitem__):
        x, y = curves[name]["iteration"].to_numpy(), curves[name]["loss"].to_numpy()
        ax.plot(x, y, color=colour, linewidth=0.9, **look)
        if over:
            continue
        # Curves that end together have their names one above the other.
        height = height + 8 if last[name] < 1.15 * below else 0
        below = last[name]
        ax.annotate(
            FIGURES[figure][name], (x[-1], y[-1]), xytext=(4, height - 2),
            textcoords="offset points", fontsize=6.5, color=colour, annotation_clip=False,
        )  # fmt: skip
    if over:
        ax.text(0.97, 0.97, "dashed: published", transform=ax.transAxes, fontsize=7.5, ha="right",
                va="top", color=colour)  # fmt: skip
    ax.set_yscale("log")
    if log_steps:
        ax.set_xscale("log")
