"""Image classifiers as a task for the engine: `train_classifiers` trains one of the networks.

The grid is learning rates × initial standard deviations × seeds.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jax import lax
from typing_extensions import override

from implicit_accel.data.mnist import NUM_CLASSES, ImageData
from implicit_accel.engine.chunks import PRECISIONS, Group, Recording
from implicit_accel.engine.layout import MiniBatches
from implicit_accel.engine.step import Evaluation, Hyper, Program, Task, Values
from implicit_accel.errors import UserError
from implicit_accel.experiment import Axes, Experiment, Identity, Plan
from implicit_accel.fields import Allowed, Field, each, finite, shown
from implicit_accel.images.networks import (
    FullyConnected,
    Network,
    SmallCNN,
    TutorialCNN,
    check_count,
)
from implicit_accel.linear.config import parse_learning_rates
from implicit_accel.observables import Point
from implicit_accel.optimizers import Optimizer

# Images evaluated together.
_EVALUATION_BATCH = 100

# Recorded losses of a grid, which are held in memory: 2 GiB.
_MOST_RECORDS = 2**27

# Runs stepped together on an accelerator: a convolution's patches bound it, not the parameters.
_BLOCK_ON_ACCELERATOR = 32


@dataclass(frozen=True)
class ClassifierConfig:
    """How classifiers are trained; the default is the TensorFlow tutorial's way.

    The learning rate of epoch e, counted from 0, is η · rate_decay^e. An epoch is as many whole
    mini-batches as the training images give, in an order of its own.

    Attributes:
        network: What is trained.
        num_steps: Updates, T.
        batch_size: Images in a mini-batch.
        optimizer: By what; the name of one with its usual settings may be given.
        rate_decay: Factor of the learning rate from one epoch to the next.
        weight_decay: λ, the factor of the network's penalty in the objective.
        num_train: Images to train with, the first ones after the validation images; None for all.
        num_validation: Images held out, the first ones of the training part, as in the tutorial.
        num_test: Images to test with, the first ones of the test part; None for all.
        num_fixed: Images of a fixed set, the first ones to train with, on which the losses are
            evaluated without dropout: smooth curves, where those of the mini-batches are noisy.
        evaluate_every: Steps from one evaluation to the next; None for an epoch.
        pixel_mean: What is subtracted from pixels between 0 and 1.
        pixel_std: What they are divided by then.
        window: Steps whose mean loss makes one record.
        precision: ``float32`` or ``float64``.

    Raises:
        UserError: A value is not allowed.
    """

    network: Network = field(default_factory=TutorialCNN)
    num_steps: int = 8_590
    batch_size: int = 64
    optimizer: Optimizer = Optimizer("momentum")
    rate_decay: float = 0.95
    weight_decay: float = 5e-4
    num_train: int | None = None
    num_validation: int = 5_000
    num_test: int | None = None
    num_fixed: int = 0
    evaluate_every: int | None = None
    pixel_mean: float = 0.5
    pixel_std: float = 1.0
    window: int = 10
    precision: str = "float32"

    def __post_init__(self) -> None:
        for what in ("num_steps", "batch_size", "window"):
            check_count(what, getattr(self, what))
        for what in ("num_train", "num_test", "evaluate_every"):
            if getattr(self, what) is not None:
                check_count(what, getattr(self, what))
        for what in ("num_validation", "num_fixed"):
            check_count(what, getattr(self, what), least=0)
        if self.num_train is not None and self.num_train < self.batch_size:
            raise UserError(
                f"num_train {self.num_train} is below the batch size {self.batch_size}: "
                "take more images or smaller batches"
            )
        self._read_number("rate_decay", least=0, allowed="a finite number >= 0")
        self._read_number("weight_decay", least=0, allowed="a finite number >= 0")
        if self.rate_decay == 0:
            raise UserError("rate_decay 0 stops training after the first epoch: it must be above 0")
        self._read_number("pixel_mean", least=-math.inf, allowed="a finite number")
        least = math.nextafter(0, 1)
        self._read_number("pixel_std", least=least, allowed="a finite number above 0")
        if isinstance(self.optimizer, str):
            object.__setattr__(self, "optimizer", Optimizer(self.optimizer))
        if not isinstance(self.optimizer, Optimizer):
            raise UserError(
                f"optimizer {shown(self.optimizer)}: it must be an Optimizer, or a name like adam"
            )
        if self.precision not in PRECISIONS:
            raise UserError(f"precision {self.precision!r}: choose from {', '.join(PRECISIONS)}")

    def _read_number(self, what: str, *, least: float, allowed: str) -> None:
        """Replaces a number by Python's own, if it is allowed."""
        given = getattr(self, what)
        value = finite(given)
        if value is None or value < least:
            raise UserError(f"{what} {shown(given)}: it must be {allowed}")
        object.__setattr__(self, what, float(value))

    @property
    def uses_penalty(self) -> bool:
        """Whether the objective is more than the cross-entropy."""
        regularises = not (
            isinstance(self.network, TutorialCNN) and self.network.regularised == "none"
        )
        return self.weight_decay > 0 and regularises

    def weighted_penalty(self, parameters: Any) -> Any:
        """λ times the network's penalty, what the objective is more than the cross-entropy."""
        return self.weight_decay * self.network.penalty(parameters) if self.uses_penalty else 0.0

    def pixels(self, images: Any, dtype: Any) -> jax.Array:
        """The network's inputs from images, see `scale_pixels`."""
        return scale_pixels(images, dtype, mean=self.pixel_mean, std=self.pixel_std)


