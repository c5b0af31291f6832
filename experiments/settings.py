"""The flags of `experiments.sweep`, and what they ask for.

What can be asked of a dataset, a problem or a grid is declared where it is used (see
`implicit_accel.fields`): its flags are made from the declarations. The flags that are the
program's own are defined here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from absl import flags
from rich.console import Console

from experiments import cli, cluster
from implicit_accel import statistics
from implicit_accel.data.dataset import Dataset
from implicit_accel.data.problems import Preparation
from implicit_accel.data.registry import find_sources, options_of
from implicit_accel.errors import UserError
from implicit_accel.fields import Field, fields_of, read, with_details, write
from implicit_accel.linear.config import SweepConfig

GROUPS = cli.FlagGroups()

# The kind of flag by the type of its default.
_DEFINE = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    type(None): flags.DEFINE_string,
}


def define(name: str, field: Field) -> flags.FlagHolder:
    """Makes the flag of a declared setting."""
    default: Any = field.default
    if field.choices:
        return flags.DEFINE_enum(name, default, field.choices, field.help)
    if isinstance(default, tuple):
        return flags.DEFINE_list(name, list(default), field.help)
    return _DEFINE[type(default)](name, default, field.help)


SOURCES = find_sources()

DATASET = flags.DEFINE_enum(
    "dataset",
    "gas_like",
    list(SOURCES),
    "; ".join(f"{source.name}: {source.help}" for source in SOURCES.values()) + ".",
)
GROUPS.add("Data", DATASET)

_OPTIONS = {
    name: dataclasses.replace(option, heading="Data")
    for name, option in options_of(SOURCES).items()
}
_DECLARED = with_details(_OPTIONS | fields_of(Preparation) | fields_of(SweepConfig))
_HOLDERS = {name: define(name, field) for name, field in _DECLARED.items()}
for _name, _field in _DECLARED.items():
    GROUPS.add(_field.heading, _HOLDERS[_name])

BEST_BY = flags.DEFINE_enum(
    "best_by",
    "target",
    statistics.BEST_BY,
    "What makes a learning rate the best: fewest steps to the target; the same among stable runs, "
    "which do not diverge later; or the smallest final excess loss.",
)
OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "This run's own folder; unless given, outputs/<dataset>, with a code of the settings behind it "
    "if they are not the defaults.",
)
OVERWRITE = flags.DEFINE_bool(
    "overwrite",
    False,
    "Replace a finished run, or one with other settings; it is kept until the new run has its "
    "first checkpoint.",
)
CHECKPOINT_EVERY = flags.DEFINE_float(
    "checkpoint_every",
    60.0,
    "Seconds between checkpoints, from which the same command goes on; more if writing one takes "
    "over 2 % of that. 0: as often as can be.",
    lower_bound=0.0,
)
GROUPS.add("Results", BEST_BY, OUTPUT_DIR, CHECKPOINT_EVERY, OVERWRITE)

DEVICES = flags.DEFINE_integer(
    "devices",
    None,
    "How many of this process's devices share the runs; all unless given. On a CPU a device is a "
    "core.",
    lower_bound=1,
)
MEMORY_LIMIT = flags.DEFINE_string(
    "memory_limit",
    None,
    "Memory for runs in training, like 4GiB; larger grids are trained in several pieces. 60 % of "
    "the device's or machine's unless given.",
)
GROUPS.add("Machine", DEVICES, MEMORY_LIMIT)
cluster.add_flags(GROUPS)


def given() -> dict[str, Any]:
    """What the command line gives for the declared settings."""
    return {name: holder.value for name, holder in _HOLDERS.items()}


def build_config() -> SweepConfig:
    """The grid that the flags ask for.

    Raises:
        UserError: If a flag's value is not allowed.
    """
    return SweepConfig(**read(fields_of(SweepConfig), given()))


def build_preparation() -> Preparation:
    """The scaling and the split that the flags ask for.

    Raises:
        UserError: If a flag's value is not allowed.
    """
    return Preparation(**read(fields_of(Preparation), given()))


def load_dataset(console: Console) -> Dataset:
    """The dataset that the flags ask for.

    Raises:
        UserError: If a flag belongs to another dataset, or the dataset cannot be had; the message
            says how to get it.
    """
    chosen = SOURCES[DATASET.value]
    for name in _OPTIONS:
        if name not in chosen.options and flags.FLAGS[name].present:
            owners = [source.name for source in SOURCES.values() if name in source.options]
            raise UserError(
                f"--{name} goes with --dataset {' or '.join(owners)}, not {chosen.name}"
            )
    options = read(chosen.options, given())
    with cli.progress_bar(console, "downloading") as report:
        return chosen.load(**options, progress=report)


def settings_of(config: SweepConfig) -> dict[str, Any]:
    """What results depend on besides the data's contents, by the flags' names, as JSON has it.

    Raises:
        UserError: If the value of a flag of the data is not allowed.
    """
    return _written(read(_chosen_options(), given()), build_preparation(), config)


def default_settings() -> dict[str, Any]:
    """The same, of the chosen dataset and the defaults of everything else."""
    return _written(read(_chosen_options(), {}), Preparation(), SweepConfig())


def _chosen_options() -> Mapping[str, Field]:
    return SOURCES[DATASET.value].options


def _written(
    options: Mapping[str, Any], preparation: Preparation, config: SweepConfig
) -> dict[str, Any]:
    return (
        {"dataset": DATASET.value}
        | write(_chosen_options(), options)
        | write(fields_of(Preparation), vars(preparation))
        | write(fields_of(SweepConfig), vars(config))
    )
