"""What is timed: data, models and grids, shared by all contenders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

DEPTH_WIDTHS_STUDENT = ((), (1,), (10,), (64,), (1, 1), (10, 10), (64, 64))
RATES_STUDENT = (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)


@dataclass(frozen=True)
class Workload:
    """A steady-state workload on the Ethanol problem (or its stand-in), n × d = 2565 × 128.

    Attributes:
        name: W3 …
        title: What it is.
        p: The loss is mean |r|^p / p.
        hidden: Hidden widths of the networks; each takes an equal share of the configurations.
        num_rates: Learning rates, so small that no run diverges.
        num_seeds: Seeds.
        optimizer: ``sgd`` or ``adam``.
        steps: Steps that each contender runs in one timing, by its letter.
        sample: Configurations that the one-at-a-time contenders (a, c) run: their time per
            configuration does not depend on how many there are.
    """

    name: str
    title: str
    p: int
    hidden: tuple[tuple[int, ...], ...]
    num_rates: int
    num_seeds: int
    optimizer: str
    steps: dict[str, int]
    sample: int = 3

    @property
    def num_configurations(self) -> int:
        """Runs in the grid."""
        return len(self.hidden) * self.num_rates * self.num_seeds

    @property
    def rates(self) -> np.ndarray:
        """Learning rates."""
        top = 1e-4 if self.optimizer == "sgd" else 1e-5
        return np.geomspace(top / 100, top, self.num_rates)


_THIN = ((), (1,), (1, 1))

WORKLOADS = {
    w.name: w
    for w in (
        Workload(
            "W3", "paper ℓ4: width 1, depths 1-3, 24 rates × 16 seeds", 4, _THIN, 24, 16, "sgd",
            {"a": 300, "b": 6, "c": 600, "d": 6, "e": 600},
        ),
        Workload(
            "W4", "paper ℓ2: width 1, depths 1-3, 24 rates × 16 seeds", 2, _THIN, 24, 16, "sgd",
            {"a": 300, "b": 6, "c": 600, "d": 6, "e": 20_000},
        ),
        Workload(
            "W5-SGD", "wide ℓ2: hidden [64, 64], 768 configurations, SGD", 2, ((64, 64),), 24, 32,
            "sgd", {"a": 150, "b": 6, "c": 300, "d": 1, "e": 2000},
        ),
        Workload(
            "W5-Adam", "wide ℓ2: hidden [64, 64], 768 configurations, Adam", 2, ((64, 64),), 24, 32,
            "adam", {"a": 150, "b": 6, "c": 300, "d": 1, "e": 500},
        ),
    )
}  # fmt: skip


def load_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features (n, d) and label (n,), float32, from an .npz file."""
    with np.load(path, allow_pickle=False) as stored:
        return stored["features"].astype(np.float32), stored["targets"].astype(np.float32)


def initial_weights(d: int, hidden: tuple[int, ...], count: int, seed: int = 0) -> list[np.ndarray]:
    """Uniform ±1/√fan_in weight matrices (count, outputs, inputs), float32."""
    rng = np.random.default_rng(seed)
    widths = (d, *hidden, 1)
    return [
        rng.uniform(-1, 1, (count, widths[j + 1], widths[j])).astype(np.float32)
        / np.sqrt(widths[j], dtype=np.float32)
        for j in range(len(widths) - 1)
    ]