FULLY_CONNECTED = ClassifierConfig(
    FullyConnected(), num_steps=5_500, batch_size=100, optimizer=Optimizer("sgd"), rate_decay=1.0,
    weight_decay=0.0,
)  # fmt: skip
"""10 epochs of SGD as in Arora, Cohen, Golowich & Hu (2019), whose rate is 0.01."""

SMALL_CNN = ClassifierConfig(
    SmallCNN(), num_steps=1_170, batch_size=512, optimizer=Optimizer("sgd"), rate_decay=1.0,
    weight_decay=0.0, num_validation=0, pixel_mean=0.1307, pixel_std=0.3081,
)  # fmt: skip
"""10 epochs of SGD as in Levy & Wang (2024), with standardised pixels."""


def scale_pixels(images: Any, dtype: Any, *, mean: float = 0.5, std: float = 1.0) -> jax.Array:
    """Uint8 pixels 0 … 255 to numbers: as shares of 255, less their mean, over their std.

    By default from −0.5 to 0.5, as the TensorFlow tutorial does.
    """
    centred = images.astype(dtype) / 255 - mean
    return centred if std == 1 else centred / std


def dropout_mask(network: Network, key: Any, num_images: int) -> jax.Array:
    """Which features dropout keeps: (images, features) booleans.

    Args:
        network: Says how many of how many features.
        key: Like the mini-batches a function of the seed and the step alone.
        num_images: How many images.
    """
    shape = (num_images, network.num_features)
    # A float32 probability, or the mask would be another one in float64.
    return jax.random.bernoulli(key, np.float32(1 - network.dropout), shape)


def cross_entropy(logits: Any, labels: Any) -> jax.Array:
    """Mean of −log softmax(logits)[label] over the images."""
    return jnp.mean(negative_log_likelihoods(logits, labels))


def negative_log_likelihoods(logits: Any, labels: Any) -> jax.Array:
    """−log softmax(logits)[label] of every image, (n,)."""
    at = labels[:, None].astype(int)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), at, axis=1)[:, 0]


def objective(
    config: ClassifierConfig, parameters: Any, pixels: Any, labels: Any, keep: Any = None
) -> tuple[jax.Array, jax.Array]:
    """What is minimised, cross-entropy + λ · penalty, and the cross-entropy alone.

    Args:
        config: Static.
        parameters: The network's.
        pixels: (n, 28, 28), see `scale_pixels`.
        labels: (n,).
        keep: Dropout's mask, or None.

    Returns:
        Both numbers.
    """
    loss = cross_entropy(config.network.logits(parameters, pixels, keep), labels)
    return loss + config.weighted_penalty(parameters), loss


class Part(NamedTuple):
    """Images with their labels.

    Attributes:
        images: Uint8 pixels, (n, 28, 28), or (chunks, n, 28, 28) to evaluate one chunk at a time.
        labels: (n,) or (chunks, n); −1 for images that only fill a chunk.
    """

    images: Any
    labels: Any


