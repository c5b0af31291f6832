"""The flags of `experiments.sweep`, and the experiment that they ask for.

What can be asked of a dataset, a problem or a grid is declared where it is used (see
`implicit_accel.fields`): its flags are made from the declarations. The flags that are the
program's own are defined here.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from absl import flags
from rich.console import Console

from implicit_accel.data.dataset import Dataset
from implicit_accel.data.problems import Preparation, make_problem
from implicit_accel.data.registry import find_sources, options_of
from implicit_accel.errors import UserError
from implicit_accel.experiment import RATES, AtOwnRates, Experiment, Identity, OwnRates
from implicit_accel.experiments import cli, compilation, executor
from implicit_accel.experiments.user_task import (
    attribute,
    load_configurations,
    load_task,
    parse_axis,
)
from implicit_accel.fields import Field, fields_of, read, with_details, write
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.sweep import LinearSweep, axes_of
from implicit_accel.rates import TOLERANCE, at_own_rates, coarse_rates
from implicit_accel.results import Metric
from implicit_accel.tasks.axes import together
from implicit_accel.tasks.draws import log_uniform, random, uniform
from implicit_accel.tasks.grid import TaskSweep
from implicit_accel.tasks.loss_task import LossTask
from implicit_accel.theory.predict import early_stable_rates

GROUPS = cli.FlagGroups()
# Those of them that say what is trained and on what: of every program about linear networks.
DECLARED_GROUPS = cli.FlagGroups()

# The kind of flag by the type of its default.
_DEFINE = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: cli.define_float,
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
DECLARED_GROUPS.add("Data", DATASET)

_OPTIONS = {
    name: dataclasses.replace(option, heading="Data")
    for name, option in options_of(SOURCES).items()
}
_DECLARED = with_details(_OPTIONS | fields_of(Preparation) | fields_of(SweepConfig))
_AUTO = "auto"
# A program's: a `SweepConfig` of its own has no search behind it.
_DECLARED["learning_rates"] = dataclasses.replace(
    _DECLARED["learning_rates"],
    help=_DECLARED["learning_rates"].help + " Or auto: rates are found. Each model is trained at a "
    "few around its stable one, then further out where its best lies at the end of its rates, and "
    "closer around its best, round after round, until, judging by its neighbours, no rate "
    f"there is better by more than {TOLERANCE:.0%} (by --best_by). More seeds, steps or models, or "
    "another --best_by, go on from the rates there are.",
)
_HOLDERS = {name: define(name, field) for name, field in _DECLARED.items()}
for _name, _field in _DECLARED.items():
    GROUPS.add(_field.heading, _HOLDERS[_name])
    DECLARED_GROUPS.add(_field.heading, _HOLDERS[_name])

BEST_BY = cli.define_best_by()
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
CHECKPOINT_EVERY = cli.define_float(
    "checkpoint_every",
    60.0,
    "Seconds between checkpoints, from which the same command goes on; more if writing one takes "
    "over 2 % of that. 0: as often as can be.",
    lower_bound=0.0,
)
# What --quick asks for instead of the defaults. It keeps learning rates and seeds: on every other
# rate depth 2 seems to need fewer steps on ℓ2, and with three seeds a rate at which one run in five
# diverges is the best.
_QUICK_DEPTHS, _QUICK_STEPS = ("1", "2"), 14_000
QUICK = flags.DEFINE_bool(
    "quick",
    False,
    f"A first answer in about ten seconds: depths {' and '.join(_QUICK_DEPTHS)}, {_QUICK_STEPS:,} "
    "steps and no figures, as far as these are not given. The same command without it goes on from "
    "there.",
)
GROUPS.add("Results", QUICK, BEST_BY, OUTPUT_DIR, CHECKPOINT_EVERY, OVERWRITE)

PREDICT = flags.DEFINE_bool(
    "predict",
    False,
    "Put what theory predicts (see experiments.predict) beside what is measured: a table, "
    "prediction.csv, dashed curves.",
)
FORMATS = cli.define_formats()
GROUPS.add("Results", PREDICT, FORMATS)

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
    "Memory for runs in training, like 4GiB; of larger grids some chunks are trained at a time. 60 "
    "% of the device's or machine's unless given.",
)
GROUPS.add("Machine", DEVICES, MEMORY_LIMIT)
compilation.add_flags(GROUPS)
executor.add_flags(GROUPS)

TASK = flags.DEFINE_string(
    "task",
    None,
    "A model of your own instead of a dataset: file.py:name, where name is what from_loss made, or "
    "a function that makes it. The file is run. Of the settings above, learning rates, seeds, "
    "steps, optimizers, precision and what is recorded are for tasks too.",
)
AXES = flags.DEFINE_multi_string(
    "axes",
    [],
    "Further axes of a task's grid, their values separated by colons: "
    "width_scale=0.5:1:2,activation=tanh:relu. Values are numbers, log:low:high:count, true and "
    "false, or words. Numbers change no program, words do, and so do numbers after static, "
    "which may shape arrays: width=static:8:16. It may be given several times.",
)
DRAWS = flags.DEFINE_integer(
    "draws",
    None,
    "A random search: so many configurations, drawn from the axes in place of their product. Axes "
    "may then be ranges too, learning_rate=log_uniform:1e-4:1,dropout=uniform:0:0.5. More draws "
    "extend a run.",
    lower_bound=1,
)
CONFIGURATIONS = flags.DEFINE_string(
    "configurations",
    None,
    "A CSV table with a column for each hyper-parameter and a row for each configuration, in place "
    "of their product. Numbers that shape arrays have a column called static:width.",
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "A task's mini-batches; all rows unless given."
)
TASK_OPTIMIZER = flags.DEFINE_string(
    "task_optimizer",
    None,
    "A function in the task's file that makes an optax transformation of the hyper-parameters, in "
    "place of --optimizers.",
)
METRIC = flags.DEFINE_string(
    "metric",
    None,
    "What a task's runs are judged by in place of the loss, and its best possible value: "
    "accuracy:1, held_out_loss:0. It must be recorded; --target is then its value to reach.",
)
GROUPS.add(
    "A task of your own", TASK, AXES, DRAWS, CONFIGURATIONS, BATCH_SIZE, TASK_OPTIMIZER, METRIC
)
TASK_GROUPS = cli.FlagGroups()
TASK_GROUPS.add("A task of your own", TASK, AXES, BATCH_SIZE, TASK_OPTIMIZER)


def apply_quick() -> str:
    """Sets the flags that ``--quick`` stands for; returns what it leaves out, in a sentence."""
    if not QUICK.value:
        return ""
    left_out = []

    def replace(name: str, value: Any, words: str) -> None:
        if not flags.FLAGS[name].present:
            flags.FLAGS[name].value = value
            left_out.append(words)

    depths, steps = SweepConfig().depths, SweepConfig().num_steps
    if TASK.value is None:
        words = f"depths {', '.join(_QUICK_DEPTHS)} of {', '.join(map(str, depths))}"
        replace("depths", list(_QUICK_DEPTHS), words)
    fewer = f"{_QUICK_STEPS:,} of {steps:,} steps, over which more learning rates are stable"
    replace("num_steps", _QUICK_STEPS, fewer)
    replace(FORMATS.name, ["none"], "no figures and page")
    if not left_out:
        return ""
    return f"Quick: {'; '.join(left_out)}. The same command without --quick trains the rest."


def given() -> dict[str, Any]:
    """What the command line gives for the declared settings; without rates if it asks for auto."""
    values = {name: holder.value for name, holder in _HOLDERS.items()}
    if is_searched():
        del values["learning_rates"]
    return values


def is_searched() -> bool:
    """Whether learning rates are to be searched for.

    Raises:
        UserError: If some are given as well.
    """
    items = [item.strip() for item in _HOLDERS["learning_rates"].value]
    if _AUTO in items and len(items) > 1:
        raise UserError("--learning_rates: auto finds the rates, give it alone")
    return items == [_AUTO]


@dataclass(frozen=True)
class Search:
    """A search for learning rates, see `implicit_accel.rates`.

    Attributes:
        grid_of: Gives the experiment that trains all models at given rates.
        coarse: Each model's rates to begin with.
    """

    grid_of: Callable[[tuple[float, ...]], Experiment]
    coarse: OwnRates

    def first(self, begun: Identity | None = None) -> AtOwnRates:
        """What to train first: what has been begun, and coarse rates for models that are new."""
        known = {} if begun is None else begun.rates_by_model()
        models = at_own_rates(self.grid_of, self.coarse).identity.rates_by_model()
        rates = tuple(known.get(model, coarse) for model, coarse in models.items())
        return at_own_rates(self.grid_of, rates)


@dataclass(frozen=True)
class Asked:
    """What the flags ask for.

    Attributes:
        grid: What to train; its learning rates mean nothing where there is a search.
        name: Of the default folder.
        title: Of the table.
        described: What is trained on, in a line.
        about: The same for ``config.json``.
        usual: The identity that the defaults would have: its folder needs no code in its name.
        search: For learning rates; None where they are given.
    """

    grid: Experiment
    name: str
    title: str
    described: str
    about: dict[str, Any]
    usual: Identity | None = None
    search: Search | None = None

    def experiment(self, begun: Identity | None = None) -> Experiment:
        """What to train; where rates are searched for, first of all.

        Args:
            begun: Of the run to go on with.
        """
        return self.grid if self.search is None else self.search.first(begun)

    def adapted_to(self, stored: Identity) -> Asked:
        """The same, as a run in the folder has it which differs only in form.

        Args:
            stored: Of the run in the folder.
        """
        if (search := self.search) is None:
            return dataclasses.replace(self, grid=self.grid.adapted_to(stored))
        adapted = dataclasses.replace(
            search, grid_of=lambda rates: search.grid_of(rates).adapted_to(stored)
        )
        return dataclasses.replace(self, search=adapted)


def build(console: Console) -> Asked:
    """The experiment that the flags ask for.

    Args:
        console: Where a download shows its progress.

    Raises:
        UserError: If a flag's value is not allowed, or data cannot be had; the message says how to
            get them.
    """
    if TASK.value is not None:
        return _build_task(TASK.value)
    for holder in (AXES, DRAWS, CONFIGURATIONS, BATCH_SIZE, TASK_OPTIMIZER, METRIC):
        if flags.FLAGS[holder.name].present:
            raise UserError(f"--{holder.name} goes with --task")
    config = SweepConfig(**read(fields_of(SweepConfig), given()))
    preparation = Preparation(**read(fields_of(Preparation), given()))
    dataset = load_dataset(console)
    problem = make_problem(dataset, **dataclasses.asdict(preparation))
    options = SOURCES[DATASET.value].options
    experiment = LinearSweep(
        problem,
        config,
        _data_settings(read(options, given()), preparation),
        fingerprint=dataset.fingerprint,
    )
    usual = Identity(
        _data_settings(read(options, {}), Preparation()) | SweepConfig().settings(),
        axes_of(SweepConfig()),
        SweepConfig().num_steps,
        dataset.fingerprint,
    )
    search = None
    if is_searched():
        coarse = tuple(map(coarse_rates, early_stable_rates(problem, config)))
        search = Search(experiment.at_learning_rates, coarse)
    about = {
        "dataset": {
            "name": dataset.name,
            "title": dataset.title,
            "source": dataset.source,
            "is_stand_in": dataset.is_stand_in,
            "fingerprint": dataset.fingerprint,
            "num_rows": len(dataset.features),
            "features": list(dataset.feature_names),
            "targets": list(dataset.target_names),
        }
    }
    described = f"{len(problem.features):,} rows, {problem.num_features} features"
    return Asked(experiment, dataset.name, dataset.title, described, about, usual, search)


def _data_settings(options: Mapping[str, Any], preparation: Preparation) -> dict[str, Any]:
    return (
        {"dataset": DATASET.value}
        | write(SOURCES[DATASET.value].options, options)
        | write(fields_of(Preparation), vars(preparation))
    )


# Settings of a grid that a task has too.
_FOR_TASKS = (
    "learning_rates", "num_seeds", "first_seed", "num_steps", "optimizers", "optimizer_settings",
    "weight_decays", "records_per_decade", "observations_per_decade", "precision", "target",
    "record",
)  # fmt: skip


def _build_task(place: str) -> Asked:
    """The experiment of ``--task``.

    Args:
        place: ``file.py:name``.
    """
    for name in (DATASET.name, *_HOLDERS):
        if name not in _FOR_TASKS and flags.FLAGS[name].present:
            raise UserError(f"--{name} goes with a dataset, not with --task")
    module, task = load_task(place)
    config, record = _task_settings()
    target = _task_target(config)
    optimizer, names = _task_optimizer(module, config)
    axes = _task_axes(config, names)

    def grid_of(rates: tuple[float, ...]) -> Experiment:
        return TaskSweep(
            task,
            axes=axes | ({"learning_rate": rates} if "learning_rate" in axes else {}),
            optimizer=optimizer,
            num_steps=config.num_steps,
            batch_size=BATCH_SIZE.value,
            target=target,
            record=record,
            records_per_decade=config.records_per_decade,
            observations_per_decade=config.observations_per_decade,
            precision=config.precision,
        )

    experiment = grid_of(config.learning_rates)
    search = None
    if is_searched():
        if "learning_rate" not in axes:
            raise UserError("--learning_rates auto: the configurations have rates of their own")
        runs_per_model = len(config.learning_rates) * config.num_seeds
        num_models = experiment.num_runs // runs_per_model
        search = Search(grid_of, (coarse_rates(),) * num_models)
    about = {"task": {"place": place, "name": task.name, "fingerprint": task.fingerprint()}}
    described = f"{task.num_rows:,} rows"
    return Asked(experiment, task.name, task.name, described, about, search=search)


@dataclass(frozen=True)
class RatesAsked:
    """Of which model and optimizers the flags ask for stable rates, see `stable_rate`.

    Attributes:
        task: The model.
        optimizers: What to train it with, by name.
        settings: Each combination of the further axes' values, by name.
        options: Further arguments of `stable_rate`.
    """

    task: LossTask
    optimizers: dict[str, Any]
    settings: tuple[dict[str, Any], ...]
    options: dict[str, Any]


# Settings that have a part in a task's stable rates.
_FOR_STABLE_RATES = (
    "num_seeds", "first_seed", "num_steps", "optimizers", "optimizer_settings", "weight_decays",
    "precision",
)  # fmt: skip


def build_stable_rates(place: str) -> RatesAsked:
    """The stable rates that the flags ask for.

    Args:
        place: ``file.py:name``.

    Raises:
        UserError: If a flag's value is not allowed, or a flag has no part in them.
    """
    for name in (DATASET.name, *_HOLDERS):
        if name not in _FOR_STABLE_RATES and flags.FLAGS[name].present:
            raise UserError(f"--{name} has no part in the stable rates of a --task: leave it out")
    for flag in (DRAWS, CONFIGURATIONS):
        if flag.value is not None:
            raise UserError(f"--{flag.name} has no part in stable rates: leave it out")
    module, task = load_task(place)
    config, _ = _task_settings()
    made, names = _task_optimizer(module, config)
    by_name: dict[str, Any] = {o.name: o for o in config.optimizers}
    axes = _task_axes(config, ())
    del axes["learning_rate"], axes["seed"]
    given_counts = {
        "num_steps": config.num_steps,
        "seeds": config.seeds,
    }
    present = {"num_steps": ("num_steps",), "seeds": ("num_seeds", "first_seed")}
    options = {
        name: value
        for name, value in given_counts.items()
        if any(flags.FLAGS[flag].present for flag in present[name])
    }
    return RatesAsked(
        task,
        by_name if names or TASK_OPTIMIZER.value is None else {TASK_OPTIMIZER.value: made},
        tuple(dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())),
        options | {"precision": config.precision, "batch_size": BATCH_SIZE.value},
    )


def _task_settings() -> tuple[SweepConfig, tuple[str, ...]]:
    """The settings that a task shares with a grid, and the observables to record.

    Observables are not part of the configuration: a grid of linear networks has others.
    """
    declared = {name: field for name, field in fields_of(SweepConfig).items() if name in _FOR_TASKS}
    record = read({"record": declared.pop("record")}, given())["record"]
    return SweepConfig(**read(declared, given())), record


def _task_target(config: SweepConfig) -> float | Metric | None:
    """The target excess loss, or a metric's; None without the flag: the default is a share.

    Raises:
        UserError: If it is a share: of a task the zero predictor's loss is not known. Or if a
            metric has no target, or is not written with its best value.
    """
    is_given = flags.FLAGS["target"].present
    if is_given and config.target.relative:
        raise UserError("--target: a task's is an excess loss like 1e-3, not a share")
    if METRIC.value is None:
        return config.target.value if is_given else None
    name, colon, best = METRIC.value.rpartition(":")
    try:
        value = float(best)
    except ValueError:
        value = math.nan
    if not (colon and name and math.isfinite(value)):
        raise UserError(
            f"--metric {METRIC.value!r}: write the name and the best possible value, accuracy:1"
        )
    if not is_given:
        raise UserError("--metric: give the value to reach as well, like --target 0.95")
    return Metric(name, config.target.value, value)


def _task_optimizer(module: ModuleType, config: SweepConfig) -> tuple[Any, tuple[str, ...]]:
    """A task's optimizer, and the values of its axis if there are several.

    Raises:
        UserError: If both a function of the task's file and optimizers by name are given.
    """
    if TASK_OPTIMIZER.value is not None:
        if flags.FLAGS["optimizers"].present:
            raise UserError("--task_optimizer takes the place of --optimizers: give one of them")
        return attribute(module, TASK_OPTIMIZER.value, "--task_optimizer"), ()
    if len(config.optimizers) == 1:
        return config.optimizers[0], ()
    by_name = {optimizer.name: optimizer for optimizer in config.optimizers}

    def chosen(hp: Mapping[str, Any]) -> Any:
        return by_name[hp["optimizer"]].build(hp["learning_rate"], hp.get("weight_decay"))

    return chosen, tuple(by_name)


def _task_axes(config: SweepConfig, optimizers: tuple[str, ...]) -> dict[str, Any]:
    """The axes of a task's grid: those of flags of their own, then the further ones.

    Those are of ``--axes``, or configurations that are drawn from these or are in a table.
    Learning rates may be among them.

    Raises:
        UserError: If an axis is given twice.
    """
    axes: dict[str, Any] = {"learning_rate": config.learning_rates, "seed": tuple(config.seeds)}
    if flags.FLAGS["weight_decays"].present:
        axes["weight_decay"] = config.weight_decays
    if optimizers:
        axes["optimizer"] = optimizers
    texts = [text for listed in AXES.value if listed for text in listed.split(",")]
    further: dict[str, Any] = {}
    for name, values in [parse_axis(text) for text in texts]:
        if name in further:
            raise UserError(f"--axes: {name} is given twice; write all its values once")
        further[name] = values
    whole: together | None = None
    if CONFIGURATIONS.value is not None:
        for flag in (AXES, DRAWS):
            if flag.value:
                raise UserError(f"--{flag.name}: put it into the table of --configurations")
        whole = load_configurations(CONFIGURATIONS.value)
        further = whole.values
    elif DRAWS.value is not None:
        if not further:
            raise UserError("--draws: give --axes to draw from, like rate=log_uniform:1e-4:1")
        whole = random(DRAWS.value, **further)
    for name, values in further.items():
        if isinstance(values, uniform | log_uniform) and whole is None:
            raise UserError(f"--axes: {name} is a range; give --draws, the number of draws")
        if whole is not None and name == RATES and not flags.FLAGS["learning_rates"].present:
            del axes[RATES]
        if name in axes:
            raise UserError(f"--axes: {name} is an axis already, of a flag of its own")
    return axes | (further if whole is None else {"configuration": whole})


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
        dataset = chosen.load(**options, progress=report)
    if dataset.notes:
        console.print(f"{dataset.title}: {'; '.join(dataset.notes)}", soft_wrap=True)
    return dataset
