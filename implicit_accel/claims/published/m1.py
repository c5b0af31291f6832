"""M1: several outputs, and optimizers that treat singular values the other way."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from matplotlib.figure import Figure

import implicit_accel as ia
from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.drawing import colour_of, make_figure
from implicit_accel.claims.estimators import compare, median, model_number, side_of
from implicit_accel.claims.plots import Lines
from implicit_accel.claims.published.theory import crossings
from implicit_accel.observables import Point

SIZE = 12
SINGULAR_VALUES = (1.0, 0.5, 0.25, 0.125)
INITIAL = 0.01
"""The singular values of the initial end-to-end matrix, at every depth."""
ZERO_LOSS = 0.5
LEARNT = 0.9
"""A singular value is learnt at this share of its size."""
DEPTHS = (1, 2, 3, 4)

FULL, COMPLETION = "all entries", "half of the entries"
GD, MUON, SHAMPOO = "gradient descent", "Muon", "Shampoo"
METHODS = (GD, MUON, SHAMPOO)

SPREAD = "steps of the smallest singular value over the largest's"
SPEED_UP = "speed-up to 1 % of the zero predictor's loss"
UNSEEN = "squared error of the unseen entries"


class ShampooState(NamedTuple):
    """The sums of ``G Gᵀ`` and ``Gᵀ G`` of every matrix."""

    left: Any
    right: Any


def inverse_fourth_root(A: jax.Array, ridge: float) -> jax.Array:
    """``(A + ridge ‖A‖ I)^(−1/4)`` of a positive semi-definite matrix, by products alone.

    The coupled Newton iteration of Guo & Higham 2006, "A Schur–Newton method for the matrix pth
    root and its inverse": X ← X T, M ← T⁴ M with T = (5 I − M)/4, from M = z A, X = z^(1/4) I with
    z = 5/(2 ‖A‖). Small eigenvalues of M grow 2.4-fold in each of the 30 steps.
    """
    unit = jnp.eye(len(A), dtype=A.dtype)
    norm = jnp.maximum(jnp.trace(A), jnp.finfo(A.dtype).tiny)
    z = 2.5 / ((1 + ridge * len(A)) * norm)

    def step(_: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        X, M = state
        T = (5 * unit - M) / 4
        square = T @ T
        return X @ T, square @ square @ M

    X, _ = jax.lax.fori_loop(0, 30, step, (unit, z * (A + ridge * norm * unit)))
    return X * z**0.25


def scale_by_shampoo(decay: float = 0.9, ridge: float = 1e-5) -> optax.GradientTransformation:
    """``L^(−1/4) G R^(−1/4)`` with moving averages L of G Gᵀ and R of Gᵀ G.

    Source: Gupta, Koren & Singer 2018, "Shampoo: Preconditioned Stochastic Tensor Optimization",
    with averages in place of sums.
    """

    def init(params: Any) -> ShampooState:
        return ShampooState(
            jax.tree.map(lambda W: jnp.zeros((len(W), len(W)), W.dtype), params),
            jax.tree.map(lambda W: jnp.zeros((W.shape[1],) * 2, W.dtype), params),
        )

    root = functools.partial(inverse_fourth_root, ridge=ridge)

    def update(gradients: Any, state: ShampooState, params: Any = None) -> tuple[Any, ShampooState]:
        del params
        mix = functools.partial(jax.tree.map, lambda old, new: decay * old + (1 - decay) * new)
        state = ShampooState(
            mix(state.left, jax.tree.map(lambda G: G @ G.T, gradients)),
            mix(state.right, jax.tree.map(lambda G: G.T @ G, gradients)),
        )
        scaled = jax.tree.map(
            lambda G, L, R: root(L) @ G @ root(R), gradients, state.left, state.right
        )
        return scaled, state

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def optimizer_of(method: str, hp: Mapping[str, Any]) -> optax.GradientTransformation:
    """The optax transformation of a method."""
    rate = hp["learning_rate"]
    if method == MUON:
        return optax.contrib.muon(rate, beta=0.9, nesterov=False)
    if method == SHAMPOO:
        return optax.chain(scale_by_shampoo(), optax.scale_by_learning_rate(rate))
    return optax.sgd(rate)


def end_to_end(layers: list[jax.Array]) -> jax.Array:
    """The product W_N … W_1."""
    return functools.reduce(lambda product, W: W @ product, layers)


def progress_of(value: int, U: np.ndarray, V: np.ndarray, point: Point) -> jax.Array:
    """``uᵀ W v / σ`` of one singular value σ of the solution."""
    W = end_to_end(point.parameters)
    return U[:, value] @ W @ V[value] / SINGULAR_VALUES[value]


def make_task(mask: np.ndarray, solution: np.ndarray, name: str) -> ia.LossTask:
    """Fitting some entries of a matrix by a product of matrices, from small orthogonal ones.

    The loss is half the sum of ``(W − M)²`` over these entries, over that of ``M²``: ½ at zero.
    """

    # On the host: with these matrices drawn in it, the compiled grid did not end on CPUs.
    def init(seed: int, hp: Mapping[str, Any]) -> list[np.ndarray]:
        depth = hp["depth"]
        drawn = np.random.default_rng(seed).standard_normal((depth, SIZE, SIZE))
        return [(INITIAL ** (1 / depth) * np.linalg.qr(A)[0]).astype(np.float32) for A in drawn]

    def loss(layers: list[jax.Array], batch: Any) -> jax.Array:
        rows, seen, truth = batch
        error = seen * (end_to_end(layers)[rows] - truth)
        return 0.5 * jnp.sum(error**2) / jnp.sum(seen * truth**2)

    return ia.from_loss(
        loss, init=init, data=(np.arange(SIZE), mask, solution),
        held_out=(np.arange(SIZE), 1 - mask, solution) if (mask == 0).any() else None,
        optimum=0.0, reference_loss=ZERO_LOSS, name=name,
    )  # fmt: skip


def run(context: Context) -> Found:
    """Gradient descent, Muon and Shampoo at depths 1 to 4, with all entries and half of them."""
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0] for _ in range(2))
    solution = U[:, : len(SINGULAR_VALUES)] * SINGULAR_VALUES @ V[: len(SINGULAR_VALUES)]
    masks = {
        FULL: np.ones((SIZE, SIZE)),
        COMPLETION: (rng.random((SIZE, SIZE)) < 0.5).astype(float),
    }
    record = {f"s{i}": functools.partial(progress_of, i, U, V) for i in range(len(SINGULAR_VALUES))}
    runs: dict[str, dict[str, xr.Dataset]] = {}
    for name, mask in masks.items():
        task = make_task(mask, solution, name)
        for method in METHODS:
            runs.setdefault(name, {})[method] = context.task(
                task,
                axes={
                    "depth": ia.static(*context.pick((1, 2), DEPTHS, DEPTHS)),
                    "learning_rate": [
                        float(f"{r:.4g}")
                        for r in np.geomspace(3e-3, 3, context.pick(5, 25, 61))
                    ],
                    "seed": range(context.pick(2, 8, 20)),
                },
                optimizer=functools.partial(optimizer_of, method),
                num_steps=context.pick(200, 2000, 20_000),
                target=0.01 * ZERO_LOSS, record=record, observations_per_decade=100,
            )  # fmt: skip
    return Found(runs=runs, figures={"singular_values": draw(runs[FULL])})


def _best(results: xr.Dataset, depth: int) -> tuple[int, int]:
    """Numbers of a depth's model and of its best stable rate, −1 if none reaches the target."""
    model = model_number(results, depth=depth)
    side = side_of(results, model, None, "stable")
    best = int(side.best(side.all_seeds)[0])
    return model, best if best >= 0 and np.isfinite(np.median(side.steps[best])) else -1


