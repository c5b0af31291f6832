"""ℓp losses and the optimum of linear regression under them.

The loss of a residual matrix R (rows × outputs) is the mean over all of its entries of
``|r|^p / p`` (Arora, Cohen & Hazan 2018) or of ``|r|^p`` (Levy & Wang 2024; PyTorch's MSE for
p = 2). Everything here that takes an array works on numpy and on JAX arrays alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Float, Num

from implicit_accel.errors import UserError
from implicit_accel.fields import finite, shown

CONVENTIONS = ("paper", "plain")

# Numbers to which a function is applied one by one, in arrays that broadcast.
Entries = Num[Any, "*#shape"] | float

# For larger even p the coefficients of the excess loss's polynomial overflow in float32; such p are
# treated like those that are not even.
_LARGEST_EVEN = 32

# The largest relative error of an optimum (estimated) for which excess losses are meaningful.
_LARGEST_ERROR = 1e-6


def shortest(value: float) -> str:
    """A number as text, with the fewest digits that identify it."""
    return next(t for digits in (6, 15, 16, 17) if float(t := f"{value:.{digits}g}") == value)


# What others call ℓ2.
_SQUARED = ("mse", "l_2", "squared", "square", "quadratic", "ls", "least_squares")


@dataclass(frozen=True)
class Loss:
    """An ℓp loss.

    Attributes:
        p: The exponent, a real number ≥ 2.
        convention: ``paper`` for mean ``|r|^p / p``, ``plain`` for mean ``|r|^p``.

    Raises:
        UserError: If p is below 2 or not finite, or the convention is unknown.
    """

    p: float
    convention: str = "paper"

    def __post_init__(self) -> None:
        p = finite(self.p)
        if p is None or p < 2:
            raise UserError(f"loss exponent p = {shown(self.p)}: p must be a finite number >= 2")
        object.__setattr__(self, "p", p)
        if not isinstance(self.convention, str) or self.convention not in CONVENTIONS:
            text = shown(self.convention, repr)
            raise UserError(f"loss convention {text}: choose from {', '.join(CONVENTIONS)}")

    @classmethod
    def parse(cls, text: str, convention: str = "paper") -> Loss:
        """Reads ``l2``, ``l4``, ``l2.5`` and so on.

        Raises:
            UserError: If the text is not an ``l`` followed by a number ≥ 2.
        """
        try:
            if not text.startswith("l"):
                raise ValueError
            p = float(text[1:])
        except ValueError:
            meant = "; the mean squared error is l2" if text.lower() in _SQUARED else ""
            raise UserError(
                f"loss {text!r}: write an l and an exponent >= 2, like l2 or l4{meant}"
            ) from None
        return cls(p, convention)

    @property
    def name(self) -> str:
        """As `parse` reads it: ``l2``, ``l4``, ``l2.5``."""
        return f"l{shortest(self.p)}"

    @property
    def scale(self) -> float:
        """The factor in front of ``|r|^p``, 1/p or 1."""
        return 1 / self.p if self.convention == "paper" else 1.0

    @property
    def is_even(self) -> bool:
        """Whether p is an even integer, so that ``|r|^p`` is a polynomial in r."""
        return self.p % 2 == 0 and self.p <= _LARGEST_EVEN

    def penalty(self, r: Entries) -> Any:
        """``scale · |r|^p``, entry by entry."""
        return self.scale * _power(r if self.is_even else abs(r), self.p)

    def derivative(self, r: Entries) -> Any:
        """The penalty's derivative, ``scale · p · r |r|^(p−2)``, entry by entry."""
        slope = self.scale * self.p
        magnitude = _power(r if self.is_even else abs(r), self.p - 2)
        return slope * r * magnitude if self.p > 2 else slope * r

    def curvature(self, r: Entries) -> Any:
        """The penalty's second derivative, ``scale · p (p−1) |r|^(p−2)``, entry by entry."""
        magnitude = _power(r if self.is_even else abs(r), self.p - 2)
        return self.scale * self.p * (self.p - 1) * magnitude

    def excess(self, r: Entries, r_star: Entries) -> Any:
        """Bregman divergence ``φ(r) − φ(r*) − φ'(r*)(r − r*)`` of an even p, entry by entry.

        Its mean is the excess loss L − L* when r* are the residuals at the optimum, where
        ``Xᵀφ'(r*) = 0`` makes the linear term vanish. As a product of δ² = (r − r*)² and a
        non-negative polynomial it loses no digits to cancellation, unlike a difference of losses.

        With ``r = r* + δ``, binomially ``|r|^p = Σ_j C(p, j) r*^(p−j) δ^j``; j ≥ 2 remain.
        """
        p = int(self.p)
        delta = r - r_star
        # Horner's rule in δ; the coefficients depend on r* alone.
        polynomial = 1.0
        for j in range(p - 1, 1, -1):
            polynomial = polynomial * delta + float(math.comb(p, j)) * _power(r_star, p - j)
        return self.scale * (delta * delta) * polynomial

    def check_range(self, targets: Num[np.ndarray, "n k"], precision: str = "float64") -> None:
        """Checks that losses about as large as the zero predictor's are numbers of a precision.

        Args:
            targets: (n, k).
            precision: ``float32`` or ``float64``.

        Raises:
            UserError: If they are not.
        """
        largest = float(np.max(np.abs(targets), initial=0.0))
        if largest == 0:
            return
        with np.errstate(under="ignore"):  # an entry may be 0 beside larger ones
            shares = np.mean(_power(np.abs(targets) / largest, self.p))
        digits = math.log10(self.scale * float(shares)) + self.p * math.log10(largest)
        limits = np.finfo(precision)
        most = math.log10(limits.max) - math.log10(self.p * targets.size)  # slopes' sums as well
        if not math.log10(limits.tiny) < digits < most:
            advice = "use --precision float64, or " if precision == "float32" else ""
            raise UserError(
                f"loss {self.name}: predicting zero has a loss of about 1e{round(digits):+d}, "
                f"which {precision} does not hold; {advice}choose a smaller exponent"
            )

    def mean(self, r: Num[Any, " ..."]) -> Num[Any, ""]:
        """The loss of a residual array: the mean penalty over all entries."""
        return self.penalty(r).mean()


