"""Image classifiers trained by mini-batches: does overparameterising the dense layers help them?

Three networks: the convolutional one of the TensorFlow tutorial, with or without its dense
matrices replaced by products (Arora, Cohen & Hazan 2018); the fully connected ReLU network of
Arora, Cohen, Golowich & Hu (2019); a small convolutional one. `train_classifiers` trains one of
them over a grid of learning rates × initial standard deviations × seeds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special
import xarray as xr
from jax import lax

from implicit_accel.data.mnist import NUM_CLASSES, SIDE, ImageData
from implicit_accel.engine.training import DIVERGENCE_FACTOR, precision_context
from implicit_accel.errors import UserError
from implicit_accel.linear.config import PRECISIONS
from implicit_accel.linear.initialisers import Initialiser, stream
from implicit_accel.linear.networks import Layers, end_to_end, matmul, predict
from implicit_accel.optimizers import Optimizer

REGULARISED = ("factors", "first", "product", "none")
"""What weight decay may act on where a matrix is a product, see `TutorialCNN`."""

_STD = 0.1  # of the TensorFlow tutorial's weights

# Steps between two reports of progress, images evaluated together.
_SEGMENT = 50
_EVALUATION_BATCH = 100

# Recorded losses of a call, which are held in memory: 2 GiB.
_MOST_RECORDS = 2**27


def _check_count(what: str, value: object, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UserError(f"{what} {value!r}: it must be a whole number from {least} up")


class Convolution(NamedTuple):
    """A convolution's parameters.

    Attributes:
        kernel: (size, size, inputs, outputs).
        bias: (outputs,).
    """

    kernel: Any
    bias: Any


class Dense(NamedTuple):
    """A dense layer's parameters; its matrix is the product of the factors, W_e = W_N ⋯ W_1.

    Attributes:
        factors: Matrices W_1 … W_N of shape (outputs, inputs).
        bias: (outputs of W_N,).
    """

    factors: tuple[Any, ...]
    bias: Any


class ConvolutionalParameters(NamedTuple):
    """Parameters of a convolutional network, from the image's side."""

    convolutions: tuple[Convolution, ...]
    dense: tuple[Dense, ...]


