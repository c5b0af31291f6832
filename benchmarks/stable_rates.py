"""Holds `ia.stable_rate` against sweeps across it: eight small models, three optimizers.

    python -m benchmarks.stable_rates
    python -m benchmarks.stable_rates --models linear,lora --store rows.json

For each pair the rate is estimated with seeds 0 to 2 and 100 steps. Then seeds 10 to 12 are trained
for 200 steps at rates in ratios of 1.2 around the estimate, and at larger ones in ratios of 4.
Prints the tables of docs/theory.md. Rows in the store are not computed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import implicit_accel as ia
from implicit_accel.stable_rates import judge
from implicit_accel.user_module import run_file

NUM_STEPS, SEEDS = 200, range(10, 13)
RATIO, REACH = 1.2, 6
"""Rates of the sweep: RATIO**k times the estimate for |k| ≤ REACH, and LARGER times its end."""
LARGER = 4.0 ** np.arange(1, 5)
OPTIMIZERS = ("sgd", "momentum", "adam")
_ROWS, _FEW = 256, 32

examples: Any = run_file(Path(__file__).parents[1] / "docs/examples/expand_models.py", "")


def linear() -> ia.LossTask:
    """Least squares on 12 features of different scales."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((_ROWS, 12)) * np.geomspace(1, 0.1, 12)
    y = X @ rng.standard_normal(12) + 0.1 * rng.standard_normal(_ROWS)

    def loss(params: Any, batch: Any) -> jax.Array:
        return jnp.mean((batch[0] @ params - batch[1]) ** 2) / 2

    return ia.from_loss(loss, init=lambda key: jax.random.normal(key, (12,)), data=(X, y))


