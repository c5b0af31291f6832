"""Does depth accelerate? Deep linear networks trained over whole hyper-parameter grids at once.

from implicit_accel import SweepConfig, gas_like, make_problem, run_sweep, summarise

problem = make_problem(gas_like())
results, timing = run_sweep(problem, SweepConfig(depths=(1, 2, 3), num_steps=2000))
print(summarise(results))
"""

from importlib.metadata import version as _version

from implicit_accel import observables
from implicit_accel.accessor import Summary
from implicit_accel.comparison import compare, differences
from implicit_accel.data.dataset import Dataset
from implicit_accel.data.frames import problem_from_frame
from implicit_accel.data.mnist import ImageData, load_mnist, mnist_like
from implicit_accel.data.problems import SCALINGS, Problem, make_problem
from implicit_accel.data.sources.abalone import load_abalone
from implicit_accel.data.sources.csv_file import load_csv
from implicit_accel.data.sources.gas import load_gas
from implicit_accel.data.sources.gas_like import gas_like
from implicit_accel.devices import use_cpu_devices
from implicit_accel.engine.chunks import Timing
from implicit_accel.errors import DataError, UserError
from implicit_accel.expand import collapse, expand, weight_penalty
from implicit_accel.expansion import ExpandReport, expand_report
from implicit_accel.exports import save_tidy, to_rliable, to_tidy
from implicit_accel.images.networks import FullyConnected, SmallCNN, TutorialCNN
from implicit_accel.images.task import ClassifierConfig, train_classifiers
from implicit_accel.latex import to_latex
from implicit_accel.linear.config import SweepConfig, Target
from implicit_accel.linear.end_to_end import (
    scale_by_end_to_end,
    scale_by_unbalanced_end_to_end,
)
from implicit_accel.linear.initialisers import INITIALISERS, Initialiser
from implicit_accel.linear.losses import Loss, Optimum, optimum
from implicit_accel.linear.networks import Layers
from implicit_accel.linear.sweep import Trajectory, train
from implicit_accel.loading import load_run
from implicit_accel.optimizers import OPTIMIZERS, Optimizer
from implicit_accel.progress import progress_bar
from implicit_accel.rates import auto
from implicit_accel.results import Metric, judged_by, select
from implicit_accel.stable_rates import StableRate, stable_rate
from implicit_accel.statistics import summarise
from implicit_accel.sweep import final_params, run, run_sweep, sweep
from implicit_accel.tasks.axes import static, together
from implicit_accel.tasks.draws import log_uniform, random, uniform
from implicit_accel.tasks.loss_task import LossTask, from_loss, run_key
from implicit_accel.theory.predict import predict

# One version: the one that the package was installed with, from pyproject.toml.
__version__ = _version("implicit-accel")

__all__ = [
    "INITIALISERS",
    "OPTIMIZERS",
    "SCALINGS",
    "ClassifierConfig",
    "DataError",
    "Dataset",
    "ExpandReport",
    "FullyConnected",
    "ImageData",
    "Initialiser",
    "Layers",
    "Loss",
    "LossTask",
    "Metric",
    "Optimizer",
    "Optimum",
    "Problem",
    "SmallCNN",
    "StableRate",
    "Summary",
    "SweepConfig",
    "Target",
    "Timing",
    "Trajectory",
    "TutorialCNN",
    "UserError",
    "__version__",
    "auto",
    "collapse",
    "compare",
    "differences",
    "expand",
    "expand_report",
    "final_params",
    "from_loss",
    "gas_like",
    "judged_by",
    "load_abalone",
    "load_csv",
    "load_gas",
    "load_mnist",
    "load_run",
    "log_uniform",
    "make_problem",
    "mnist_like",
    "observables",
    "optimum",
    "predict",
    "problem_from_frame",
    "progress_bar",
    "random",
    "run",
    "run_key",
    "run_sweep",
    "save_tidy",
    "scale_by_end_to_end",
    "scale_by_unbalanced_end_to_end",
    "select",
    "stable_rate",
    "static",
    "summarise",
    "sweep",
    "to_latex",
    "to_rliable",
    "to_tidy",
    "together",
    "train",
    "train_classifiers",
    "uniform",
    "use_cpu_devices",
    "weight_penalty",
]