def _power(x: Any, exponent: float) -> Any:
    # Integer exponents become a few multiplications instead of a call to pow.
    if exponent != int(exponent) or exponent >= 2**31:
        return x**exponent
    n = int(exponent)
    # JAX does so by itself; numpy does up to squares.
    if not isinstance(x, np.ndarray) or not 2 < n <= _LARGEST_EVEN:
        return x**n
    half = _power(x, n // 2)
    return half * half * x if n % 2 else half * half


@dataclass(frozen=True)
class Optimum:
    """The best affine or linear map of a problem under a loss.

    Attributes:
        loss: L*, the smallest training loss.
        weights: Minimiser, (k, d); the minimum-norm one where it is not unique and p = 2.
        bias: Minimiser's bias, (k,); zero if the map is linear.
        residuals: ``X Wᵀ + b − Y`` at the minimiser, (n, k).
        error: Estimate of how far ``loss`` may lie above the true minimum (Newton decrement).
    """

    loss: float
    weights: Float[np.ndarray, "k d"]
    bias: Float[np.ndarray, " k"]
    residuals: Float[np.ndarray, "n k"]
    error: float


def optimum(
    loss: Loss | str,
    features: Num[np.ndarray, "n d"],
    targets: Num[np.ndarray, "n k"],
    *,
    bias: bool = False,
) -> Optimum:
    """Minimises an ℓp loss over linear (affine if ``bias``) maps, in float64.

    For p = 2 this is least squares. Otherwise each output is a smooth convex problem of its own,
    solved by Newton's method with backtracking in an orthonormal basis of the features' range,
    so that their conditioning (10¹⁰ for the Ethanol data) does not enter. Up to p = 300 and beyond
    the loss agrees with a computation of 60 digits to 12 (see the tests).

    Args:
        loss: The loss, or its name, as `Loss.parse` reads it.
        features: (n, d).
        targets: (n, k).
        bias: Whether a constant may be added.

    Returns:
        The optimum; its ``loss`` is accurate to rounding.

    Raises:
        UserError: If float64 does not hold the loss, or does not resolve its optimum.
    """
    loss = Loss.parse(loss) if isinstance(loss, str) else loss
    loss.check_range(np.asarray(targets))
    X = np.asarray(features, np.float64)
    Y = np.asarray(targets, np.float64)
    design = np.hstack([X, np.ones((len(X), 1))]) if bias else X
    U, s, Vt = scipy.linalg.svd(design, full_matrices=False)
    rank = int(np.sum(s > s[0] * max(design.shape) * np.finfo(np.float64).eps)) if s.size else 0
    U, s, Vt = U[:, :rank], s[:rank], Vt[:rank]

    coefficients, errors = [], []
    for y in Y.T:
        with np.errstate(over="ignore", under="ignore"):  # steps too long, small residuals
            a, error = _lp_regression(loss, U, y)
        coefficients.append(a)
        errors.append(error)
    A = np.stack(coefficients, axis=1)  # (rank, k)
    if max(errors, default=0.0) > _LARGEST_ERROR:
        raise UserError(
            f"loss {loss.name}: its optimum on these data is beyond float64; choose a smaller "
            "exponent"
        )
    residuals = U @ A - Y
    with np.errstate(under="ignore"):
        penalties = loss.penalty(residuals).mean(axis=0)
    solution = (Vt.T @ (A / s[:, None])).T  # (k, d [+ 1])
    d = X.shape[1]
    return Optimum(
        loss=float(np.mean(penalties)),
        weights=solution[:, :d],
        bias=solution[:, d] if bias else np.zeros(Y.shape[1]),
        residuals=residuals,
        error=float(np.mean(penalties * errors)),
    )


def _lp_regression(loss: Loss, U: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Minimises mean φ(U a − y) for orthonormal columns U.

    Newton's method starts from least squares; large exponents are reached by factors of 4, since
    each optimum lies where the next exponent's method converges fast. A common factor of the
    residuals changes nothing but the risk of over- and underflow, so each time the largest is
    made 1.

    Returns:
        a, and how far mean φ may lie above the minimum, relative to it.
    """
    a, error = U.T @ y, 0.0
    eps = np.finfo(np.float64).eps
    exponents = [loss.p / 4**k for k in range(math.ceil(math.log(loss.p / 2, 4)) - 1, -1, -1)]
    for p in exponents:
        size = float(np.max(np.abs(U @ a - y)))
        if size <= eps * float(np.max(np.abs(y), initial=0.0)) * 10:
            return a, 0.0  # the labels are a linear function of the features
        a, error = _newton(Loss(p, loss.convention), U, y / size, a / size)
        a = a * size
    return a, error


def _newton(loss: Loss, U: np.ndarray, y: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, float]:
    """Minimises mean φ(U a − y) from a start whose largest residual is 1."""
    eps = np.finfo(np.float64).eps
    r = U @ a - y
    value, decrement = loss.mean(r), math.inf
    for _ in range(500):
        gradient = U.T @ loss.derivative(r) / len(y)
        hessian = (U.T * loss.curvature(r)) @ U / len(y)
        # Curvature vanishes with the residuals; the ridge keeps the factorisation possible.
        ridge = eps * max(float(np.trace(hessian)), np.finfo(np.float64).tiny)
        step = -scipy.linalg.solve(hessian + ridge * np.eye(len(a)), gradient, assume_a="pos")
        decrement = -float(gradient @ step) / 2
        if decrement <= eps * value:
            break
        rate = 1.0
        while rate > eps:
            r_next = U @ (a + rate * step) - y
            value_next = loss.mean(r_next)
            if value_next < value - 1e-4 * rate * 2 * decrement:
                break
            rate /= 2
        else:
            break  # the decrease is below rounding: as good as float64 allows
        a, r, value = a + rate * step, r_next, value_next
    return a, max(decrement, 0.0) / value