def recurrent() -> ia.LossTask:
    """A recurrent network of 16 units that adds up twelve numbers."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((_ROWS, 12))

    def init(key: jax.Array) -> Any:
        a, b, c = jax.random.split(key, 3)
        return {
            "in": jax.random.normal(a, (16,)),
            "within": jax.random.normal(b, (16, 16)) / 4,
            "out": jax.random.normal(c, (16,)) / 4,
        }

    def loss(params: Any, batch: Any) -> jax.Array:
        x, labels = batch

        def step(h: jax.Array, now: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(now[:, None] * params["in"] + h @ params["within"]), None

        h, _ = jax.lax.scan(step, jnp.zeros((len(x), 16)), x.T)
        return jnp.mean((h @ params["out"] - labels) ** 2) / 2

    return ia.from_loss(loss, init=init, data=(X, 0.3 * X.sum(axis=1)))


def _few(make: Callable[[], ia.LossTask]) -> Callable[[], ia.LossTask]:
    """A task on its first 32 rows: it takes minutes otherwise."""

    def made() -> ia.LossTask:
        task = make()
        return dataclasses.replace(task, data=jax.tree.map(lambda a: a[:_FEW], task.data))

    return made


MODELS: dict[str, tuple[Callable[[], ia.LossTask], str]] = {
    "linear": (linear, "least squares"),
    "lora": (examples.lora, "LoRA adapter"),
    "tabular": (examples.tabular, "tanh network, Huber loss"),
    "recurrent": (recurrent, "recurrent network"),
    "mlp": (examples.mlp, "ReLU perceptron"),
    "cnn": (_few(examples.cnn), "CNN"),
    "resnet": (_few(examples.resnet), "residual CNN"),
    "transformer": (_few(examples.transformer), "transformer"),
}


def measure(task: ia.LossTask, optimizer: str) -> dict[str, float]:
    """A row: the estimates, their cost, and what a sweep finds."""
    found = ia.stable_rate(task, optimizer)
    fine = found.rate * RATIO ** np.arange(-REACH, REACH + 1)
    rates = np.concatenate([fine, fine[-1] * LARGER])
    runs = ia.sweep(
        task, axes={"learning_rate": rates, "seed": SEEDS}, optimizer=ia.Optimizer(optimizer),
        num_steps=NUM_STEPS, records_per_decade=1000,
    )  # fmt: skip
    losses = runs["loss"].values.astype(float)
    _, last = judge(losses, runs["step"].values)
    last = int(np.sort(last)[len(last) // 2])
    # The weaker condition: the run does not diverge, and ends below its first loss.
    ends = losses[:, :, runs["step"].values >= 0.9 * NUM_STEPS].mean(axis=2)
    survives = np.median(ends < losses[:, :, 0], axis=1) > 0
    return {
        "critical": found.critical_at_start,
        "lanczos": found.lanczos_at_start,
        "estimate": found.rate,
        "is_lower_bound": float(found.is_lower_bound),
        "forward_passes": found.cost.forward_passes,
        "gradients": found.cost.gradients,
        "products": found.cost.products,
        "stable": float(rates[last]) if 0 <= last < len(fine) - 1 else math.nan,
        "survives": float(rates[survives][-1]) if survives.any() else math.nan,
        "survives_all": float(survives[-1]),
    }


def factor(estimate: float, truth: float) -> float:
    """By which an estimate is off: 1 for none."""
    return max(estimate / truth, truth / estimate)


def rows_table(rows: dict[str, dict[str, float]]) -> list[str]:
    """The table of all pairs."""
    lines = [
        "| model | optimizer | critical rate | Lanczos rate | `stable_rate` | sweep | off by | "
        "does not diverge up to |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for key, row in rows.items():
        name, optimizer = key.split("/")
        is_known = math.isfinite(row["stable"])
        off = f"{factor(row['estimate'], row['stable']):.2f}" if is_known else "–"
        stable = f"{row['stable']:.3g}" if is_known else "not bracketed"
        bound = "≥ " if row["survives_all"] else ""
        lines.append(
            f"| {MODELS[name][1]} | {optimizer} | {row['critical']:.3g} | {row['lanczos']:.3g} | "
            f"{'≥ ' if row['is_lower_bound'] else ''}{row['estimate']:.3g} | {stable} | {off} | "
            f"{bound}{row['survives']:.3g} |"
        )
    return lines


def summary_table(rows: dict[str, dict[str, float]]) -> list[str]:
    """Median and worst factors by estimate and optimizer, and the median cost."""
    lines = [
        "| estimate | optimizer | off by, median | off by, worst | forward passes | gradients | "
        "Hessian products |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    columns = {
        "critical rate at the start": "critical",
        "Lanczos rate at the start": "lanczos",
        "`stable_rate`": "estimate",
    }
    for words, column in columns.items():
        for optimizer in OPTIMIZERS:
            own = [r for k, r in rows.items() if k.endswith(f"/{optimizer}")]
            off = [factor(r[column], r["stable"]) for r in own if math.isfinite(r["stable"])]
            cost = ["", "", ""]
            if column == "estimate" and own:
                names = ("forward_passes", "gradients", "products")
                cost = [f"{np.median([r[n] for r in own]):,.0f}" for n in names]
            if off:
                lines.append(
                    f"| {words} | {optimizer} | {np.median(off):.2g} | {max(off):.2g} | "
                    f"{' | '.join(cost)} |"
                )
    return lines


def main() -> None:
    """Measures what the store lacks, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--store", type=Path, help="A JSON file of rows.")
    given = parser.parse_args()
    ia.use_cpu_devices()
    rows = json.loads(given.store.read_text()) if given.store and given.store.exists() else {}
    names = given.models.split(",")
    for name in names:
        for optimizer in OPTIMIZERS:
            key = f"{name}/{optimizer}"
            if key not in rows:
                rows[key] = measure(MODELS[name][0](), optimizer)
                print(key, rows[key], flush=True)
                if given.store:
                    given.store.write_text(json.dumps(rows, indent=1))
    rows = {k: rows[k] for n in names for k in rows if k.startswith(f"{n}/")}
    print("\n".join([*summary_table(rows), "", *rows_table(rows)]))


if __name__ == "__main__":
    main()
