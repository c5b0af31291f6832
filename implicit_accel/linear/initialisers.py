"""Initial weights of a network, by name.

Draws are made by numpy in float64, one stream per seed and layer: they depend on the seed, the
initialiser and the layer shapes alone, not on the device, the precision, the version of JAX or
the grid around them. The same seed at another standard deviation is the same draw, rescaled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from implicit_accel.errors import UserError
from implicit_accel.fields import finite, shown
from implicit_accel.linear.networks import Layers, layer_shapes

_Draw = Callable[[tuple[tuple[int, int], ...], float, int], Layers]


def stream(seed: int, layer: int) -> np.random.Generator:
    """The random numbers of one layer."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, layer])))


def _zero_biases(weights: Sequence[np.ndarray]) -> Layers:
    return Layers(tuple(weights), tuple(np.zeros(W.shape[0]) for W in weights))


def _near_zero(shapes: tuple[tuple[int, int], ...], std: float, seed: int) -> Layers:
    """W_j ~ N(0, std²), i.i.d. entries; b_j = 0. Arora, Cohen & Hazan (2018)."""
    return _zero_biases([std * stream(seed, j).standard_normal(s) for j, s in enumerate(shapes)])


def _identity(shapes: tuple[tuple[int, int], ...], std: float, seed: int) -> Layers:
    """W_j = I + N(0, std²), with I the rectangular identity; b_j = 0.

    Arora, Cohen & Hazan (2018), for very deep networks.
    """
    return _zero_biases([W + np.eye(*W.shape) for W in _near_zero(shapes, std, seed).weights])


def _orthogonal(shapes: tuple[tuple[int, int], ...], std: float, seed: int) -> Layers:  # noqa: ARG001
    """W_j with orthonormal rows or columns, uniform (Haar); b_j = 0.

    It is Q of a Gaussian matrix's QR decomposition with R's diagonal made positive. Saxe,
    McClelland & Ganguli (2014); Levy & Wang (2024) call it near-identity.
    """

    def draw(shape: tuple[int, int], layer: int) -> np.ndarray:
        tall = stream(seed, layer).standard_normal((max(shape), min(shape)))
        Q, R = np.linalg.qr(tall)
        Q = Q * np.where(np.diag(R) < 0, -1.0, 1.0)
        return Q if Q.shape == shape else Q.T

    return _zero_biases([draw(shape, j) for j, shape in enumerate(shapes)])


def _pytorch(shapes: tuple[tuple[int, int], ...], std: float, seed: int) -> Layers:  # noqa: ARG001
    """W_j and b_j ~ U(−1/√fan_in, 1/√fan_in): ``torch.nn.Linear``'s default.

    It is Kaiming-uniform with a = √5 (He et al. 2015), as in PyTorch's source.
    """
    weights, biases = [], []
    for j, (fan_out, fan_in) in enumerate(shapes):
        rng, bound = stream(seed, j), 1 / math.sqrt(fan_in)
        weights.append(rng.uniform(-bound, bound, (fan_out, fan_in)))
        biases.append(rng.uniform(-bound, bound, fan_out))
    return Layers(tuple(weights), tuple(biases))


def _balanced(shapes: tuple[tuple[int, int], ...], std: float, seed: int) -> Layers:
    """End-to-end matrix W_e = U Σ Vᵀ ~ N(0, std²), split evenly over the layers; b_j = 0.

    W_1 = Σ^{1/N} Vᵀ, W_j = Σ^{1/N}, W_N = U Σ^{1/N}, filled with zeros. Then
    W_{j+1}ᵀ W_{j+1} = W_j W_jᵀ for all j. Procedure 1 of Arora, Cohen, Golowich & Hu (2019).
    """
    d, k, N = shapes[0][1], shapes[-1][0], len(shapes)
    end_to_end = std * stream(seed, 0).standard_normal((k, d))
    if N == 1:
        return _zero_biases([end_to_end])
    U, singular, Vt = np.linalg.svd(end_to_end, full_matrices=False)
    rank = len(singular)
    narrowest = min(fan_out for fan_out, _ in shapes[:-1])
    if narrowest < rank:
        raise UserError(
            f"balanced initialisation: hidden width {narrowest} is below the rank {rank} of the "
            f"end-to-end matrix ({k} x {d}); use hidden widths >= {rank}"
        )
    root = np.diag(singular ** (1 / N))
    cores = [root @ Vt] + [root] * (N - 2) + [U @ root]
    weights = []
    for core, shape in zip(cores, shapes, strict=True):
        W = np.zeros(shape)
        W[: core.shape[0], : core.shape[1]] = core
        weights.append(W)
    return _zero_biases(weights)


@dataclass(frozen=True)
class _Kind:
    draw: _Draw
    uses_std: bool


_KINDS: dict[str, _Kind] = {
    "near_zero": _Kind(_near_zero, uses_std=True),
    "identity": _Kind(_identity, uses_std=True),
    "orthogonal": _Kind(_orthogonal, uses_std=False),
    "pytorch": _Kind(_pytorch, uses_std=False),
    "balanced": _Kind(_balanced, uses_std=True),
}

INITIALISERS = tuple(_KINDS)


@dataclass(frozen=True)
class Initialiser:
    """The distribution of a network's initial weights.

    Attributes:
        name: One of `INITIALISERS`.
        std: Standard deviation of the Gaussian draw; of the end-to-end matrix for ``balanced``.
            NaN for the initialisers that have none (it is set so, whatever was given).

    Raises:
        UserError: If the name is unknown or the standard deviation is not a number ≥ 0.
    """

    name: str = "near_zero"
    std: float = 0.01

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in _KINDS:
            raise UserError(
                f"initialiser {shown(self.name, repr)}: choose from {', '.join(INITIALISERS)}"
            )
        std = math.nan
        if _KINDS[self.name].uses_std:
            number = finite(self.std)
            if number is None or number < 0:
                raise UserError(
                    f"initial standard deviation {shown(self.std)}: it must be a number >= 0"
                )
            std = float(number)
        object.__setattr__(self, "std", std)

    @property
    def key(self) -> tuple[str, float | None]:
        """Equal for equal initialisers (NaN, which equals nothing, becomes None)."""
        return self.name, None if math.isnan(self.std) else self.std

    def draw(
        self, d: int, hidden_widths: Sequence[int], k: int, *, bias: bool, seed: int
    ) -> Layers:
        """Draws the initial parameters of a network d → hidden widths → k.

        Args:
            d: Number of features.
            hidden_widths: Widths of the hidden layers, from the input's side.
            k: Number of outputs.
            bias: Whether the layers have biases.
            seed: A whole number ≥ 0.

        Returns:
            Float64 numpy arrays.

        Raises:
            UserError: If a balanced initialisation does not fit the hidden widths.
        """
        layers = _KINDS[self.name].draw(layer_shapes(d, hidden_widths, k), self.std, seed)
        return layers if bias else Layers(layers.weights)
