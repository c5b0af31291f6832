"""Draws axis values of all kinds and orders of extension: an extended folder equals a fresh one.

    python -m tests.extensions --grids 100 --seed 0

Each grid is trained in its folder in several calls, each with more values, in another order, along
axes in another order. Every run is compared with a loop of gradient descent in plain Python, whose
hyper-parameters are Python's own numbers.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import implicit_accel as ia

NUM_STEPS = 5


def loss(params: Any, batch: Any, hp: Any) -> Any:  # noqa: ARG001
    """Depends on the sign, the type and the size of what it is given."""
    goal = (
        (hp["shift"] - 1) / 4 + jnp.where(hp["flag"], 0.5, 0.0) + {"a": 0.1, "b": 0.2}[hp["word"]]
    )
    return (params["w"] - goal) ** 2 + 10.0 ** -hp["power"] * params["w"] ** 2 + hp["extra"]


TASK = ia.from_loss(
    lambda params, batch, hp: loss(params, batch, hp) + 0 * jnp.sum(batch),
    init=lambda seed: {"w": np.array(seed % 7 / 7)}, data=np.ones((2, 1)),
)  # fmt: skip


def follow(hp: dict[str, Any]) -> list[float]:
    """The losses of one run."""
    w, losses = hp["seed"] % 7 / 7, []
    goal = (hp["shift"] - 1) / 4 + 0.5 * hp["flag"] + {"a": 0.1, "b": 0.2}[hp["word"]]
    ridge = 10.0 ** -hp["power"]
    for _ in range(NUM_STEPS + 1):
        losses.append((w - goal) ** 2 + ridge * w**2 + hp["extra"])
        w -= hp["learning_rate"] * (2 * (w - goal) + 2 * ridge * w)
    return losses


def draw(rng: Random) -> dict[str, list[Any]]:
    """Some values along every axis: whole numbers, fractions, both, truth values, words, seeds."""

    def some(values: list[Any]) -> list[Any]:
        return rng.sample(values, rng.randint(1, min(3, len(values))))

    # Mixtures are fractions, whichever value comes first.
    shift = rng.choice(
        [[0, 1, 2, 5], [0.5, 1.5, 2.25], [0.5, 1, 1.5, 2], [-3, 0, 4], [np.int64(0), 3]]
    )
    axes = {
        "learning_rate": some(rng.choice([[0.01, 0.1], [1, 0.5], [0.25, np.float32(0.125)]])),
        "seed": some([0, 3, 2**31, 2**32 - 1]),
        "shift": some(shift),
        "power": some(rng.choice([[1, 2, 3], [1.5, 2.5], [1, 2.5]])),
        "flag": some([True, False]),
        "word": some(["a", "b"]),
        "extra": some([0, 1]),
    }
    if all(isinstance(v, float) for v in shift) != all(isinstance(v, float) for v in axes["shift"]):
        # The first call decides the type: it has one of the fractions.
        axes["shift"] = list(dict.fromkeys([*axes["shift"], next(v for v in shift if v % 1)]))
    return axes


def kind(values: list[Any]) -> str:
    """The type that the rule gives an axis."""
    if isinstance(values[0], str | bool):
        return type(values[0]).__name__
    return "float" if any(isinstance(v, float | np.floating) for v in values) else "int"


def grow(
    rng: Random, axes: dict[str, list[Any]], pool: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    """More values along some axes, in other orders, without another type."""
    grown = {}
    for name, values in axes.items():
        more = [v for v in pool[name] if v not in values and rng.random() < 0.5]
        wider = list(dict.fromkeys([*values, *more]))
        same = kind(wider) == kind(values) or name == "learning_rate"
        grown[name] = rng.sample(wider if same else values, len(wider if same else values))
    names = rng.sample(list(grown), len(grown))
    return {name: grown[name] for name in names}


def problems(seed: int, folder: Path) -> list[str]:
    """What goes wrong with one grid; nothing if all is well."""
    rng = Random(seed)
    first = draw(rng)
    pool = {
        "learning_rate": [0.01, 0.1, 0.5, 1], "seed": [0, 1, 3, 2**31], "flag": [True, False],
        "shift": [0, 1, 2, 3.5, 0.5], "power": [1, 2, 2.5], "word": ["a", "b"], "extra": [0, 1],
    }  # fmt: skip
    calls = [first]
    for _ in range(rng.randint(1, 2)):
        calls.append(grow(rng, calls[-1], pool))
    found = []
    for number, axes in enumerate(calls):
        runs = ia.sweep(
            TASK, axes=axes, optimizer=lambda hp: optax.sgd(hp["learning_rate"]),
            num_steps=NUM_STEPS, folder=folder,
        )  # fmt: skip
        if runs["loss"].dims != (*axes, "step"):
            found.append(f"grid {seed}, call {number}: dimensions {runs['loss'].dims}")
        for values in itertools.product(*axes.values()):
            hp = dict(zip(axes, values, strict=True))
            place = [axes[name].index(hp[name]) for name in axes]
            ours, expected = runs["loss"].values[tuple(place)], follow(hp)
            if not np.allclose(ours, expected, rtol=1e-4, atol=1e-6):
                found.append(f"grid {seed}, call {number}, {hp}: {ours}, expected {expected}")
    return found


def main() -> None:
    """Tries many grids and prints what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grids", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    failures = 0
    for number in range(options.grids):
        with tempfile.TemporaryDirectory() as folder:
            found = problems(options.seed * 10**6 + number, Path(folder) / "run")
        failures += bool(found)
        print(*found[:3], sep="\n", end="\n" if found else "", flush=True)
    print(f"{options.grids} grids, {failures} wrong")
    raise SystemExit(failures > 0)


if __name__ == "__main__":
    main()
