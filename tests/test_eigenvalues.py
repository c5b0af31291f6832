"""Eigenvalues of small symmetric matrices, and that many at once on many devices come to an end."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples
from programs import run

import implicit_accel as ia
from implicit_accel.eigenvalues import jacobi


@settings(max_examples=examples(25), deadline=None)
@given(
    seed=st.integers(0, 10**6), n=st.sampled_from([1, 2, 3, 7, 16]),
    kind=st.sampled_from(["full", "diagonal", "repeated", "spread", "zero", "saddle"]),
    exponent=st.integers(-20, 20),
)  # fmt: skip
def test_against_numpy(seed, n, kind, exponent):
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    values = {
        "full": rng.standard_normal(n), "diagonal": rng.standard_normal(n), "zero": np.zeros(n),
        "repeated": np.repeat(rng.standard_normal(n), 3)[:n], "spread": 10.0 ** -np.arange(n),
        "saddle": np.sign(rng.standard_normal(n)),
    }[kind]  # fmt: skip
    A = np.diag(values) if kind == "diagonal" else (Q * values) @ Q.T
    A = 10.0**exponent * (A + A.T) / 2
    for dtype, eps in (("float64", 2e-15), ("float32", 2e-6)):
        with jax.enable_x64(dtype == "float64"):
            found, vectors = map(np.asarray, jax.jit(jacobi)(A.astype(dtype)))
        size = np.abs(A).sum(axis=1).max() if n else 0
        np.testing.assert_allclose(found, np.linalg.eigvalsh(A), rtol=0, atol=10 * eps * size)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(n), atol=10 * eps)
        np.testing.assert_allclose(A @ vectors, vectors * found, rtol=0, atol=20 * eps * size)


def test_many_runs_on_several_devices_come_to_an_end(tmp_path):
    """With LAPACK in the place of Jacobi's method, two devices waited for each other for ever."""
    result = run(
        "sweep", "--record", "sharpness", "--losses", "l2", "--depths", "2", "--num_steps", "3",
        "--learning_rates", "log:1e-3:1e-2:29", "--devices", "2", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    sharpness = ia.load_run(tmp_path / "run")["sharpness"]
    assert sharpness.shape == (1, 29, 5, 4)
    assert float(sharpness[0, 0, 0, 0]) == pytest.approx(6.3, abs=1.5)