def learning_times(results: xr.Dataset, depth: int) -> np.ndarray | None:
    """(value, seed) steps at which singular values are learnt, at the best stable rate."""
    model, best = _best(results, depth)
    if best < 0:
        return None
    steps = results["observation_step"].values
    # A value is learnt where what is missing falls to a tenth.
    return np.stack([
        crossings(steps, np.maximum(1 - results[f"s{i}"].values[model, best], 1e-9), 1 - LEARNT)
        for i in range(len(SINGULAR_VALUES))
    ])  # fmt: skip


def spread(runs: dict[str, xr.Dataset], method: str, depth: int) -> Effect | None:
    """How much longer the smallest singular value takes than the largest."""
    if depth not in runs[method]["depth"].values:
        return None
    times = learning_times(runs[method], depth)
    if times is None:
        return Effect("", np.nan, note="no stable rate reaches the target")
    learnt = np.isfinite(times[0])  # also in runs that first reached the target and left it
    return median(times[-1, learnt] / times[0, learnt], least=0)


def speed_up(runs: dict[str, xr.Dataset], method: str, depth: int) -> Effect | None:
    """The speed-up over depth 1 with the same optimizer, at stable rates."""
    results = runs[method]
    if depth not in results["depth"].values:
        return None
    models = (model_number(results, depth=n) for n in (depth, 1))
    return compare(results, *models, rule="stable")


