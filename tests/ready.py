"""What the server that forks programs does once: imports, and matplotlib's caches.

Nothing here computes with JAX or starts a thread: afterwards the process could not fork.
"""

import importlib
import io

from bundle import keep_bundle
from matplotlib.figure import Figure

# What programs import, and what multiprocessing does in each child. No program itself: its flags
# are defined once.
for _name in (
    "pytest", "jax", "jax.experimental.multihost_utils", "jaxlib.mlir.dialects.builtin",
    "jaxlib.mlir.dialects.mhlo", "optax", "pandas.io.formats.csvs", "xarray", "h5netcdf",
    "h5netcdf.legacyapi", "rich.progress", "implicit_accel", "implicit_accel.files",
    "implicit_accel.rates", "implicit_accel.plotting", "implicit_accel.pages.sweep",
    "implicit_accel.data.registry", "programs",
):  # fmt: skip
    importlib.import_module(_name)

# Fonts, and the parser of mathematical text.
for _kind in ("png", "pdf", "svg"):
    _figure = Figure()
    _figure.subplots().set(xscale="log", xlim=(1e-3, 1), title=r"$\ell_2$")
    _figure.savefig(io.BytesIO(), format=_kind)

keep_bundle()
