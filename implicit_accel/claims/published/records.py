"""What the student project's notebooks recorded, beside the distribution of our repeats."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from implicit_accel.claims.drawing import colour_of, draw_dots, make_figure
from implicit_accel.claims.published.student import kept_losses, models_with, shape_of

SEVEN = ("[]", "[1]", "[10]", "[64]", "[1, 1]", "[10, 10]", "[64, 64]")
"""The notebooks' networks, by hidden widths, in their order."""


@dataclass(frozen=True)
class Record:
    """One repeat of one network, as a notebook recorded it.

    Attributes:
        hidden: Its hidden widths, see `shape_of`.
        init: Its initialisation.
        rate: The learning rate that was kept; NaN if that is not recorded.
        loss: The last training loss; NaN likewise.
        optimizer: Its name.
        loss_name: ``l2`` for the mean squared error.
    """

    hidden: str
    init: str
    rate: float = math.nan
    loss: float = math.nan
    optimizer: str = "sgd"
    loss_name: str = "l2"


def kept_rates(
    rates: Sequence[float], hidden: Sequence[str], init: str, *,
    losses: Mapping[str, float] | None = None, optimizer: str = "sgd", loss_name: str = "l2",
) -> tuple[Record, ...]:  # fmt: skip
    """Records of several networks.

    Args:
        rates: The kept learning rates, one for each network.
        hidden: The networks.
        init: Their initialisation.
        losses: Last losses of those of which one is recorded.
        optimizer: Its name.
        loss_name: As in `Record`.
    """
    known = losses or {}
    return tuple(
        Record(shape, init, rate, known.get(shape, math.nan), optimizer, loss_name)
        for rate, shape in zip(rates, hidden, strict=True)
    )


def model_of(results: xr.Dataset, record: Record) -> int | None:
    """The index of the record's network; None where a smaller grid lacks it."""
    same = models_with(
        results, init=record.init, optimizer=record.optimizer, loss_name=record.loss_name
    )
    return next((m for m in same if shape_of(results, m) == record.hidden), None)


def beside(results: xr.Dataset, records: Sequence[Record]) -> pd.DataFrame:
    """A row for each record with what our repeats keep.

    ``inside`` says whether the record could be one of ours: whether some repeat keeps its rate,
    and its loss lies between our lowest and highest.

    Args:
        results: Of the same protocol.
        records: What was recorded; networks that the results lack are left out.
    """
    kept, places = kept_losses(results)
    rows = []
    for record in records:
        m = model_of(results, record)
        if m is None:
            continue
        rates = results["learning_rate"].values[places[m]]
        share = 100 * np.mean(np.isclose(rates, record.rate))
        has_rate, has_loss = not math.isnan(record.rate), not math.isnan(record.loss)
        low, high = kept[m].min(), kept[m].max()
        inside = (not has_rate or share > 0) and (not has_loss or low <= record.loss <= high)
        rows.append({
            "hidden": record.hidden, "init": record.init.replace("_", "-"),
            "optimizer": record.optimizer, "loss": record.loss_name.replace("l", "ℓ"),
            "recorded rate": f"{record.rate:g}" if has_rate else "–",
            "repeats that keep it (%)": f"{share:.0f}" if has_rate else "–",
            "our rates (%)": ", ".join(
                f"{rate:g}: {100 * n / len(rates):.0f}"
                for rate, n in sorted(Counter(rates.tolist()).items())
            ),
            "recorded last loss": f"{record.loss:.4g}" if has_loss else "–",
            "our median": f"{np.median(kept[m]):.4g}",
            "lowest to highest": f"{low:.4g} to {high:.4g}",
            "inside": "yes" if inside else "no",
        })  # fmt: skip
    return pd.DataFrame(rows)


def agreement(table: pd.DataFrame) -> str:
    """A caveat: how many records could be one of our repeats, and which could not.

    Args:
        table: From `beside`.
    """
    if not len(table):
        return "No record of the notebooks is of these data."
    outside = [
        f"{row['hidden']} ({row['init']}, {row['optimizer']}, {row['loss']})"
        for row in table.to_dict("records")
        if row["inside"] == "no"
    ]
    return (
        "The notebooks recorded one repeat of each network, on another random split. "
        f"{len(table) - len(outside)} of these {len(table)} records could be one of our repeats "
        "(see the table of records). This says whether the experiment is the same, and is no part "
        "of the criterion." + (f" Outside our repeats: {'; '.join(outside)}." if outside else "")
    )


def compared(
    results: xr.Dataset | None, records: Sequence[Record]
) -> tuple[dict[str, pd.DataFrame], str]:
    """The table of `beside` with its title, and the caveat of `agreement`.

    Args:
        results: Of the same protocol; None if the notebooks' dataset is not here.
        records: What was recorded.

    Returns:
        Both are empty without results.
    """
    if results is None:
        return {}, ""
    table = beside(results, records)
    return {"Recorded beside ours": table}, agreement(table)


def draw_last_losses(
    panels: Mapping[str, tuple[xr.Dataset, Sequence[int], Sequence[Record]]],
    *,
    title: str,
    size: tuple[float, float] = (4.4, 3.2),
) -> Figure:
    """The kept losses of all repeats as dots, a row for each network, with their medians.

    Args:
        panels: Title → results, indices of the models, and records; their losses are diamonds.
        title: Of the figure.
        size: Of a panel.
    """
    figure, axes = make_figure(1, len(panels), title=title, size=size)
    for ax, (name, (results, models, records)) in zip(axes[0], panels.items(), strict=True):
        kept, _ = kept_losses(results)
        inits = [str(results["init"].values[m]).replace("_", "-") for m in models]
        rows = [
            (
                f"{init} {shape_of(results, m)}" if len(set(inits)) > 1 else shape_of(results, m),
                kept[m],
                colour_of(int(results["depth"].values[m])),
            )
            for m, init in zip(models, inits, strict=True)
        ]
        known = {model_of(results, r): r.loss for r in records if not math.isnan(r.loss)}
        recorded = {place: known[m] for place, m in enumerate(models) if m in known}
        draw_dots(ax, rows, xlabel="last training loss", recorded=recorded)
        for place, (one, other) in enumerate(itertools.pairwise(inits)):
            if one != other:
                ax.axhline(place + 0.5, color="0.6", linewidth=0.7)
        ax.set_title(name + (" (◇: recorded)" if recorded else ""), fontsize=9)
    axes[0, 0].set_ylabel("hidden widths")
    return figure
