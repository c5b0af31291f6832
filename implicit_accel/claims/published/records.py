"""What the student project's notebooks recorded, beside the distribution of our repeats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from implicit_accel.claims.published.student import kept_losses, shape_of

SEVEN = ("[]", "[1]", "[10]", "[64]", "[1, 1]", "[10, 10]", "[64, 64]")
"""The notebooks' networks, by hidden widths, in their order."""


@dataclass(frozen=True)
class Record:
    """One repeat of one network, as a notebook recorded it.

    Attributes:
        hidden: Its hidden widths, see `shape_of`.
        init: Its start.
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
        rates: That were kept, one for each network.
        hidden: The networks.
        init: Their start.
        losses: Last losses of those of which one is recorded.
        optimizer: Its name.
        loss_name: As in `Record`.
    """
    known = losses or {}
    return tuple(
        Record(shape, init, rate, known.get(shape, math.nan), optimizer, loss_name)
        for rate, shape in zip(rates, hidden, strict=True)
    )


def _model(results: xr.Dataset, record: Record) -> int | None:
    """The number of the record's network; None where a smaller grid lacks it."""
    for m in range(results.sizes["model"]):
        here = (shape_of(results, m), *(str(results[name].values[m]) for name in _SAME))
        if here == (record.hidden, record.init, record.optimizer, record.loss_name):
            return m
    return None


_SAME = ("init", "optimizer", "loss_name")


def beside(results: xr.Dataset, records: Sequence[Record]) -> pd.DataFrame:
    """A row for each record with what our repeats keep.

    ``inside`` says whether the record might be one of ours: whether some repeat keeps its rate,
    and its loss lies between our lowest and highest.

    Args:
        results: Of the same protocol.
        records: What was recorded; networks that the results lack are left out.
    """
    kept, places = kept_losses(results)
    rates = results["learning_rate"].values
    rows = []
    for record in records:
        m = _model(results, record)
        if m is None:
            continue
        counts = Counter(rates[places[m]].tolist())
        share = 100 * np.mean(np.isclose(rates[places[m]], record.rate))
        low, high = np.quantile(kept[m], [0.1, 0.9], method="inverted_cdf")
        has_rate, has_loss = not math.isnan(record.rate), not math.isnan(record.loss)
        inside = (not has_rate or share > 0) and (
            not has_loss or kept[m].min() <= record.loss <= kept[m].max()
        )
        rows.append({
            "hidden": record.hidden, "start": record.init.replace("_", "-"),
            "optimizer": record.optimizer, "loss": record.loss_name.replace("l", "ℓ"),
            "recorded rate": f"{record.rate:g}" if has_rate else "–",
            "repeats that keep it (%)": f"{share:.0f}" if has_rate else "–",
            "our rates (%)": ", ".join(
                f"{rate:g}: {100 * n / kept.shape[1]:.0f}" for rate, n in sorted(counts.items())
            ),
            "recorded last loss": f"{record.loss:.4g}" if has_loss else "–",
            "our median": f"{np.median(kept[m]):.4g}",
            "10 % to 90 %": f"{low:.4g} to {high:.4g}",
            "lowest to highest": f"{kept[m].min():.4g} to {kept[m].max():.4g}",
            "inside": "yes" if inside else "no",
        })  # fmt: skip
    return pd.DataFrame(rows)


def agreement(table: pd.DataFrame) -> str:
    """A caveat: how many records might be one of our repeats, and which could not.

    It is no part of a criterion: a record is of one repeat on another random split, and says
    whether the experiment is the same, not whether the claim is right.

    Args:
        table: From `beside`.
    """
    if not len(table):
        return "No record of the notebooks is of these data."
    outside = [
        f"{row['hidden']} ({row['start']}, {row['optimizer']}, {row['loss']}: recorded "
        + " and ".join(
            words
            for words, known in (
                (f"rate {row['recorded rate']}", row["recorded rate"] != "–"),
                (f"loss {row['recorded last loss']}", row["recorded last loss"] != "–"),
            )
            if known
        )
        + f"; ours {row['our rates (%)']} and {row['lowest to highest']})"
        for row in table.to_dict("records")
        if row["inside"] == "no"
    ]
    return (
        f"The notebook recorded one repeat of each network. Of {len(table)} such records "
        f"{len(table) - len(outside)} could be one of our repeats: some repeat keeps that rate, "
        "and the loss, where one is recorded, lies between our lowest and highest. This says "
        "whether the experiment is the same, not whether the claim is right, and is no part of "
        "the criterion; the notebook's random split is not ours."
        + (f" Not so: {'; '.join(outside)}." if outside else "")
    )
