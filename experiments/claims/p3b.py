"""P3b: depth on ℓ4."""

from __future__ import annotations

import math

from experiments.claims.criteria import Claim, Effect, Finding, Verdict, above, judge
from experiments.claims.toolkit.depth_grid import depth_figure, depth_runs, elsewhere, speed_ups
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import effects_table
from experiments.claims.toolkit.sources import PAPER_2018

# "Orders of magnitude", plural, taken at its word.
_ORDERS_OF_MAGNITUDE = 100.0

# Targets besides the grid's own, as shares of the zero predictor's excess loss.
_LEVELS = (0.5, 0.2, 0.05)


def _size(first: list[Effect], levels: list[Effect], far: Verdict) -> str:
    """How large the speed-up is, beside the paper's, as text."""
    if far.holds:
        return "The paper's orders of magnitude are there."
    largest = max(
        (e for e in levels if not math.isnan(e.value)), key=lambda e: e.value, default=first[0]
    )
    return (
        f"That is a speed-up, but not orders of magnitude; at other targets the largest is "
        f"{largest.name}: {largest}. How the paper measured the size, how it scaled the data and "
        "how long it trained is not known to us, so we cannot say why ours is smaller; its rates "
        "were ten, half a decade apart, and a rate that misses one layer's narrow optimum would "
        "make the gain look larger."
    )


def _test(lab: Laboratory) -> Finding:
    runs = depth_runs(lab)
    name = next(iter(runs))
    effects = speed_ups(runs, "l4", (2, 3))
    first = effects[:2]
    levels = [
        effect
        for share in _LEVELS
        for effect in speed_ups({name: runs[name]}, "l4", (2, 3), share=share)
    ]
    faster = [above(e, 1.0) for e in first]
    far = [above(e, _ORDERS_OF_MAGNITUDE) for e in first]
    return Finding(
        verdict=judge([*faster, *far]),
        effects=tuple(effects),
        summary=f"Speed-ups over one layer on ℓ4: depth 2 {first[0]}, depth 3 {first[1]}. "
        f"{_size(first, levels, judge(far))}",
        sensitivity=elsewhere(effects[2:]),
        caveats=(
            "At the best rates of the deeper models runs diverge thousands of steps after they "
            "have reached the target; a run that reached it has.",
        ),
        tables={"Speed-ups": effects_table(effects), "At other targets": effects_table(levels)},
        figures=depth_figure(runs, "l4"),
    )


CLAIM = Claim(
    id="P3b",
    statement="On ℓ4, deeper is much faster, by orders of magnitude.",
    source=f"{PAPER_2018} and its authors' blog post (read)",
    setting="As P3a, with ℓ4.",
    criterion="Two parts for each of depths 2 and 3: the speed-up's interval lies above 1; and "
    "it lies above 100, two orders of magnitude being the least that the plural allows.",
    test=_test,
    paper_hours=1.9,
)