@dataclass(frozen=True)
class TutorialCNN:
    """The TensorFlow tutorial's convolutional network, as it is or overparameterised.

    Convolution 5 × 5 × 32, ReLU, 2 × 2 maximum, convolution 5 × 5 × 64, ReLU, 2 × 2 maximum, dense
    3136 → 512, ReLU, dropout (in training only; kept features are divided by the share kept),
    dense 512 → 10. Convolutions pad with zeros to keep the size. Weights start from a normal
    distribution of standard deviation 0.1 cut at two of them (so that 0.088 is left), the first
    convolution's biases at 0, all others at 0.1.

    Overparameterised, both dense matrices become products, 3136 × 512 · 512 × 512 and
    512 × 10 · 10 × 10, without anything in between (Arora, Cohen & Hazan 2018). The new square
    factors start like the others, with a standard deviation of their own. With the same seed all
    other parameters start the same.

    Attributes:
        overparameterised: Whether the dense matrices are products.
        regularised: What weight decay acts on beside the dense biases: ``factors`` (each factor),
            ``first`` (the original network's, not the new ones), ``product`` (W_2 W_1); with
            ``none`` nothing is regularised, the biases neither. Without products the first three
            are the same.
        channels: Outputs of the two convolutions.
        hidden_width: Outputs of the first dense layer.
        dropout: Share of features removed.

    Raises:
        UserError: A value is not allowed.
    """

    overparameterised: bool = False
    regularised: str = "factors"
    channels: tuple[int, int] = (32, 64)
    hidden_width: int = 512
    dropout: float = 0.5

    largest_block: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.regularised not in REGULARISED:
            raise UserError(
                f"regularised {self.regularised!r}: choose from {', '.join(REGULARISED)}"
            )
        if len(self.channels) != 2:
            raise UserError(f"channels {self.channels}: give one number for each of 2 convolutions")
        for channel in self.channels:
            _check_count("channels", channel)
        _check_count("hidden width", self.hidden_width)
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout {self.dropout:g}: it must be from 0 up and below 1")

    @property
    def name(self) -> str:
        """``cnn``, or ``cnn, overparameterised`` with what is regularised."""
        reading = "" if self.regularised == "factors" else f", {self.regularised} regularised"
        return f"cnn{', overparameterised' if self.overparameterised else ''}{reading}"

    @property
    def has_std(self) -> bool:
        """Only the new factors' standard deviation is to be chosen."""
        return self.overparameterised

    @property
    def num_features(self) -> int:
        """The hidden width."""
        return self.hidden_width

    def draw(self, std: float, seed: int) -> ConvolutionalParameters:
        """Initial parameters; ``std`` is that of the new factors."""

        def weights(layer: int, shape: tuple[int, ...], scale: float = _STD) -> np.ndarray:
            return scale * _truncated_normal(stream(seed, layer), shape)

        first, second = self.channels
        width = self.hidden_width
        flat = second * (SIDE // 4) ** 2
        # The new factors come last: the others' streams are those of the original network.
        new = [
            (weights(layer, (size, size), std),) if self.overparameterised else ()
            for layer, size in ((4, width), (5, NUM_CLASSES))
        ]
        return ConvolutionalParameters(
            (
                Convolution(weights(0, (5, 5, 1, first)), np.zeros(first)),
                Convolution(weights(1, (5, 5, first, second)), np.full(second, 0.1)),
            ),
            (
                Dense((weights(2, (width, flat)), *new[0]), np.full(width, 0.1)),
                Dense((weights(3, (NUM_CLASSES, width)), *new[1]), np.full(NUM_CLASSES, 0.1)),
            ),
        )

    def logits(
        self, parameters: ConvolutionalParameters, pixels: Any, keep: Any = None
    ) -> jax.Array:
        """Outputs (n, 10)."""
        features = _dense(parameters.dense[0], _convolve_and_pool(parameters, pixels))
        features = jax.nn.relu(features)
        if keep is not None:
            features = jnp.where(keep, features / (1 - self.dropout), 0)
        return _dense(parameters.dense[1], features)

    def penalty(self, parameters: ConvolutionalParameters) -> Any:
        """½ ‖·‖² of what ``regularised`` says."""
        match self.regularised:
            case "none":
                return 0.0
            case "product":
                return self.end_to_end_penalty(parameters)
            case "first":
                kept = [(d.factors[0], d.bias) for d in parameters.dense]
            case _:
                kept = parameters.dense
        return _half_square(kept)

    def end_to_end_penalty(self, parameters: ConvolutionalParameters) -> Any:
        """½ ‖·‖² of both end-to-end matrices and biases."""
        return _half_square([(end_to_end(Layers(d.factors))[0], d.bias) for d in parameters.dense])


@dataclass(frozen=True)
class SmallCNN:
    """A small convolutional network in PyTorch's default initialisation.

    Convolution 3 × 3 × 16, ReLU, 2 × 2 maximum, convolution 3 × 3 × 32, ReLU, 2 × 2 maximum, dense
    1568 → 10; convolutions pad with zeros to keep the size. All weights and biases start uniform
    on ±1/√fan_in. The network that Levy & Wang (2024) call a small CNN is not described by them:
    this one is our choice and stands for any of its size.

    Attributes:
        channels: Outputs of the two convolutions.

    Raises:
        UserError: A value is not allowed.
    """

    channels: tuple[int, int] = (16, 32)

    name: ClassVar[str] = "small cnn"
    has_std: ClassVar[bool] = False
    dropout: ClassVar[float] = 0.0
    num_features: ClassVar[int] = 0
    largest_block: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if len(self.channels) != 2:
            raise UserError(f"channels {self.channels}: give one number for each of 2 convolutions")
        for channel in self.channels:
            _check_count("channels", channel)

    def draw(self, std: float, seed: int) -> ConvolutionalParameters:  # noqa: ARG002
        """Initial parameters; ``std`` has no effect."""

        def uniform(layer: int, fan_in: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
            rng, bound = stream(seed, layer), 1 / math.sqrt(fan_in)
            return [rng.uniform(-bound, bound, shape) for shape in shapes]

        first, second = self.channels
        flat = second * (SIDE // 4) ** 2
        W, b = uniform(2, flat, (NUM_CLASSES, flat), (NUM_CLASSES,))
        return ConvolutionalParameters(
            (
                Convolution(*uniform(0, 9, (3, 3, 1, first), (first,))),
                Convolution(*uniform(1, 9 * first, (3, 3, first, second), (second,))),
            ),
            (Dense((W,), b),),
        )

    def logits(
        self,
        parameters: ConvolutionalParameters,
        pixels: Any,
        keep: Any = None,  # noqa: ARG002
    ) -> jax.Array:
        """Outputs (n, 10)."""
        return _dense(parameters.dense[0], _convolve_and_pool(parameters, pixels))

    def penalty(self, parameters: ConvolutionalParameters) -> Any:
        """½ ‖·‖² of the dense weights and biases."""
        return _half_square(parameters.dense)

    end_to_end_penalty = penalty


@dataclass(frozen=True)
class FullyConnected:
    """A fully connected ReLU network 784 → hidden widths → 10.

    Arora, Cohen, Golowich & Hu (2019) train it, with widths 128 and 32, from two starts:
    ``near_zero``, every layer's weights N(0, std²), and ``balanced``, the end-to-end matrix's
    entries N(0, std²) and split evenly over the layers, see `Initialiser`. Biases start at 0.
    A balanced start has rank 10: the hidden units beyond the tenth have zero weights on both
    sides and, with a ReLU, never move.

    Attributes:
        initialiser: One of `INITIALISERS`.
        hidden_widths: From the input's side.

    Raises:
        UserError: A value is not allowed.
    """

    initialiser: str = "near_zero"
    hidden_widths: tuple[int, ...] = (128, 32)

    dropout: ClassVar[float] = 0.0
    num_features: ClassVar[int] = 0
    largest_block: ClassVar[int] = 8

    def __post_init__(self) -> None:
        for width in self.hidden_widths:
            _check_count("hidden width", width)
        self.draw(1.0, 0)  # an unknown name, or a balanced start that does not fit

    @property
    def name(self) -> str:
        """``fully connected`` with the initialiser."""
        return f"fully connected, {self.initialiser}"

    @property
    def has_std(self) -> bool:
        """Whether the initialiser has a standard deviation."""
        return not math.isnan(Initialiser(self.initialiser).std)

    def draw(self, std: float, seed: int) -> Layers:
        """Initial parameters."""
        initialiser = Initialiser(self.initialiser, std) if self.has_std else self._without_std
        return initialiser.draw(SIDE**2, self.hidden_widths, NUM_CLASSES, bias=True, seed=seed)

    @property
    def _without_std(self) -> Initialiser:
        return Initialiser(self.initialiser)

    def logits(self, parameters: Layers, pixels: Any, keep: Any = None) -> jax.Array:  # noqa: ARG002
        """Outputs (n, 10)."""
        return predict(parameters, pixels.reshape(len(pixels), -1), activation="relu")

    def penalty(self, parameters: Layers) -> Any:
        """½ ‖·‖² of all weights and biases."""
        return _half_square(parameters)

    end_to_end_penalty = penalty


Network = TutorialCNN | SmallCNN | FullyConnected
"""A classifier: pure functions of its parameters, which are a pytree of arrays.

* ``name``: for tables; ``has_std``: whether its start has a standard deviation to choose.
* ``dropout``: share of its ``num_features`` features that dropout removes in training.
* ``largest_block``: how many runs are best stepped together on a CPU.
* ``draw(std, seed)``: initial parameters, float64 numpy, a function of the arguments alone.
* ``logits(parameters, pixels, keep)``: outputs (n, 10) for pixels (n, 28, 28); ``keep``, booleans
  (n, features), is dropout's mask, None in evaluation.
* ``penalty(parameters)``: ½ ‖·‖² of what weight decay acts on; ``end_to_end_penalty``: of the
  dense layers' end-to-end matrices and biases, whatever is regularised.
"""


@dataclass(frozen=True)
class ClassifierConfig:
    """How classifiers are trained; the default is the TensorFlow tutorial's way.

    The learning rate of epoch e, counted from 0, is η · rate_decay^e. An epoch is as many whole
    mini-batches as the training images give, in an order of its own.

    Attributes:
        network: What is trained.
        num_steps: Updates, T.
        batch_size: Images in a mini-batch.
        optimizer: By what.
        rate_decay: Factor of the learning rate from one epoch to the next.
        weight_decay: λ, the factor of the network's penalty in the objective.
        num_train: Images to train with, the first ones after the validation images; None for all.
        num_validation: Images held out, the first ones of the training part, as in the tutorial.
        num_test: Images to test with, the first ones of the test part; None for all.
        window: Steps whose mean loss makes one record.
        precision: ``float32`` or ``float64``.

    Raises:
        UserError: A value is not allowed.
    """

    network: Network = TutorialCNN()
    num_steps: int = 8_590
    batch_size: int = 64
    optimizer: Optimizer = Optimizer("momentum")
    rate_decay: float = 0.95
    weight_decay: float = 5e-4
    num_train: int | None = None
    num_validation: int = 5_000
    num_test: int | None = None
    window: int = 10
    precision: str = "float32"

    def __post_init__(self) -> None:
        for what in ("num_steps", "batch_size", "window"):
            _check_count(what, getattr(self, what))
        for what in ("num_train", "num_test"):
            if getattr(self, what) is not None:
                _check_count(what, getattr(self, what))
        _check_count("num_validation", self.num_validation, least=0)
        if self.num_train is not None and self.num_train < self.batch_size:
            raise UserError(
                f"num_train {self.num_train} is below the batch size {self.batch_size}: "
                "take more images or smaller batches"
            )
        for what in ("rate_decay", "weight_decay"):
            value = getattr(self, what)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{what} {value:g}: it must be a finite number >= 0")
        if self.rate_decay == 0:
            raise UserError("rate_decay 0 stops training after the first epoch: it must be above 0")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision {self.precision!r}: choose from {', '.join(PRECISIONS)}")

    @property
    def uses_penalty(self) -> bool:
        """Whether the objective is more than the cross-entropy."""
        regularises = not (
            isinstance(self.network, TutorialCNN) and self.network.regularised == "none"
        )
        return self.weight_decay > 0 and regularises


FULLY_CONNECTED = ClassifierConfig(
    FullyConnected(), num_steps=5_500, batch_size=100, optimizer=Optimizer("sgd"), rate_decay=1.0,
    weight_decay=0.0,
)  # fmt: skip
"""10 epochs of SGD as in Arora, Cohen, Golowich & Hu (2019), whose rate is 0.01."""

SMALL_CNN = ClassifierConfig(
    SmallCNN(), optimizer=Optimizer("sgd"), rate_decay=1.0, weight_decay=0.0
)
"""10 epochs of SGD, to go with Levy & Wang (2024)."""


class ClassifierHyper(NamedTuple):
    """What distinguishes the configurations of a call; traced, one row each.

    Attributes:
        learning_rate: η.
        seed: Of the dropout masks.
    """

    learning_rate: Any
    seed: Any


class ClassifierState(NamedTuple):
    """A run between two steps; one row for each configuration.

    Attributes:
        parameters: The network's.
        opt_state: The optimizer's.
        limit: Objective above which the run counts as diverged; set at step 0.
        divergence_step: First step whose objective is above it or not a number; −1 before that.
    """

    parameters: Any
    opt_state: Any
    limit: Any
    divergence_step: Any


Progress = Callable[[int, int], None]


def scale_pixels(images: Any, dtype: Any) -> jax.Array:
    """Uint8 pixels 0 … 255 to numbers from −0.5 to 0.5, as the TensorFlow tutorial does."""
    return images.astype(dtype) / 255 - 0.5


def batch_order(seed: int, epoch: int, num_train: int) -> np.ndarray:
    """The order (num_train,) in which an epoch takes the training images, by number.

    It depends on nothing but the arguments: all learning rates, starts and networks see the same
    mini-batches.
    """
    # The 1 sets it apart from the initial weights' streams, which have two numbers.
    sequence = np.random.SeedSequence([seed, epoch, 1])
    return np.random.Generator(np.random.PCG64(sequence)).permutation(num_train)


def dropout_mask(network: Network, seed: Any, step: Any, num_images: int) -> jax.Array:
    """Which features dropout keeps at a step: (images, features) booleans.

    Like the mini-batches it depends on the seed and the step alone.
    """
    key = jax.random.fold_in(jax.random.key(seed), step)
    shape = (num_images, network.num_features)
    # A float32 probability, or the mask would be another one in float64.
    return jax.random.bernoulli(key, np.float32(1 - network.dropout), shape)


def cross_entropy(logits: Any, labels: Any) -> jax.Array:
    """Mean of −log softmax(logits)[label] over the images."""
    rows = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None].astype(int), axis=1)
    return -jnp.mean(rows)


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
    if not config.uses_penalty:
        return loss, loss
    return loss + config.weight_decay * config.network.penalty(parameters), loss


def classifier_step(
    config: ClassifierConfig,
    state: ClassifierState,
    hyper: ClassifierHyper,
    images: Any,
    labels: Any,
    step: Any,
    epoch: Any,
) -> tuple[ClassifierState, jax.Array]:
    """One step of one run: evaluate a mini-batch, take note, update.

    Args:
        config: Static.
        state: The run after ``step`` updates.
        hyper: The run's configuration.
        images: The mini-batch, (n, 28, 28) uint8.
        labels: (n,).
        step: t.
        epoch: The number of whole epochs before t.

    Returns:
        The state after one more update, and (objective, cross-entropy) at t, both inf from the
        run's divergence on.
    """
    dtype = state.limit.dtype
    pixels = scale_pixels(images, dtype)
    keep = None
    if config.network.dropout > 0:
        keep = dropout_mask(config.network, hyper.seed, step, len(images))
    (loss, entropy), gradient = jax.value_and_grad(
        lambda p: objective(config, p, pixels, labels, keep), has_aux=True
    )(state.parameters)
    # log 10 is the cross-entropy of knowing nothing: a lucky start sets no low limit.
    start = DIVERGENCE_FACTOR * jnp.maximum(loss, math.log(NUM_CLASSES))
    limit = jnp.where(step == 0, start, state.limit)
    # Written this way round, NaN diverges.
    sound = (loss <= limit) & jnp.isfinite(loss)
    running = state.divergence_step < 0
    divergence_step = jnp.where(running & ~sound, step, state.divergence_step)
    running &= sound

    rate = hyper.learning_rate * jnp.asarray(config.rate_decay, dtype) ** epoch
    updates, opt_state = config.optimizer.build(rate).update(
        gradient, state.opt_state, state.parameters
    )
    moved = (optax.apply_updates(state.parameters, updates), opt_state)
    parameters, opt_state = jax.tree.map(
        lambda new, old: jnp.where(running, new, old), moved, (state.parameters, state.opt_state)
    )
    state = ClassifierState(parameters, opt_state, limit, divergence_step)
    return state, jnp.where(running, jnp.stack([loss, entropy]), jnp.inf)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _run_segment(
    config: ClassifierConfig,
    state: ClassifierState,
    hyper: ClassifierHyper,
    images: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    start: jax.Array,
    count: jax.Array,
    epoch: jax.Array,
) -> tuple[ClassifierState, jax.Array]:
    """Some steps of one epoch for a block of B runs; ``indices`` (S, B, n) choose the images.

    Only the first ``count`` of the S steps are done. Gives the states and (S, B, 2) losses.
    """
    step_block = jax.vmap(
        lambda state, hyper, chosen, step: classifier_step(
            config, state, hyper, images[chosen], labels[chosen], step, epoch
        ),
        in_axes=(0, 0, 0, None),
    )

    def body(i: Any, carry: tuple[ClassifierState, jax.Array]) -> Any:
        state, losses = carry
        state, now = step_block(state, hyper, indices[i], start + i)
        return state, lax.dynamic_update_index_in_dim(losses, now, i, 0)

    S, B = indices.shape[:2]
    nothing = jnp.full((S, B, 2), jnp.inf, state.limit.dtype)
    # A block whose every run has diverged costs nothing any more.
    count = jnp.where(jnp.any(state.divergence_step < 0), count, 0)
    return lax.fori_loop(0, count, body, (state, nothing))


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(
    config: ClassifierConfig,
    state: ClassifierState,
    parts: tuple[tuple[jax.Array, jax.Array], ...],
) -> tuple[jax.Array, jax.Array]:
    """Errors (B, parts) and end-to-end penalties (B,), inf for runs that have diverged.

    A part is images (chunks, n, 28, 28) and labels (chunks, n), −1 for padding.
    """

    def one(state: ClassifierState) -> tuple[jax.Array, jax.Array]:
        dtype = state.limit.dtype

        def wrong(chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            images, labels = chunk
            logits = config.network.logits(state.parameters, scale_pixels(images, dtype))
            missed = (labels >= 0) & (jnp.argmax(logits, axis=1) != labels)
            return jnp.sum(missed), jnp.all(jnp.isfinite(logits))

        errors = []
        sound = state.divergence_step < 0
        for images, labels in parts:
            missed, finite = lax.map(wrong, (images, labels))
            sound &= jnp.all(finite)
            errors.append(jnp.sum(missed) / jnp.sum(labels >= 0).astype(dtype))
        penalty = config.network.end_to_end_penalty(state.parameters)
        sound &= jnp.isfinite(penalty)
        return (
            jnp.where(sound, jnp.array(errors, dtype), jnp.inf),
            jnp.where(sound, penalty, jnp.inf),
        )

    return jax.vmap(one)(state)


def train_classifiers(
    data: ImageData,
    config: ClassifierConfig,
    *,
    learning_rates: Sequence[float],
    stds: Sequence[float] | None = None,
    seeds: Sequence[int] = (0,),
    largest_block: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Trains a network over learning rates × initial standard deviations × seeds.

    Mini-batches and dropout masks depend on the seed alone: runs that differ in anything else,
    the network included, see the same ones. Errors are evaluated at the start, at the end of
    every epoch and at the end, without dropout.

    Args:
        data: Images to train and test with.
        config: What is trained, and how.
        learning_rates: η's, numbers above 0.
        stds: Standard deviations that the network's start leaves open, see its ``draw``; None
            for a network that leaves none.
        seeds: Different whole numbers from 0 up, below 2³².
        largest_block: The most runs to step together; the network's own by default. More is
            faster on a GPU, and takes as much more memory.
        progress: Called with (runs × steps done, all of them) several times per run.

    Returns:
        Over (learning_rate, init_std, seed, step): ``cross_entropy`` of the training
        mini-batches, and ``regularised_loss``, with λ · penalty added, both means over windows;
        ``step`` is the number of updates after the window. Over (learning_rate, init_std, seed,
        evaluation_step): ``test_error``, ``validation_error`` (if images are held out), shares of
        images that are not recognised, and ``end_to_end_penalty``, ½ ‖·‖² of the end-to-end dense
        matrices and biases, which compares products with single matrices. Over the first three:
        ``divergence_step``, NaN if the run did not diverge. All else is inf from a run's
        divergence on. ``init_std`` is NaN for a network without.

    Raises:
        UserError: A value is not allowed, or there are too few images.
    """
    rates, all_stds, seeds = _check_grid(config, learning_rates, stds, seeds)
    train_parts, evaluated = _split(data, config)
    num_train = len(train_parts[1])
    runs = [(r, s, seed) for r in rates for s in all_stds for seed in seeds]
    B = min(len(runs), largest_block or config.network.largest_block)
    steps = np.arange(config.window, config.num_steps + config.window, config.window)
    steps[-1] = config.num_steps
    epoch_steps = num_train // config.batch_size
    evaluation_steps = [*range(0, config.num_steps, epoch_steps), config.num_steps]

    losses = np.full((len(runs), config.num_steps, 2), np.inf)
    errors = np.full((len(runs), len(evaluation_steps), len(evaluated)), np.inf)
    penalties = np.full((len(runs), len(evaluation_steps)), np.inf)
    divergence = np.full(len(runs), -1)
    with precision_context(config.precision) as dtype:
        images, labels = jax.device_put(train_parts)
        parts = jax.device_put(tuple(_chunks(*part) for part in evaluated.values()))
        # What the compiled code does not depend on is left out of its key: calls share it.
        static = replace(
            config, num_steps=1, num_train=None, num_validation=0, num_test=None, window=1
        )
        for first in range(0, len(runs), B):
            # Padding repeats the last run, so that all blocks have one shape.
            rows = np.minimum(np.arange(first, first + B), len(runs) - 1)
            block = [runs[row] for row in rows]
            state, hyper = _start(config, block, dtype)
            errors[rows, 0], penalties[rows, 0] = _evaluate(static, state, parts)
            for epoch, start, count, indices in _segments(config, num_train, block):
                state, now = _run_segment(
                    static, state, hyper, images, labels, indices,
                    np.int32(start), np.int32(count), np.int32(epoch),
                )  # fmt: skip
                losses[rows, start : start + count] = np.asarray(now)[:count].transpose(1, 0, 2)
                done = start + count
                if done in evaluation_steps:
                    where = evaluation_steps.index(done)
                    errors[rows, where], penalties[rows, where] = _evaluate(static, state, parts)
                if progress is not None:
                    real = min(B, len(runs) - first)
                    progress(first * config.num_steps + real * done, len(runs) * config.num_steps)
            divergence[rows] = np.asarray(state.divergence_step)

    grid = (len(rates), len(all_stds), len(seeds))
    edges = np.concatenate([[0], steps])
    means = np.add.reduceat(losses, edges[:-1], axis=1) / np.diff(edges)[:, None]
    axes = ("learning_rate", "init_std", "seed")
    recorded, tested = (*axes, "step"), (*axes, "evaluation_step")
    diverged = np.where(divergence < 0, np.nan, divergence)
    variables: dict[str, Any] = {
        "cross_entropy": (
            recorded,
            means[..., 1].reshape(*grid, -1),
            {"long_name": "cross-entropy of the training mini-batches", "diverged": "inf"},
        ),
        "regularised_loss": (
            recorded,
            means[..., 0].reshape(*grid, -1),
            {"long_name": "cross-entropy + weight decay x penalty", "diverged": "inf"},
        ),
        "end_to_end_penalty": (
            tested,
            penalties.reshape(*grid, -1),
            {"long_name": "half the square norm of the end-to-end matrices", "diverged": "inf"},
        ),
        "divergence_step": (
            axes,
            diverged.reshape(grid),
            {"long_name": "step of divergence", "units": "updates", "never": "NaN"},
        ),
    }
    for i, part in enumerate(evaluated):
        variables[f"{part}_error"] = (
            tested,
            errors[..., i].reshape(*grid, -1),
            {"long_name": f"share of {part} images not recognised", "diverged": "inf"},
        )
    coordinates = {
        "learning_rate": np.array(rates),
        "init_std": np.array(all_stds),
        "seed": np.array(seeds),
        "step": ("step", steps, {"units": "updates"}),
        "evaluation_step": ("evaluation_step", evaluation_steps, {"units": "updates"}),
        "network": config.network.name,
        "dataset": data.name,
    }
    attributes = {
        "title": data.title,
        "source": data.source,
        "is_stand_in": int(data.is_stand_in),
        "dataset_fingerprint": data.fingerprint,
        "num_train": num_train,
        "epoch_steps": epoch_steps,
        "batch_size": config.batch_size,
        "optimizer": config.optimizer.name,
        "rate_decay": config.rate_decay,
        "weight_decay": config.weight_decay,
        "window": config.window,
        "precision": config.precision,
    }
    return xr.Dataset(variables, coordinates, attributes)


def _check_grid(
    config: ClassifierConfig,
    learning_rates: Sequence[float],
    stds: Sequence[float] | None,
    seeds: Sequence[int],
) -> tuple[list[float], list[float], list[int]]:
    network = config.network
    if (stds is not None) != network.has_std:
        needed = "needs" if network.has_std else "has no"
        raise UserError(f"network {network.name!r} {needed} initial standard deviations (stds)")
    axes = [("learning rate", list(learning_rates)), ("seed", list(seeds))]
    axes += [("initial standard deviation", list(stds))] if stds is not None else []
    for what, values in axes:
        if not values or len(set(values)) < len(values):
            raise UserError(f"{what}s {values}: give one or more, each once")
    for rate in learning_rates:
        if not (math.isfinite(rate) and rate > 0):
            raise UserError(f"learning rate {rate:g}: it must be a finite number above 0")
    for std in stds or ():
        if not (math.isfinite(std) and std >= 0):
            raise UserError(f"initial standard deviation {std:g}: it must be a number >= 0")
    for seed in seeds:
        _check_count("seed", seed, least=0)
        if seed >= 2**32:
            raise UserError(f"seed {seed}: it must be below 2^32")
    if math.prod(len(values) for _, values in axes) * config.num_steps > _MOST_RECORDS:
        raise UserError(
            f"num_steps {config.num_steps}: with so many runs their losses take more than 2 GiB; "
            "take fewer steps or runs"
        )
    return (
        [float(rate) for rate in learning_rates],
        [math.nan] if stds is None else [float(std) for std in stds],
        [int(seed) for seed in seeds],
    )


_Part = tuple[np.ndarray, np.ndarray]


def _split(data: ImageData, config: ClassifierConfig) -> tuple[_Part, dict[str, _Part]]:
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
    evaluated = {"test": (data.test_images[:num_test], data.test_labels[:num_test])}
    if held_out:
        evaluated["validation"] = (data.train_images[:held_out], data.train_labels[:held_out])
    return (data.train_images[kept], data.train_labels[kept]), evaluated


def _chunks(images: np.ndarray, labels: np.ndarray) -> _Part:
    """(chunks, n, …): bounds the memory of an evaluation. Padding has the label −1."""
    n = min(_EVALUATION_BATCH, len(labels))
    extra = -len(labels) % n
    images = np.concatenate([images, np.zeros((extra, *images.shape[1:]), images.dtype)])
    labels = np.concatenate([labels.astype(np.int32), np.full(extra, -1, np.int32)])
    return images.reshape(-1, n, *images.shape[1:]), labels.reshape(-1, n)


def _start(
    config: ClassifierConfig, block: Sequence[tuple[float, float, int]], dtype: np.dtype
) -> tuple[ClassifierState, ClassifierHyper]:
    drawn = [config.network.draw(std, seed) for _, std, seed in block]
    parameters = jax.tree.map(lambda *a: jnp.asarray(np.stack(a), dtype), *drawn)
    B = len(block)
    hyper = ClassifierHyper(
        jnp.array([rate for rate, _, _ in block], dtype),
        jnp.array([seed for _, _, seed in block], np.uint32),
    )
    opt_state = jax.vmap(lambda rate, p: config.optimizer.build(rate).init(p))(
        hyper.learning_rate, parameters
    )
    return (
        ClassifierState(parameters, opt_state, jnp.zeros(B, dtype), jnp.full(B, -1, np.int32)),
        hyper,
    )


def _segments(
    config: ClassifierConfig, num_train: int, block: Sequence[tuple[float, float, int]]
) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """(epoch, first step, number of steps, (S, B, batch size) image numbers), one S for all."""
    n = config.batch_size
    epoch_steps = num_train // n
    S = min(_SEGMENT, epoch_steps, config.num_steps)
    for begin in range(0, config.num_steps, epoch_steps):
        epoch = begin // epoch_steps
        orders = {seed: batch_order(seed, epoch, num_train) for _, _, seed in block}
        end = min(begin + epoch_steps, config.num_steps)
        for start in range(begin, end, S):
            count = min(S, end - start)
            indices = np.zeros((S, len(block), n), np.int32)
            within = slice((start - begin) * n, (start - begin + count) * n)
            for b, (_, _, seed) in enumerate(block):
                indices[:count, b] = orders[seed][within].reshape(count, n)
            yield epoch, start, count, indices


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """N(0, 1) cut at ±2, by the inverse of its distribution function."""
    low, high = scipy.special.ndtr([-2.0, 2.0])
    return scipy.special.ndtri(rng.uniform(low, high, shape))


def _half_square(parameters: Any) -> Any:
    return sum(jnp.sum(a * a) for a in jax.tree.leaves(parameters)) / 2


def _dense(layer: Dense, features: jax.Array) -> jax.Array:
    return predict(Layers(layer.factors), features) + layer.bias


def _convolve_and_pool(parameters: ConvolutionalParameters, pixels: Any) -> jax.Array:
    """(n, 28, 28) → (n, 7 · 7 · channels): convolution, ReLU and maximum, for each convolution."""
    h = pixels[..., None]
    for layer in parameters.convolutions:
        h = _maximum_of_four(jax.nn.relu(_convolve(h, layer)))
    return h.reshape(len(h), -1)


def _convolve(x: jax.Array, layer: Convolution) -> jax.Array:
    """Convolution with zero padding that keeps the size: (n, rows, columns, channels).

    It is written as one product of matrices: the patches side by side, times the kernel. Within a
    loop on a CPU, XLA's own convolution and its gradients are 20 times slower (TutorialCNN, batch
    64, 2 cores: 90 against 1900 images/s), and slower still when vmapped over kernels.
    """
    size, _, inputs, outputs = layer.kernel.shape
    n, rows, columns, _ = x.shape
    before = size // 2
    padded = jnp.pad(x, ((0, 0), (before, before), (before, before), (0, 0)))
    # One axis after the other: 2 · size slices instead of size², which compile faster.
    wide = jnp.concatenate([padded[:, :, j : j + columns] for j in range(size)], axis=-1)
    patches = jnp.concatenate([wide[:, i : i + rows] for i in range(size)], axis=-1)
    product = matmul(patches.reshape(-1, size * size * inputs), layer.kernel.reshape(-1, outputs))
    return product.reshape(n, rows, columns, outputs) + layer.bias


def _maximum_of_four(x: jax.Array) -> jax.Array:
    """The maximum over blocks of 2 × 2 pixels."""
    x = jnp.maximum(x[:, 0::2], x[:, 1::2])
    return jnp.maximum(x[:, :, 0::2], x[:, :, 1::2])
