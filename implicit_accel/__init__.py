"""Does depth accelerate? Models trained over whole hyper-parameter grids at once.

`sweep` trains a task of one's own, `linear` has the deep linear networks, and `images` the
classifiers of the published figures:

import implicit_accel as ia
from implicit_accel import linear

problem = linear.make_problem(linear.gas_like())
runs = linear.run_sweep(problem, linear.SweepConfig(depths=(1, 2, 3), num_steps=2000))
print(ia.summarise(runs))
"""

import warnings as _warnings
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from implicit_accel import images, linear, observables
from implicit_accel.accessor import Summary
from implicit_accel.comparison import compare, differences
from implicit_accel.devices import use_cpu_devices
from implicit_accel.engine.chunks import Timing
from implicit_accel.errors import DataError, UserError
from implicit_accel.expand import collapse, expand, weight_penalty
from implicit_accel.expansion import ExpandReport, expand_report
from implicit_accel.exports import save_tidy, to_rliable, to_tidy
from implicit_accel.latex import to_latex
from implicit_accel.loading import load_run
from implicit_accel.optimizers import OPTIMIZERS, Optimizer
from implicit_accel.progress import progress_bar
from implicit_accel.rates import auto
from implicit_accel.results import Metric, select
from implicit_accel.stable_rates import StableRate, stable_rate
from implicit_accel.statistics import summarise
from implicit_accel.sweep import run, sweep
from implicit_accel.tasks.axes import static, together
from implicit_accel.tasks.draws import log_uniform, random, uniform
from implicit_accel.tasks.loss_task import LossTask, from_loss, run_key

# One version: the one that the package was installed with, from pyproject.toml.
__version__ = _version("implicit-accel")

__all__ = [
    "OPTIMIZERS",
    "DataError",
    "ExpandReport",
    "LossTask",
    "Metric",
    "Optimizer",
    "StableRate",
    "Summary",
    "Timing",
    "UserError",
    "__version__",
    "auto",
    "collapse",
    "compare",
    "differences",
    "expand",
    "expand_report",
    "from_loss",
    "images",
    "linear",
    "load_run",
    "log_uniform",
    "observables",
    "progress_bar",
    "random",
    "run",
    "run_key",
    "save_tidy",
    "select",
    "stable_rate",
    "static",
    "summarise",
    "sweep",
    "to_latex",
    "to_rliable",
    "to_tidy",
    "together",
    "uniform",
    "use_cpu_devices",
    "weight_penalty",
]


if not _TYPE_CHECKING:  # with it a type checker would take any name for one of the module's

    def __getattr__(name: str) -> _Any:
        """Names of `linear` and `images` that were here before."""
        for space in (linear, images):
            if name in space.__all__:
                where = f"{space.__name__}.{name}"
                _warnings.warn(
                    f"implicit_accel.{name} is now {where}", DeprecationWarning, stacklevel=2
                )
                return getattr(space, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
