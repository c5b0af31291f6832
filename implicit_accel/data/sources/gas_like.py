"""A stand-in for the gas data that needs no file at all."""

from importlib import resources

import numpy as np
import scipy.special

from implicit_accel.data.dataset import Dataset, DatasetSource
from implicit_accel.data.sources.gas import NUM_FEATURES
from implicit_accel.errors import UserError


def gas_like(*, num_rows: int = 2565, seed: int = 0) -> Dataset:
    """Generates a stand-in for the Ethanol data: same spectrum, no measured row in it.

    With everything standardised, the eigenvalues λ of XᵀX/n and the correlation ρ of the label
    with each principal component equal those of the 2565 Ethanol rows (package file
    ``data/gas_spectrum.csv``, ρ up to sign). They determine full-batch training on the square loss
    from a rotation-invariant initialisation. Other losses see the distributions too, which are
    imitated only roughly::

        X = Z diag(√λ) Vᵀ,   y = Z ρ + √(1 - |ρ|²) e,   [1 Z e]ᵀ[1 Z e] = n I,

    with V orthogonal such that every feature has variance 1, and heavy-tailed Z and e.

    Args:
        num_rows: The number of rows n, more than 130.
        seed: Same seed, same data.

    Returns:
        Features (n, 128) and target (n, 1), both with mean 0 and standard deviation 1.

    Raises:
        UserError: ``num_rows`` or ``seed`` is not a whole number in its range.
    """
    if not _is_int(num_rows) or num_rows <= NUM_FEATURES + 2:
        raise UserError(
            f"gas_like: num_rows is {num_rows!r}; it must be a whole number above "
            f"{NUM_FEATURES + 2}, such as 2565."
        )
    if not _is_int(seed) or seed < 0:
        raise UserError(f"gas_like: seed is {seed!r}; it must be a whole number from 0 up.")
    eigenvalues, correlations = _gas_spectrum()
    rng = np.random.Generator(np.random.PCG64(seed))
    scores, residual = _heavy_tailed_orthogonal(rng, num_rows)
    features = scores @ _loadings(rng, eigenvalues).T
    label = scores @ correlations + np.sqrt(1 - correlations @ correlations) * residual
    return Dataset(
        name="gas_like",
        features=features,
        targets=label[:, None],
        feature_names=tuple(f"feature{i}" for i in range(1, NUM_FEATURES + 1)),
        target_names=("label (standardised)",),
        source=(
            "generated stand-in, not measured data: it shares the spectrum of the Ethanol rows of "
            "UCI Gas Sensor Array Drift (doi 10.24432/C5MK6M, CC BY 4.0)"
        ),
        title="gas_like (embedded stand-in for Ethanol, not real data)",
        is_stand_in=True,
    )


def _is_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _gas_spectrum() -> tuple[np.ndarray, np.ndarray]:
    """Returns the 128 eigenvalues (summing to exactly 128) and label correlations."""
    file = resources.files("implicit_accel") / "data" / "gas_spectrum.csv"
    with file.open("r", encoding="utf-8") as lines:
        table = np.loadtxt(lines, delimiter=",", skiprows=1)
    # the file's seven digits leave the trace, the number of features, 4e-8 off
    return table[:, 1] * (len(table) / table[:, 1].sum()), table[:, 2]


def _heavy_tailed_orthogonal(
    rng: np.random.Generator, num_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns scores Z (n, 128) and residual e (n,) with [1 Z e]ᵀ[1 Z e] = n I, exactly.

    Each column holds the n evenly spaced quantiles of a Student t in random order, so that its
    tails do not depend on the luck of the draw; QR then makes the columns orthogonal.
    """
    # Degrees of freedom: such that the columns have the kurtosis (3 for a normal) of the 2565 real
    # rows: 3.6 in the first score, a median of 38 in the others (5 to 850), 153 in the residual.
    # 2565 quantiles of a t have 3.5 at df = 14, 38 at df = 2.5 and 166 at df = 1.8, which QR, here
    # last in turn, lowers to about 150. The label gets 4 to 7, median 5.2; the real one has 5.6.
    levels = (np.arange(num_rows) + 0.5) / num_rows
    columns = [np.ones(num_rows)]
    for df, count in ((14, 1), (2.5, NUM_FEATURES - 1), (1.8, 1)):
        quantiles = scipy.special.stdtrit(df, levels)
        columns += [rng.permutation(quantiles) for _ in range(count)]
    q, r = np.linalg.qr(np.column_stack(columns))
    q *= np.sqrt(num_rows) * np.sign(np.diag(r))  # QR leaves the signs to the library
    return q[:, 1:-1], q[:, -1]


def _loadings(rng: np.random.Generator, eigenvalues: np.ndarray) -> np.ndarray:
    """Returns L = V diag(√λ) with V random orthogonal and every row of L of unit length.

    Rotating two rows of L keeps LᵀL = diag(λ), and if one is shorter and the other longer than 1,
    some rotation gives one of them unit length (after P. Davies and N. Higham, BIT 40, 2000).
    """
    d = len(eigenvalues)
    loadings = np.linalg.qr(rng.standard_normal((d, d)))[0] * np.sqrt(eigenvalues)
    for _ in range(d - 1):
        # The shortest row gets unit length at the longest one's cost; the lengths' squares sum to
        # d, so each step fixes a row for good and the last step fixes two.
        squares = np.einsum("ij,ij->i", loadings, loadings)
        short, long = int(np.argmin(squares)), int(np.argmax(squares))
        below, above = 1 - squares[short], squares[long] - 1
        # |cos t short - sin t long|² = 1 is above tan²t - 2 product tan t - below = 0
        product = loadings[short] @ loadings[long]
        root = np.copysign(np.sqrt(product**2 + above * below), product)
        if root == 0:
            break
        tangent = -below / (product + root)
        cosine = 1 / np.hypot(1, tangent)
        sine = cosine * tangent
        loadings[[short, long]] = (
            cosine * loadings[short] - sine * loadings[long],
            sine * loadings[short] + cosine * loadings[long],
        )
    return loadings


SOURCE = DatasetSource(
    "gas_like",
    "an embedded, generated stand-in for the Ethanol data that needs no file",
    lambda progress: gas_like(),  # noqa: ARG005
)
