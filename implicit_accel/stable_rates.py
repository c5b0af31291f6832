r"""The largest stable learning rate of any model and optimizer, from curvature and short trainings.

Two estimates come from the curvature at given parameters θ, with u the optimizer's update at
learning rate 1, so that a step is θ → θ − η u:

* The *critical rate* η_c is the smallest rate at which the step raises the loss,
  L(θ − η_c u) > L(θ), found by forward passes with doubling and bisection. Its inverse is the
  critical sharpness λ_c = 2/η_c ("A Scalable Measure of Loss Landscape Curvature for Analyzing the
  Training Dynamics of LLMs", arXiv 2601.16979). On a quadratic η_c = 2 gᵀu / uᵀHu.
* The *Lanczos rate* is the optimizer's threshold over the largest eigenvalue λ of the Hessian H,
  preconditioned where the optimizer is: 2/λ for gradient descent, (2 + 2β)/λ for momentum,
  (2 + 2β₁)/((1 − β₁) λ) for Adam; see `observables.stability_threshold`. On a quadratic it is the
  largest stable rate of gradient descent and momentum, exactly.

Both are rates of one point. Networks survive other rates, mostly larger ones, since the sharpness
falls in the first steps (catapult: Lewkowycz et al. 2020, arXiv 2003.02218). Nor does a training at
a constant rate η say how far η could be raised: it moves to where the sharpness is the threshold
over η, whatever η is (Cohen et al. 2021). So `stable_rate` tests rates by short trainings of many
rates and seeds at once, upwards from the estimate at the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, Int

from implicit_accel.engine.step import Program
from implicit_accel.errors import UserError
from implicit_accel.experiment import RATES, SEEDS
from implicit_accel.observables import (
    Point,
    preconditioner,
    scaled_sharpness,
    stability_threshold,
)
from implicit_accel.optimizers import Optimizer
from implicit_accel.sweep import sweep
from implicit_accel.tasks.grid import MakeOptimizer, TaskSweep
from implicit_accel.tasks.loss_task import LossTask

# The ratio of two rates between which the critical rate is close enough, and a bound on passes.
_CLOSE, _MOST_PASSES = 1.001, 70

# Rates of a round of the test, their ratio in the first one, and the ratio of two neighbours below
# which the bracket is not refined.
_ROUND, _COARSE, _FINE = 8, 4.0, 1.2
# The first round's smallest rate is the estimate over this.
_BELOW = 16.0
# How often rates move on to larger or smaller ones: by 4⁸ each time.
_MOST_SHIFTS = 3
_SMALLEST, _LARGEST = 1e-12, 1e12

# A run blows up above this multiple of the best rate's progress over the first loss.
_BLOWN_UP = 10.0
# The share of the best rate's progress that stable runs make, on the mean over the last steps.
_PROGRESS, _LAST = 0.5, 0.1

_RECORDS_PER_DECADE = 3
_LEAST_STEPS = 10


@dataclass(frozen=True)
class Cost:
    """What an estimate took, over all seeds.

    Attributes:
        forward_passes: Evaluations of the loss alone.
        gradients: Evaluations of the loss and its gradient: steps of training.
        products: Hessian–vector products, each about as much work as two gradients.
    """

    forward_passes: int
    gradients: int
    products: int


@dataclass(frozen=True)
class StableRate:
    """The largest stable learning rate, as `stable_rate` finds it.

    Attributes:
        rate: The median over seeds of ``rates``, of two the smaller.
        is_lower_bound: Whether ``rate`` is only a lower bound: the largest rate that was tested,
            and stable. Without a test the rate is an estimate and bounds nothing: networks mostly
            survive larger rates, but where the sharpness rises not even that one.
        rates: (seed,) the largest rate of the test that is stable, the next larger one not being
            so; NaN where none is. At most ``resolution`` below the first unstable one.
        resolution: The ratio of the first unstable to the largest stable rate, at the median seed;
            NaN for bounds.
        steps: (record,) steps of a training at ``rate`` at which curvature was measured, 0 first.
        critical: (seed, record) the critical rate η_c there; NaN where the update is no descent
            direction, inf where no rate raises the loss.
        lanczos: (seed, record) the Lanczos rate there; NaN where no threshold is known for the
            optimizer, inf without positive curvature.
        tested: (rate,) the rates of the test, increasing.
        stable: (rate, seed) whether they were stable.
        num_steps: Steps of each training of the test.
        cost: Of all of it.
    """

    rate: float
    is_lower_bound: bool
    rates: Float[np.ndarray, " seeds"]
    resolution: float
    steps: Int[np.ndarray, " records"]
    critical: Float[np.ndarray, "seeds records"]
    lanczos: Float[np.ndarray, "seeds records"]
    tested: Float[np.ndarray, " rates"]
    stable: Bool[np.ndarray, "rates seeds"]
    num_steps: int
    cost: Cost

    @property
    def critical_at_start(self) -> float:
        """The critical rate at the initial parameters, the median over seeds."""
        return float(np.median(self.critical[:, 0]))

    @property
    def lanczos_at_start(self) -> float:
        """The Lanczos rate at the initial parameters, the median over seeds."""
        return float(np.median(self.lanczos[:, 0]))


class _Measured(NamedTuple):
    """What is measured at a point: `StableRate` explains the rates."""

    critical: jax.Array
    lanczos: jax.Array
    forward_passes: jax.Array
    products: jax.Array


def critical_rate(
    along: Callable[[jax.Array], jax.Array], first: jax.Array, guess: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The smallest rate at which a step raises the loss: doubling, then bisection.

    Args:
        along: η ↦ L(θ − η u), a scalar of the guess's type.
        first: L(θ).
        guess: A rate above 0 to begin at. From a rate that raises the loss the search goes down:
            where the loss rises and falls again along the step, that finds the first rise below it.

    Returns:
        The rate, to 0.1 %: inf if none raises the loss, 0 if every one does; and the number of
        evaluations.
    """

    def goes_on(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        low, high, count = state
        return (high > _CLOSE * low) & (count < _MOST_PASSES)

    def narrow(
        state: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        # low does not raise the loss, 0 if no such rate is known; high does, inf if none is.
        low, high, count = state
        middle = jnp.sqrt(low) * jnp.sqrt(high)
        outwards = jnp.where(low > 0, 2 * low, jnp.where(high < jnp.inf, high / 2, guess))
        rate = jnp.where((low > 0) & (high < jnp.inf), middle, outwards)
        raises = ~(along(rate) <= first)  # NaN is a rise
        return jnp.where(raises, low, rate), jnp.where(raises, rate, high), count + 1

    nothing = jnp.zeros_like(guess), jnp.full_like(guess, jnp.inf), jnp.int32(0)
    low, high, count = lax.while_loop(goes_on, narrow, nothing)
    return jnp.sqrt(low) * jnp.sqrt(jnp.where(low > 0, high, 0)), count


class _Curvature:
    """Measures the curvature at a point, for several observables that are read one after another.

    Args:
        program: Of the task, for its optimizer.
        optimizer: The same as the user gave it.
    """

    def __init__(self, program: Program, optimizer: MakeOptimizer) -> None:
        self._program = program
        self._settings, self.threshold = _threshold(optimizer)
        # Observables are evaluated one by one: those of the same point share one measurement.
        self._last: tuple[Any, _Measured] | None = None

    def observables(self) -> dict[str, Callable[[Point], jax.Array]]:
        """The fields of `_Measured` by name."""
        return {
            name: lambda point, name=name: getattr(self._at(point), name).astype(
                jax.tree.leaves(point.trained)[0].dtype
            )
            for name in _Measured._fields
        }

    def _at(self, point: Point) -> _Measured:
        if self._last is None or self._last[0] is not point.trained:
            self._last = point.trained, self._measure(point)
        return self._last[1]

    def _measure(self, point: Point) -> _Measured:
        theta, mask = point.trained, point.trainable
        loss, gradient = point.value_and_grad(theta)
        dtype = loss.dtype
        one = jnp.ones((), dtype)

        def masked(tree: Any) -> Any:
            return jax.tree.map(lambda m, a: jnp.where(m, a, jnp.zeros_like(a)), mask, tree)

        def value_fn(params: Any, excess: Any = None) -> Any:  # noqa: ARG001
            return point.value_and_grad(jax.tree.map(jnp.where, mask, params, theta))[0]

        gradient = masked(gradient)
        updates, state = self._program.update(
            gradient, point.opt_state, masked(theta), {**point.hyper, RATES: one}, value=loss,
            excess=loss - point.loss_optimum, grad=gradient, value_fn=value_fn,
        )  # fmt: skip
        updates = masked(updates)

        def along(rate: jax.Array) -> jax.Array:
            moved = jax.tree.map(lambda a, d: a + rate * d, theta, updates)
            return point.value_and_grad(moved)[0]

        # The rate at which the linear model has lost all of the loss begins the search.
        slope = jnp.asarray(optax.tree.vdot(gradient, updates))
        guess = jnp.abs(loss / slope)
        guess = jnp.where(jnp.isfinite(guess) & (guess > 0), guess, one)
        rate, passes = critical_rate(along, loss, guess)
        critical = jnp.where(slope < 0, rate, jnp.nan)
        lanczos, products = jnp.full_like(one, jnp.nan), jnp.int32(0)
        if self.threshold is not None:
            diagonal = preconditioner(state, **self._settings)
            scale = 1.0
            if diagonal is not None:
                scale = 1 / jnp.sqrt(ravel_pytree(diagonal)[0])
            sharpness, products = scaled_sharpness(point, scale)
            positive = jnp.where(sharpness > 0, sharpness, one)
            lanczos = jnp.where(sharpness > 0, self.threshold / positive, jnp.inf)
            lanczos = jnp.where(jnp.isnan(sharpness), jnp.nan, lanczos)
        return _Measured(critical, lanczos, passes, products)


def _threshold(optimizer: MakeOptimizer) -> tuple[dict[str, Any], float | None]:
    """An optimizer's settings, and its stability threshold at rate 1; None if none is known."""
    if not isinstance(optimizer, Optimizer):
        return {}, None
    settings = dict(optimizer.settings)
    if settings.get("nesterov"):  # Adam's; its threshold is another one
        return settings, None
    momentum = settings.get("momentum", settings.get("b1", 0.9))
    try:
        return settings, float(stability_threshold(optimizer.name, 1.0, momentum))
    except UserError:
        return settings, None


def stable_rate(
    task: LossTask,
    optimizer: str | MakeOptimizer,
    *,
    num_steps: int = 100,
    seeds: Iterable[int] = range(3),
    at: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    precision: str = "float32",
) -> StableRate:
    r"""The largest stable learning rate of a task under an optimizer.

    Rates are trained for ``num_steps`` steps, all of them and all seeds at once: eight rates in
    ratios of 4, from 1/16 of the estimate at the start to 1024 times it, or further out; then eight
    between the largest stable and the first unstable one. With L_t the loss after t steps, L̄ its
    mean over the last tenth of the steps and D = L_0 − min L̄ the progress of the best rate tested,
    a rate is stable if

    * its loss does not blow up: L_t ≤ L_0 + 10 D for all t, and L̄ < L_0, and,
    * at rates above the best one, L̄ ≤ L_0 − D/2: it keeps half of the best rate's progress. A
      network whose units are dead has a finite loss at rates without bound.

    The largest stable rate is the last before the first unstable one, going up from the best. Both
    conditions are unchanged if the loss is multiplied by a number or shifted by one.

    The estimate at the start, from which the test begins, is the critical rate times half of the
    optimizer's threshold, where that is known: for momentum and Adam one step says less than the
    recursion. See the module for the critical rate and the Lanczos rate.

    Args:
        task: What to train, see `from_loss`.
        optimizer: An optimizer's name, an `Optimizer`, or a function that makes an optax
            transformation, whose update must be proportional to the learning rate.
        num_steps: Steps of each training of the test. Rates that diverge later pass it. With 0
            there is no test: the rate is the Lanczos rate at the start, or the critical rate where
            that is not known.
        seeds: Seeds of the runs; the rate is the median over them. They are left out where the task
            reads none.
        at: Values of the task's other hyper-parameters, by name.
        batch_size: Rows in a mini-batch in the test; curvature is that of all rows.
        precision: ``float32`` or ``float64``.

    Returns:
        The rate, and what it was found from.

    Raises:
        UserError: If an argument is not allowed, the loss is not finite at the initial parameters,
            or no rate that was tested lowers the loss at the median seed.
    """
    if isinstance(optimizer, str):
        optimizer = Optimizer(optimizer)
    whole = isinstance(num_steps, int) and not isinstance(num_steps, bool)
    if not (whole and (num_steps == 0 or num_steps >= _LEAST_STEPS)):
        raise UserError(
            f"num_steps {num_steps!r}: it must be a whole number >= {_LEAST_STEPS}, or 0 for no "
            "test"
        )
    if not isinstance(task, LossTask):
        raise UserError(f"task: give what from_loss makes, not {type(task).__name__}")
    trial = _Trial(task, optimizer, tuple(seeds), dict(at or {}), batch_size, precision)
    start, cost = trial.curvature(1.0, 1)
    critical, lanczos = start["critical"][:, :1], start["lanczos"][:, :1]
    if num_steps == 0:
        at_start = lanczos if np.isfinite(lanczos).all() else critical
        rates = at_start[:, 0]
        return StableRate(
            float(np.median(rates)), False, rates, math.nan, np.zeros(1, int), critical, lanczos,
            np.zeros(0), np.zeros((0, len(rates)), bool), 0, cost,
        )  # fmt: skip
    test = _Test(trial, num_steps)
    test.search(trial.estimate(critical[:, 0], lanczos[:, 0]))
    stable, last = test.judged()
    rate = test.median()
    along, more = trial.curvature(rate, num_steps)
    return StableRate(
        rate=rate,
        is_lower_bound=rate == test.rates[-1],
        rates=np.where(last >= 0, test.rates[last], np.nan),
        resolution=test.resolution(),
        steps=along["steps"],
        critical=along["critical"],
        lanczos=along["lanczos"],
        tested=test.rates,
        stable=stable,
        num_steps=num_steps,
        cost=_sum(cost, more, Cost(0, test.gradients, 0)),
    )


def _sum(*costs: Cost) -> Cost:
    return Cost(
        sum(c.forward_passes for c in costs),
        sum(c.gradients for c in costs),
        sum(c.products for c in costs),
    )


class _Trial:
    """The runs that an estimate trains: of one task, optimizer and set of seeds.

    Args:
        task: The task.
        optimizer: Its optimizer.
        seeds: Of the runs.
        at: Other hyper-parameters.
        batch_size: Of mini-batches.
        precision: Of training.
    """

    def __init__(
        self,
        task: LossTask,
        optimizer: MakeOptimizer,
        seeds: tuple[int, ...],
        at: dict[str, Any],
        batch_size: int | None,
        precision: str,
    ) -> None:
        taken = {RATES, SEEDS} & at.keys()
        if taken:
            raise UserError(f"at: {min(taken)} is no further hyper-parameter; leave it out")
        self._options: dict[str, Any] = {
            "optimizer": optimizer, "batch_size": batch_size, "precision": precision
        }  # fmt: skip
        self._task = task
        self._axes: dict[str, Any] = {name: (value,) for name, value in at.items()}
        if self._experiment(1).reads_seed:
            self._axes[SEEDS] = seeds
        (added,) = (probe := self._experiment(1)).rounds_after(())
        program = probe.plan_round(added, jax.default_backend()).groups[0].program
        self._curvature = _Curvature(program, optimizer)
        self.scale = (self._curvature.threshold or 2.0) / 2

    def _experiment(self, num_steps: int) -> TaskSweep:
        axes = {RATES: (1.0,), **self._axes}
        return TaskSweep(self._task, axes=axes, num_steps=num_steps, **self._options)

    def estimate(self, critical: np.ndarray, lanczos: np.ndarray) -> float:
        """Where the test begins, from the rates at the start, (seed,) each."""
        for found in (critical * self.scale, lanczos):
            usable = found[np.isfinite(found) & (found > 0)]
            if len(usable):
                return float(np.clip(np.median(usable), _SMALLEST, _LARGEST))
        return 1.0

    def losses(
        self, rates: Sequence[float], num_steps: int
    ) -> tuple[Float[np.ndarray, "rates seeds steps"], Int[np.ndarray, " steps"], int]:
        """Trains at some rates: losses, their steps, and how many gradients that took."""
        runs = sweep(
            self._task, axes={RATES: rates, **self._axes}, num_steps=num_steps,
            records_per_decade=1000, **self._options,
        )  # fmt: skip
        ends = runs["divergence_step"].fillna(num_steps)
        return self._by_seed(runs["loss"]), runs["step"].values, int(ends.sum())

    def curvature(self, rate: float, num_steps: int) -> tuple[dict[str, np.ndarray], Cost]:
        """Trains at one rate and measures on the way.

        Returns:
            ``steps`` (record,), ``critical`` and ``lanczos`` (seed, record); and the cost.

        Raises:
            UserError: If the loss is not finite at the initial parameters.
        """
        runs = sweep(
            self._task, axes={RATES: (rate,), **self._axes}, num_steps=num_steps,
            record=self._curvature.observables(), observations_per_decade=_RECORDS_PER_DECADE,
            **self._options,
        )  # fmt: skip
        first = self._by_seed(runs["loss"])[0, :, 0]
        if not np.isfinite(first).all():
            seed = tuple(self._axes.get(SEEDS, (0,)))[int(np.argmin(np.isfinite(first)))]
            raise UserError(
                f"{self._task.name}: the loss is not finite at the initial parameters of seed "
                f"{seed}"
            )
        found = {name: self._by_seed(runs[name])[0] for name in _Measured._fields}
        measured = np.isfinite(found["forward_passes"])  # NaN from divergence on
        gradients = int(runs["divergence_step"].fillna(num_steps).sum()) + int(measured.sum())
        passes, products = (int(np.nansum(found[n])) for n in ("forward_passes", "products"))
        steps = runs["observation_step"].values
        return {**found, "steps": steps}, Cost(passes, gradients, products)

    def _by_seed(self, values: xr.DataArray) -> np.ndarray:
        """(rate, seed, step) values over the grid, whose further axes have one value each."""
        shape = (values.sizes[RATES], values.sizes.get(SEEDS, 1), -1)
        return values.transpose(RATES, ..., values.dims[-1]).values.astype(float).reshape(shape)


class _Test:
    """Short trainings at rates upwards, until the largest stable one is found.

    Attributes:
        rates: (rate,) tested so far, increasing.
        gradients: How many these trainings took.
    """

    def __init__(self, trial: _Trial, num_steps: int) -> None:
        self._trial, self._num_steps = trial, num_steps
        self.rates = np.zeros(0)
        self.gradients = 0
        self._losses = np.zeros((0, 0, 0))

    def search(self, estimate: float) -> None:
        """Tests rates around an estimate, moves on where they end too soon, and refines.

        Raises:
            UserError: If no rate lowers the loss at the median seed.
        """
        reach = _COARSE ** (_ROUND - 1)
        self._train(estimate / _BELOW * _COARSE ** np.arange(_ROUND))
        for _ in range(_MOST_SHIFTS):
            if np.isnan(self.median()):
                self._train(self.rates[0] / reach / _COARSE * _COARSE ** np.arange(_ROUND))
            elif self.median() == self.rates[-1]:
                self._train(self.rates[-1] * _COARSE ** np.arange(1, _ROUND + 1))
            else:
                break
        if np.isnan(self.median()):
            low, high = self.rates[[0, -1]]
            raise UserError(
                f"no learning rate from {low:.3g} to {high:.3g} lowers the loss within "
                f"{self._num_steps} steps: is the gradient zero at the initial parameters, or does "
                "the optimizer step uphill?"
            )
        if self.resolution() > _FINE:
            low, high = self._bracket()
            self._train(np.geomspace(low, high, _ROUND + 2)[1:-1])

    def _train(self, rates: np.ndarray) -> None:
        losses, self._steps, gradients = self._trial.losses(rates.tolist(), self._num_steps)
        self.gradients += gradients
        order = np.argsort(np.concatenate([self.rates, rates]))
        before = self._losses.reshape(-1, *losses.shape[1:])
        self._losses = np.concatenate([before, losses])[order]
        self.rates = np.concatenate([self.rates, rates])[order]

    def judged(self) -> tuple[Bool[np.ndarray, "rates seeds"], Int[np.ndarray, " seeds"]]:
        """What `judge` returns of the rates tested so far."""
        return judge(self._losses, self._steps)

    def median(self) -> float:
        """The median over seeds of the largest stable rates, of two the smaller; NaN for none."""
        last = np.sort(self.judged()[1])
        middle = last[(len(last) - 1) // 2]
        return float(self.rates[middle]) if middle >= 0 else math.nan

    def _bracket(self) -> tuple[float, float]:
        k = int(np.searchsorted(self.rates, self.median()))
        return float(self.rates[k]), float(self.rates[min(k + 1, len(self.rates) - 1)])

    def resolution(self) -> float:
        """The ratio of the first unstable rate to the largest stable one; NaN for a bound."""
        low, high = self._bracket()
        return high / low if high > low else math.nan


def judge(
    losses: Float[np.ndarray, "rates seeds steps"], steps: Int[np.ndarray, " steps"]
) -> tuple[Bool[np.ndarray, "rates seeds"], Int[np.ndarray, " seeds"]]:
    """Which runs are stable by the two conditions of `stable_rate`.

    Args:
        losses: At increasing rates; inf or NaN from divergence on.
        steps: Of the losses, 0 first.

    Returns:
        Whether each run is stable; and for each seed the position of the largest stable rate, the
        last before the first unstable one above the best, or −1 if no run is stable.
    """
    losses = np.where(np.isfinite(losses), losses, np.inf)
    first = losses[0, :, 0]
    late = losses[:, :, steps >= (1 - _LAST) * steps[-1]].mean(axis=2)
    progress = first - late.min(axis=0)
    stable = (losses.max(axis=2) <= first + _BLOWN_UP * progress) & (late < first)
    best = np.where(stable, late, np.inf).argmin(axis=0)
    is_above = np.arange(len(losses))[:, None] > best
    stable &= ~is_above | (late <= first - _PROGRESS * progress)
    fails = is_above & ~stable
    last = np.where(fails.any(axis=0), fails.argmax(axis=0), len(losses)) - 1
    return stable, np.where(stable.any(axis=0), last, -1)
