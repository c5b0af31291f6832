"""Deep linear networks: data, networks, losses, and the grid that `run_sweep` trains."""

from implicit_accel.data.dataset import Dataset
from implicit_accel.data.frames import problem_from_frame
from implicit_accel.data.problems import SCALINGS, Problem, make_problem
from implicit_accel.data.sources.abalone import load_abalone
from implicit_accel.data.sources.csv_file import load_csv
from implicit_accel.data.sources.gas import load_gas
from implicit_accel.data.sources.gas_like import gas_like
from implicit_accel.linear.config import SweepConfig, Target
from implicit_accel.linear.end_to_end import (
    scale_by_end_to_end,
    scale_by_unbalanced_end_to_end,
)
from implicit_accel.linear.initialisers import INITIALISERS, Initialiser
from implicit_accel.linear.losses import Loss, Optimum, optimum
from implicit_accel.linear.networks import Layers
from implicit_accel.linear.sweep import Trajectory, train
from implicit_accel.sweep import run_sweep
from implicit_accel.theory.predict import predict

__all__ = [
    "INITIALISERS",
    "SCALINGS",
    "Dataset",
    "Initialiser",
    "Layers",
    "Loss",
    "Optimum",
    "Problem",
    "SweepConfig",
    "Target",
    "Trajectory",
    "gas_like",
    "load_abalone",
    "load_csv",
    "load_gas",
    "make_problem",
    "optimum",
    "predict",
    "problem_from_frame",
    "run_sweep",
    "scale_by_end_to_end",
    "scale_by_unbalanced_end_to_end",
    "train",
]
