"""Does depth accelerate? Deep linear networks trained over whole hyper-parameter grids at once.

from implicit_accel import SweepConfig, gas_like, make_problem, run_sweep, summarise

problem = make_problem(gas_like())
results, timing = run_sweep(problem, SweepConfig(depths=(1, 2, 3), num_steps=2000))
print(summarise(results))
"""

from implicit_accel.data.datasets import (
    Dataset,
    gas_like,
    load_abalone,
    load_csv,
    load_gas,
)
from implicit_accel.data.mnist import ImageData, load_mnist, mnist_like
from implicit_accel.data.problems import SCALINGS, Problem, make_problem
from implicit_accel.engine.training import Timing
from implicit_accel.errors import DataError, UserError
from implicit_accel.images.classifiers import (
    ClassifierConfig,
    FullyConnected,
    SmallCNN,
    TutorialCNN,
    train_classifiers,
)
from implicit_accel.linear.config import SweepConfig, Target
from implicit_accel.linear.end_to_end import scale_by_end_to_end
from implicit_accel.linear.initialisers import INITIALISERS, Initialiser
from implicit_accel.linear.losses import Loss, Optimum, optimum
from implicit_accel.linear.networks import Layers
from implicit_accel.linear.sweep import Trajectory, run_sweep, train
from implicit_accel.loading import load_run
from implicit_accel.optimizers import OPTIMIZERS, Optimizer
from implicit_accel.results import select
from implicit_accel.statistics import summarise

__all__ = [
    "INITIALISERS",
    "OPTIMIZERS",
    "SCALINGS",
    "ClassifierConfig",
    "DataError",
    "Dataset",
    "FullyConnected",
    "ImageData",
    "Initialiser",
    "Layers",
    "Loss",
    "Optimizer",
    "Optimum",
    "Problem",
    "SmallCNN",
    "SweepConfig",
    "Target",
    "Timing",
    "Trajectory",
    "TutorialCNN",
    "UserError",
    "gas_like",
    "load_abalone",
    "load_csv",
    "load_gas",
    "load_mnist",
    "load_run",
    "make_problem",
    "mnist_like",
    "optimum",
    "run_sweep",
    "scale_by_end_to_end",
    "select",
    "summarise",
    "train",
    "train_classifiers",
]
