import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import typechecking
from bundle import keep_bundle
from hypothesis import settings
from marks import MOST_EXAMPLES

typechecking.install()

# Four host-platform devices, so that spreading runs over devices is tested everywhere. The
# programs do the same; it has to happen before JAX first computes.
jax.config.update("jax_num_cpu_devices", 4)

# Workers and the programs that tests start share what they compile and download in a temporary
# folder, which workers inherit; the user's own cache is not touched.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _caches = tempfile.TemporaryDirectory(
        prefix="implicit-accel-tests-", ignore_cleanup_errors=True
    )
    os.environ["XDG_CACHE_HOME"] = _caches.name
    # There is a worker for every core: BLAS's own threads would only wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

keep_bundle()

# Tests compile the same program again and again, with new Python functions that no cache in memory
# recognises: most of the tests' time is XLA's. With a bound on its size, JAX locks the folder.
for _name, _value in {
    "jax_compilation_cache_dir": str(Path(os.environ["XDG_CACHE_HOME"]) / "tests"),
    "jax_compilation_cache_max_size": 2**30,
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    "jax_persistent_cache_enable_xla_caches": "none",
}.items():
    jax.config.update(_name, _value)

# Examples compile programs: fewer of them, without a limit on each one's time.
settings.register_profile("suite", deadline=None, max_examples=MOST_EXAMPLES, derandomize=True)
settings.register_profile("nightly", deadline=None, max_examples=10 * MOST_EXAMPLES)
settings.load_profile("suite")

DATA_DIR = os.environ.get("IMPLICIT_ACCEL_DATA_DIR")


@pytest.fixture
def data_dir() -> Path:
    """The folder with the real data files; the test is skipped where there is none."""
    if not DATA_DIR:
        pytest.skip("IMPLICIT_ACCEL_DATA_DIR is not set: no real data here")
    return Path(DATA_DIR)


@pytest.fixture(scope="module", autouse=True)
def _one_browser_for_a_module() -> Iterator[None]:
    yield
    if "browser" in sys.modules:
        sys.modules["browser"].close()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