@dataclass(frozen=True)
class ImageTask(Task):
    """The training of one network.

    Its data are a dictionary of `Part`: ``train``, and ``test``, ``validation`` and ``fixed`` in
    chunks.

    Attributes:
        config: What is trained, and how.
        dtype: Of the pixels in training.
    """

    config: ClassifierConfig
    dtype: str

    @property
    @override
    def is_random(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the network has dropout."""
        return self.config.network.dropout > 0

    @override
    def take(self, data: Mapping[str, Part], rows: jax.Array | None) -> Part:
        images, labels = data["train"]
        return Part(images, labels) if rows is None else Part(images[rows], labels[rows])

    @override
    def evaluate(self, params: Any, batch: Part, hp: Values, key: Any) -> Evaluation:
        network = self.config.network
        keep = None
        if key is not None:
            keep = dropout_mask(network, key, len(batch.images))
        pixels = self.config.pixels(batch.images, self.dtype)
        (loss, entropy), gradient = jax.value_and_grad(
            lambda p: objective(self.config, p, pixels, batch.labels, keep), has_aux=True
        )(params)
        return Evaluation(loss, gradient, loss, {"cross_entropy": entropy})

    @override
    def reference_loss(self, data: Any) -> Any:
        """Loss of the zero predictor, which gives every class the same probability."""
        return math.log(NUM_CLASSES)

    def error(self, part: str) -> Any:
        """An observable: the share of a part's images that are not recognised."""

        def observable(point: Point) -> jax.Array:
            def wrong(chunk: Part) -> tuple[jax.Array, jax.Array]:
                pixels = self.config.pixels(chunk.images, self.dtype)
                logits = self.config.network.logits(point.parameters, pixels)
                missed = (chunk.labels >= 0) & (jnp.argmax(logits, axis=1) != chunk.labels)
                return jnp.sum(missed), jnp.all(jnp.isfinite(logits))

            missed, finite = lax.map(wrong, point.data[part])
            count = jnp.sum(point.data[part].labels >= 0).astype(self.dtype)
            return jnp.where(jnp.all(finite), jnp.sum(missed) / count, jnp.inf)

        return observable

    def cross_entropy(self, part: str) -> Any:
        """An observable: a part's cross-entropy without dropout."""

        def observable(point: Point) -> jax.Array:
            def entropies(chunk: Part) -> jax.Array:
                pixels = self.config.pixels(chunk.images, self.dtype)
                logits = self.config.network.logits(point.parameters, pixels)
                rows = negative_log_likelihoods(logits, jnp.maximum(chunk.labels, 0))
                return jnp.sum(jnp.where(chunk.labels >= 0, rows, 0))

            count = jnp.sum(point.data[part].labels >= 0).astype(self.dtype)
            loss = jnp.sum(lax.map(entropies, point.data[part])) / count
            return jnp.where(jnp.isfinite(loss), loss, jnp.inf)

        return observable

    def penalty(self, point: Point) -> jax.Array:
        """An observable: λ times the penalty, as it is in the objective."""
        return jnp.asarray(self.config.weighted_penalty(point.parameters), self.dtype)

    def end_to_end_penalty(self, point: Point) -> jax.Array:
        """An observable: ½ ‖·‖² of the end-to-end dense matrices and biases."""
        return self.config.network.end_to_end_penalty(point.parameters)


class ImageSweep(Experiment):
    """A network over learning rates × initial standard deviations × seeds.

    Mini-batches and dropout masks depend on the seed alone: runs that differ in anything else,
    the network included, see the same ones. Errors are evaluated at the start, at the end of
    every epoch (or as often as the configuration says) and at the end, without dropout.

    Args:
        data: Images to train and test with.
        config: What is trained, and how.
        learning_rates: η's, numbers above 0; like the other two a list, an array, or a text as
            the sweep's flag takes it, ``log:1e-3:1:5``.
        stds: Standard deviations that the network's start leaves open, see its ``draw``; None
            for a network that leaves none.
        seeds: Different whole numbers from 0 up, below 2³².
        largest_block: The most runs to step together; by default what suits the network on a CPU,
            and 32 elsewhere. More is faster on a GPU, and takes as much more memory.

    Raises:
        UserError: A value is not allowed, or there are too few images.
    """

    def __init__(
        self,
        data: ImageData,
        config: ClassifierConfig,
        *,
        learning_rates: Sequence[float] | np.ndarray | str,
        stds: Sequence[float] | np.ndarray | str | None = None,
        seeds: Sequence[int] | np.ndarray | str = (0,),
        largest_block: int | None = None,
    ) -> None:
        self.num_steps, self.precision = config.num_steps, config.precision
        self._rates, self._stds, self._seeds = _check_grid(config, learning_rates, stds, seeds)
        self._data, self._config, self._largest_block = data, config, largest_block
        self._train, self._evaluated = _split(data, config)
        num_fixed = config.num_fixed
        if num_fixed > len(self._train.labels):
            raise UserError(
                f"num_fixed {num_fixed}: {data.name} has {len(self._train.labels)} images to "
                "train with"
            )
        self._fixed = Part(*(a[:num_fixed] for a in self._train)) if num_fixed else None

    @property
    @override
    def axes(self) -> Axes:
        stds: Axes = {} if self._stds is None else {"init_std": self._stds}
        return {"learning_rate": self._rates, **stds, "seed": self._seeds}

    @property
    @override
    def identity(self) -> Identity:
        settings = {
            f.name: str(getattr(self._config, f.name))
            for f in dataclasses.fields(self._config)
            if f.name != "num_steps"
        }
        return Identity(settings, self.axes, self.num_steps, self._data.fingerprint)

    @property
    @override
    def recording(self) -> Recording:
        """Every step's loss; what is evaluated, now and then."""
        every = self._config.evaluate_every or self._epoch_steps
        evaluated = [*range(0, self.num_steps, every), self.num_steps]
        return Recording(np.arange(self.num_steps), (np.array(evaluated),))

    @property
    def _epoch_steps(self) -> int:
        return len(self._train.labels) // self._config.batch_size

    @override
    def plan(self, axes: Axes, *, platform: str, planned_steps: int) -> Plan:
        config, network = self._config, self._config.network
        task = ImageTask(config, self.precision)
        decay, per_epoch = config.rate_decay, self._epoch_steps

        def optimizer(hp: Values) -> optax.GradientTransformation:
            rate = hp["learning_rate"]
            if decay == 1:
                return config.optimizer.build(rate)
            return config.optimizer.build(lambda step: rate * decay ** (step // per_epoch))

        num_runs = math.prod(len(values) for values in axes.values())
        observables = {f"{part}_error": task.error(part) for part in self._evaluated}
        data = {"train": self._train} | {k: _chunks(v) for k, v in self._evaluated.items()}
        if self._fixed is not None:
            data["fixed"] = _chunks(self._fixed)
            # Their regularised loss is the sum.
            observables["fixed_cross_entropy"] = task.cross_entropy("fixed")
            observables["penalty"] = task.penalty
        shapes = network.draw(0.0, 0)
        on_cpu = platform == "cpu"
        group = Group(
            program=Program(
                task,
                optimizer,
                aux=("cross_entropy",),
                # Losses, shares of errors, penalties: infinite once diverged.
                losses=frozenset({"cross_entropy", "end_to_end_penalty", *observables}),
            ),
            data=data,
            num_runs=num_runs,
            runs=self._runs(axes),
            shapes=shapes,
            operations=network.operations * config.batch_size,
            platform=platform,
            largest_block=self._largest_block
            or (network.largest_block if on_cpu else _BLOCK_ON_ACCELERATOR),
            observables=(observables | {"end_to_end_penalty": task.end_to_end_penalty},),
            batches=MiniBatches(len(self._train.labels), config.batch_size, axes["seed"]),
        )
        return Plan(axes, (group,), (np.arange(num_runs),))

    def _runs(self, axes: Axes) -> Any:
        names, sizes = list(axes), [len(values) for values in axes.values()]

        def runs(numbers: np.ndarray) -> tuple[Any, Hyper]:
            at = dict(zip(names, np.unravel_index(numbers, sizes), strict=True))
            stds = np.take(axes["init_std"], at["init_std"]) if "init_std" in axes else None
            seeds = np.take(axes["seed"], at["seed"])
            starts = np.stack([np.zeros(len(seeds)) if stds is None else stds, seeds])
            starts, inverse = np.unique(starts, axis=1, return_inverse=True)
            drawn = [self._config.network.draw(std, int(seed)) for std, seed in starts.T]
            inverse = inverse.reshape(-1)
            params = jax.tree.map(lambda *a: np.stack(a).astype(self.precision)[inverse], *drawn)
            values = {
                "learning_rate": np.take(axes["learning_rate"], at["learning_rate"]),
                "seed": seeds.astype(np.uint32),
            }
            never = np.full(len(numbers), -np.inf)
            return params, Hyper(values, never, at["seed"].astype(np.int32))

        return runs

    @override
    def label(self, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
        if self._stds is None:
            arrays = {name: np.expand_dims(a, 1) for name, a in arrays.items()}
        window, T = self._config.window, self.num_steps
        edges = np.array([*range(0, T, window), T])

        def means(a: np.ndarray) -> np.ndarray:
            total = np.add.reduceat(a.astype(float), edges[:-1], axis=-1)
            return total / np.diff(edges)

        axes = ("learning_rate", "init_std", "seed")
        recorded, tested = (*axes, "step"), (*axes, "evaluation_step")
        diverged = arrays["divergence_step"]
        variables: dict[str, Any] = {
            "cross_entropy": (
                recorded,
                means(arrays["cross_entropy"]),
                {"long_name": "cross-entropy of the training mini-batches", "diverged": "inf"},
            ),
            "regularised_loss": (
                recorded,
                means(arrays["excess_loss"]),
                {"long_name": "cross-entropy + weight decay x penalty", "diverged": "inf"},
            ),
            "end_to_end_penalty": (
                tested,
                arrays["end_to_end_penalty"].astype(float),
                {"long_name": "half the square norm of the end-to-end matrices", "diverged": "inf"},
            ),
            "divergence_step": (
                axes,
                np.where(diverged < 0, np.nan, diverged),
                {"long_name": "step of divergence", "units": "updates", "never": "NaN"},
            ),
        }
        for part in self._evaluated:
            variables[f"{part}_error"] = (
                tested,
                arrays[f"{part}_error"].astype(float),
                {"long_name": f"share of {part} images not recognised", "diverged": "inf"},
            )
        if self._fixed is not None:
            entropy, penalty = (arrays[k].astype(float) for k in ("fixed_cross_entropy", "penalty"))
            for name, what, values in (
                ("fixed_cross_entropy", "cross-entropy", entropy),
                ("fixed_regularised_loss", "cross-entropy + weight decay x penalty",
                 entropy + penalty),
            ):  # fmt: skip
                long_name = f"{what} of {len(self._fixed.labels)} fixed training images"
                variables[name] = (tested, values, {"long_name": long_name, "diverged": "inf"})
        evaluated = self.recording.observed[0]
        coordinates = {
            "learning_rate": np.array(self._rates),
            "init_std": np.array([math.nan] if self._stds is None else self._stds),
            "seed": np.array(self._seeds),
            "step": ("step", edges[1:], {"units": "updates"}),
            "evaluation_step": ("evaluation_step", evaluated, {"units": "updates"}),
            "network": self._config.network.name,
            "dataset": self._data.name,
        }
        return xr.Dataset(variables, coordinates, self._attributes())

    def _attributes(self) -> dict[str, Any]:
        data, config = self._data, self._config
        return {
            "title": data.title,
            "source": data.source,
            "is_stand_in": int(data.is_stand_in),
            "dataset_fingerprint": data.fingerprint,
            "num_train": len(self._train.labels),
            "epoch_steps": self._epoch_steps,
            "batch_size": config.batch_size,
            "optimizer": config.optimizer.name,
            "rate_decay": config.rate_decay,
            "weight_decay": config.weight_decay,
            "window": config.window,
            "precision": config.precision,
        }


def train_classifiers(
    data: ImageData,
    config: ClassifierConfig,
    *,
    learning_rates: Sequence[float] | np.ndarray | str,
    stds: Sequence[float] | np.ndarray | str | None = None,
    seeds: Sequence[int] | np.ndarray | str = (0,),
    largest_block: int | None = None,
    **options: Any,
) -> xr.Dataset:
    """Trains a network over learning rates × initial standard deviations × seeds.

    Args:
        data: Images to train and test with.
        config: What is trained, and how.
        learning_rates: η; like the other two a list, an array, or a text like ``log:1e-3:1:5``.
        stds: Initial standard deviations; None for a network that has none.
        seeds: Different whole numbers from 0 up, below 2³².
        largest_block: The most runs to step together; by default what suits the device.
        **options: Those of `implicit_accel.run`: folder, devices, memory_limit, progress.

    Returns:
        Over (learning_rate, init_std, seed, step): ``cross_entropy`` of the training
        mini-batches, and ``regularised_loss``, with λ · penalty added, both means over windows;
        ``step`` is the number of updates after the window. Over (learning_rate, init_std, seed,
        evaluation_step): ``test_error``, ``validation_error`` (if images are held out), shares of
        images that are not recognised, and ``end_to_end_penalty``, ½ ‖·‖² of the end-to-end dense
        matrices and biases, which compares products with single matrices; with a fixed set of
        training images also ``fixed_cross_entropy`` and ``fixed_regularised_loss``, their losses
        without dropout. Over the first three:
        ``divergence_step``, NaN if the run did not diverge. All else is inf from a run's
        divergence on. ``init_std`` is NaN for a network without.

    Raises:
        UserError: A value is not allowed, or there are too few images.
    """
    from implicit_accel.sweep import run

    experiment = ImageSweep(
        data, config, learning_rates=learning_rates, stds=stds, seeds=seeds,
        largest_block=largest_block,
    )  # fmt: skip
    return run(experiment, **options)


_RATES = Field(
    (),
    "Learning rates.",
    one="learning rate",
    parse=parse_learning_rates,
    allowed=Allowed(
        "a finite number above 0", numbers.Real, (math.nextafter(0, 1), sys.float_info.max)
    ),
)
_STDS = Field(
    (),
    "Initial standard deviations.",
    one="initial standard deviation",
    parse=each(float),
    allowed=Allowed("a number >= 0", numbers.Real, (0, sys.float_info.max)),
)
_SEEDS = Field(
    (),
    "Seeds.",
    one="seed",
    parse=each(int),
    allowed=Allowed("a whole number from 0 up, below 2^32", numbers.Integral, (0, 2**32 - 1)),
)


def _check_grid(
    config: ClassifierConfig,
    learning_rates: Sequence[float] | np.ndarray | str,
    stds: Sequence[float] | np.ndarray | str | None,
    seeds: Sequence[int] | np.ndarray | str,
) -> tuple[tuple[float, ...], tuple[float, ...] | None, tuple[int, ...]]:
    network = config.network
    if (stds is not None) != network.has_std:
        needed = "needs" if network.has_std else "has no"
        raise UserError(f"network {network.name!r} {needed} initial standard deviations (stds)")
    read_rates = _RATES.items("learning_rates", learning_rates)
    read_stds = None if stds is None else _STDS.items("stds", stds)
    read_seeds = _SEEDS.items("seeds", seeds)
    axes = [("learning rate", read_rates), ("seed", read_seeds)]
    axes += [("initial standard deviation", read_stds)] if read_stds is not None else []
    for what, values in axes:
        if not values or len(set(values)) < len(values):
            raise UserError(f"{what}s {shown(list(values))}: give one or more, each once")
    if math.prod(len(values) for _, values in axes) * config.num_steps > _MOST_RECORDS:
        raise UserError(
            f"num_steps {config.num_steps}: with so many runs their losses take more than 2 GiB; "
            "take fewer steps or runs"
        )
    return read_rates, read_stds, read_seeds


def _split(data: ImageData, config: ClassifierConfig) -> tuple[Part, dict[str, Part]]:
    """The training images with their labels, and those evaluated, by the part's name."""
    held_out = config.num_validation
    there = max(0, len(data.train_labels) - held_out)
    num_train = there if config.num_train is None else config.num_train
    if num_train > there or num_train < config.batch_size:
        raise UserError(
            f"{data.name} has {len(data.train_labels)} training images: with {held_out} held out "
            f"{there} are left, but num_train is {config.num_train} and the batch size "
            f"{config.batch_size}"
        )
    num_test = len(data.test_labels) if config.num_test is None else config.num_test
    if num_test > len(data.test_labels):
        raise UserError(f"num_test {num_test}: {data.name} has {len(data.test_labels)} test images")
    kept = slice(held_out, held_out + num_train)
    evaluated = {"test": Part(data.test_images[:num_test], data.test_labels[:num_test])}
    if held_out:
        evaluated["validation"] = Part(data.train_images[:held_out], data.train_labels[:held_out])
    return Part(data.train_images[kept], data.train_labels[kept]), evaluated


def _chunks(part: Part) -> Part:
    """In chunks, which bounds the memory of an evaluation."""
    images, labels = part
    n = min(_EVALUATION_BATCH, len(labels))
    extra = -len(labels) % n
    images = np.concatenate([images, np.zeros((extra, *images.shape[1:]), images.dtype)])
    labels = np.concatenate([labels.astype(np.int32), np.full(extra, -1, np.int32)])
    return Part(images.reshape(-1, n, *images.shape[1:]), labels.reshape(-1, n))