def unseen(runs: dict[str, xr.Dataset], method: str, depth: int) -> Effect | None:
    """The last squared error of the unseen entries over their own squares."""
    results = runs[method]
    if "held_out_loss" not in results or depth not in results["depth"].values:
        return None
    model, best = _best(results, depth)
    if best < 0:
        return Effect("", np.nan, note="no stable rate reaches the target")
    return median(2 * results["held_out_loss"].values[model, best, :, -1], unit="", least=0)


def draw(runs: dict[str, xr.Dataset]) -> Figure:
    """Steps at which singular values are learnt, a panel for each optimizer."""
    figure, axes = make_figure(
        1, len(METHODS), title="When singular values are learnt, each at its best stable rate",
        size=(2.8, 2.8),
    )  # fmt: skip
    for ax, method in zip(axes[0], METHODS, strict=True):
        for depth in (
            runs[method]["depth"].values[np.argsort(runs[method]["depth"].values)].tolist()
        ):
            times = learning_times(runs[method], depth)
            if times is not None:
                ax.plot(
                    SINGULAR_VALUES, np.median(times, axis=1), "o-", label=f"depth {depth}",
                    color=colour_of(depth),
                )  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="singular value", title=method)
        ax.set_xticks(SINGULAR_VALUES, [f"{s:g}" for s in SINGULAR_VALUES])
        ax.xaxis.set_minor_formatter(lambda *_: "")
    axes[0, 0].set_ylabel("steps to 90 % of it")
    if axes[0, 0].get_legend_handles_labels()[0]:
        axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


CLAIM = Claim(
    id="M1",
    statement="With several outputs depth learns large singular values first, and Muon and Shampoo "
    "small ones.",
    source="This project's question; for depth Saxe et al. 2014, Arora et al. 2019",
    is_read=None,
    run=run,
    choices=(),
    measures=(
        Measure(SPREAD, spread, {"method": METHODS, "depth": DEPTHS}),
        Measure(SPEED_UP, speed_up, {"method": METHODS, "depth": DEPTHS[1:]}),
        Measure(UNSEEN, unseen, {"method": METHODS, "depth": DEPTHS}),
    ),
    checks=(
        Check(SPREAD, {"problem": FULL, "method": GD, "depth": 2}, low=1.0),
        Check(SPREAD, {"problem": FULL, "method": MUON, "depth": 1}, high=1.0),
        Check(SPREAD, {"problem": FULL, "method": SHAMPOO, "depth": 1}, high=1.0),
    ),
    plots={
        "speed_ups": Lines(
            SPEED_UP, at={"problem": FULL}, x="depth", lines="method",
            title="Depth with several outputs", xlabel="depth",
            ylabel="speed-up over depth 1, same optimizer",
        ),
        "unseen": Lines(
            UNSEEN, x="depth", lines="method", title="Unseen entries at the end of training",
            xlabel="depth", ylabel="squared error over the zero predictor's",
        ),
    },
    minutes=6.0,
    paper_hours=1.0,
)  # fmt: skip
