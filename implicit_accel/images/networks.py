"""Image classifiers: does overparameterising the dense layers help them?

Three networks: the convolutional one of the TensorFlow tutorial, with or without its dense
matrices replaced by products (Arora, Cohen & Hazan 2018); the fully connected ReLU network of
Arora, Cohen, Golowich & Hu (2019); a small convolutional one.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from implicit_accel.data.mnist import NUM_CLASSES, SIDE
from implicit_accel.errors import UserError
from implicit_accel.fields import items_of, plain
from implicit_accel.linear.initialisers import Initialiser, stream
from implicit_accel.linear.networks import Layers, matmul, predict

REGULARISED = ("factors", "first", "product", "none")
"""What weight decay may act on where a matrix is a product, see `TutorialCNN`."""

_STD = 0.1  # of the TensorFlow tutorial's weights


def check_count(what: str, value: object, least: int = 1) -> None:
    """Makes sure that a value is a whole number.

    Raises:
        UserError: If it is not, or below the least.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UserError(f"{what} {value!r}: it must be a whole number from {least} up")


def _read_counts(what: str, given: Any) -> tuple[int, ...]:
    """Whole numbers >= 1 from a list or an array."""
    counts = tuple(map(plain, items_of(what, given)))
    for count in counts:
        check_count(what, count)
    return counts


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

    @property
    def operations(self) -> float:
        """Floating-point operations of a training step, for one image."""
        first, second = self.channels
        flat = second * (SIDE // 4) ** 2
        dense = self.hidden_width * (flat + (self.hidden_width if self.overparameterised else 0))
        return _operations((SIDE**2 * 25 * first), (SIDE // 2) ** 2 * 25 * first * second, dense)

    def __post_init__(self) -> None:
        if self.regularised not in REGULARISED:
            raise UserError(
                f"regularised {self.regularised!r}: choose from {', '.join(REGULARISED)}"
            )
        object.__setattr__(self, "channels", _read_counts("channels", self.channels))
        if len(self.channels) != 2:
            raise UserError(f"channels {self.channels}: give one number for each of 2 convolutions")
        check_count("hidden width", self.hidden_width)
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
        square = half_square_of_product if self.overparameterised else _half_square
        matrices = sum(square(*d.factors) for d in parameters.dense)
        return matrices + _half_square([d.bias for d in parameters.dense])


@dataclass(frozen=True)
class SmallCNN:
    """A small convolutional network in PyTorch's default initialisation.

    Convolutions 3 × 3 that pad with zeros to keep the size, each with ReLU and a 2 × 2 maximum
    (which leaves out an odd last row and column), dense to the hidden width, ReLU, dense to 10.
    All weights and biases start uniform on ±1/√fan_in. The default is Levy & Wang's (2024)
    ``BasicCNN``: 1 → 4 → 8 → 16 channels, 144 → 32 → 10.

    Attributes:
        channels: Outputs of the convolutions, of which there are one to four.
        hidden_width: Outputs of the first dense layer; None for a single one.

    Raises:
        UserError: A value is not allowed.
    """

    channels: tuple[int, ...] = (4, 8, 16)
    hidden_width: int | None = 32

    name: ClassVar[str] = "small cnn"
    has_std: ClassVar[bool] = False
    dropout: ClassVar[float] = 0.0
    num_features: ClassVar[int] = 0
    largest_block: ClassVar[int] = 1

    @property
    def operations(self) -> float:
        """Floating-point operations of a training step, for one image."""
        inputs = (1, *self.channels[:-1])
        sides = [SIDE >> j for j in range(len(self.channels))]
        layers = zip(sides, inputs, self.channels, strict=True)
        convolutions = [side**2 * 9 * before * after for side, before, after in layers]
        return _operations(*convolutions, *(a * b for a, b in itertools.pairwise(self._widths)))

    @property
    def _widths(self) -> tuple[int, ...]:
        """Of the dense part, from its inputs to its outputs."""
        flat = self.channels[-1] * (SIDE >> len(self.channels)) ** 2
        return (flat, *(() if self.hidden_width is None else (self.hidden_width,)), NUM_CLASSES)

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", _read_counts("channels", self.channels))
        if not 1 <= len(self.channels) <= 4:
            raise UserError(
                f"channels {self.channels}: give one number for each of 1 to 4 convolutions"
            )
        if self.hidden_width is not None:
            check_count("hidden width", self.hidden_width)

    def draw(self, std: float, seed: int) -> ConvolutionalParameters:  # noqa: ARG002
        """Initial parameters; ``std`` has no effect."""

        def uniform(layer: int, fan_in: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
            rng, bound = stream(seed, layer), 1 / math.sqrt(fan_in)
            return [rng.uniform(-bound, bound, shape) for shape in shapes]

        convolutions = itertools.pairwise((1, *self.channels))
        first = len(self.channels)
        dense = []
        for j, (inputs, outputs) in enumerate(itertools.pairwise(self._widths)):
            W, b = uniform(first + j, inputs, (outputs, inputs), (outputs,))
            dense.append(Dense((W,), b))
        return ConvolutionalParameters(
            tuple(
                Convolution(*uniform(j, 9 * inputs, (3, 3, inputs, outputs), (outputs,)))
                for j, (inputs, outputs) in enumerate(convolutions)
            ),
            tuple(dense),
        )

    def logits(
        self,
        parameters: ConvolutionalParameters,
        pixels: Any,
        keep: Any = None,  # noqa: ARG002
    ) -> jax.Array:
        """Outputs (n, 10)."""
        features = _convolve_and_pool(parameters, pixels)
        for layer in parameters.dense[:-1]:
            features = jax.nn.relu(_dense(layer, features))
        return _dense(parameters.dense[-1], features)

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

    @property
    def operations(self) -> float:
        """Floating-point operations of a training step, for one image."""
        widths = (SIDE**2, *self.hidden_widths, NUM_CLASSES)
        return _operations(*(a * b for a, b in itertools.pairwise(widths)))

    def __post_init__(self) -> None:
        widths = _read_counts("hidden width", self.hidden_widths)
        object.__setattr__(self, "hidden_widths", widths)
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
* ``operations``: about how many floating-point operations a step takes per image.
* ``draw(std, seed)``: initial parameters, float64 numpy, a function of the arguments alone.
* ``logits(parameters, pixels, keep)``: outputs (n, 10) for pixels (n, 28, 28); ``keep``, booleans
  (n, features), is dropout's mask, None in evaluation.
* ``penalty(parameters)``: ½ ‖·‖² of what weight decay acts on; ``end_to_end_penalty``: of the
  dense layers' end-to-end matrices and biases, whatever is regularised.
"""


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """N(0, 1) cut at ±2, by the inverse of its distribution function."""
    low, high = scipy.special.ndtr([-2.0, 2.0])
    return scipy.special.ndtri(rng.uniform(low, high, shape))


def _operations(*products: int) -> float:
    """Of a step, forwards and backwards, from the multiplications of the layers forwards."""
    return 6.0 * sum(products)


def _half_square(parameters: Any) -> Any:
    return sum(jnp.sum(a * a) for a in jax.tree.leaves(parameters)) / 2


@jax.custom_vjp
def half_square_of_product(first: jax.Array, second: jax.Array) -> jax.Array:
    """½ ‖W_2 W_1‖² = ½ ⟨W_2ᵀ W_2, W_1 W_1ᵀ⟩ without the product itself, which may be wide.

    Its gradients are ``W_2ᵀ W_2 W_1`` and ``W_2 W_1 W_1ᵀ``. For h × d and h × h factors value and
    gradients take 4 h² (d + h) operations in place of the product's 6 h² d.

    Args:
        first: W_1, (h, d).
        second: W_2, (k, h).

    Returns:
        A scalar, differentiable in reverse mode alone.
    """
    return _product_and_squares(first, second)[0]


def _product_and_squares(first: jax.Array, second: jax.Array) -> tuple[jax.Array, tuple[Any, ...]]:
    of_first, of_second = matmul(first, first.T), matmul(second.T, second)
    return jnp.sum(of_first * of_second) / 2, (first, second, of_first, of_second)


def _product_gradients(kept: tuple[Any, ...], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    first, second, of_first, of_second = kept
    return cotangent * matmul(of_second, first), cotangent * matmul(second, of_first)


half_square_of_product.defvjp(_product_and_squares, _product_gradients)


def _dense(layer: Dense, features: jax.Array) -> jax.Array:
    return predict(Layers(layer.factors), features) + layer.bias


def _convolve_and_pool(parameters: ConvolutionalParameters, pixels: Any) -> jax.Array:
    """(n, 28, 28) → (n, features): convolution, ReLU and maximum, for each convolution."""
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
    """The maximum over blocks of 2 × 2 pixels; an odd last row or column is left out."""
    _, rows, columns, _ = x.shape
    x = x[:, : rows // 2 * 2, : columns // 2 * 2]
    x = jnp.maximum(x[:, 0::2], x[:, 1::2])
    return jnp.maximum(x[:, :, 0::2], x[:, :, 1::2])
