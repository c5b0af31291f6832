r"""Trains deep linear networks over a whole grid at once and compares how fast they train.

    python -m experiments.sweep
    python -m experiments.sweep --dataset gas --losses l2,l4 --depths 1,2,3
    python -m experiments.sweep --dataset abalone --optimizers sgd,adam \
        --learning_rates log:1e-4:0.5:20 --num_seeds 10 --num_steps 5000
    python -m experiments.sweep --dataset csv --csv_path my.csv --csv_target price

The grid is the product of all the lists. Every run of it is trained in one compiled program;
the output folder gets results.nc, summary.csv, config.json and figures/.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import pandas as pd
import xarray as xr
from absl import flags
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments import cli, cluster
from implicit_accel.datasets import GAS_NAMES, Dataset, gas_like, load_abalone, load_csv, load_gas
from implicit_accel.errors import UserError
from implicit_accel.files import atomic_path
from implicit_accel.grid import (
    PRECISIONS,
    SweepConfig,
    Target,
    parse_hidden_widths,
    parse_learning_rates,
)
from implicit_accel.initialisers import INITIALISERS
from implicit_accel.losses import CONVENTIONS, Loss
from implicit_accel.networks import ACTIVATIONS
from implicit_accel.optimizers import OPTIMIZERS, Optimizer, parse_settings
from implicit_accel.problems import SCALINGS, make_problem
from implicit_accel.results import (
    CONFIG_FILE,
    FIGURES_FOLDER,
    FORMAT,
    RESULTS_FILE,
    SUMMARY_FILE,
    load_run,
    save_json,
    save_results,
)
from implicit_accel.statistics import BEST_BY, summarise
from implicit_accel.sweep import Plan, assemble, plan_sweep, train_plan
from implicit_accel.training import Device, GroupResult, Share, Timing

DATASETS = ("gas_like", "gas", "abalone", "csv")

# What --devices may ask of a CPU with fewer cores.
_MOST_CPU_DEVICES = 16

_GROUPS = cli.FlagGroups()

_DATASET = flags.DEFINE_enum(
    "dataset",
    "gas_like",
    DATASETS,
    "gas: Gas Sensor Array Drift at Different Concentrations (UCI), one gas of it; abalone: "
    "Abalone (UCI); csv: your own file; gas_like: an embedded, generated stand-in for the Ethanol "
    "data that needs no file.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder with the data files. Next places: $IMPLICIT_ACCEL_DATA_DIR, the user's cache, and "
    "then a download from UCI into the cache.",
)
_GAS_NAME = flags.DEFINE_enum("gas_name", "ethanol", tuple(GAS_NAMES), "Which gas.")
_GAS_BATCHES = flags.DEFINE_list(
    "gas_batches",
    [str(b) for b in range(1, 11)],
    "Batches of the gas data to use, in order of time.",
)
_CSV_PATH = flags.DEFINE_string("csv_path", None, "Your file: a header line, then numbers.")
_CSV_TARGET = flags.DEFINE_string("csv_target", None, "The column of your file to predict.")
_SCALING = flags.DEFINE_enum(
    "scaling",
    "standard",
    SCALINGS,
    "standard: features and labels to mean 0 and standard deviation 1; whiten: features to "
    "identity covariance, labels to unit cross-covariance; center: means removed only.",
)
_HELD_OUT = flags.DEFINE_float(
    "held_out_fraction", 0.0, "Share of rows that are not trained on but whose loss is recorded."
)
_SPLIT_SEED = flags.DEFINE_integer("split_seed", 0, "Which rows those are.")
_GROUPS.add(
    "Data", _DATASET, _DATA_DIR, _GAS_NAME, _GAS_BATCHES, _CSV_PATH, _CSV_TARGET, _SCALING,
    _HELD_OUT, _SPLIT_SEED,
)  # fmt: skip

_DEPTHS = flags.DEFINE_list("depths", ["1", "2", "3"], "Numbers of weight matrices.")
_HIDDEN_WIDTHS = flags.DEFINE_list(
    "hidden_widths",
    ["1"],
    "Width of all hidden layers (10), or one network's own widths (64x32).",
)
_BIAS = flags.DEFINE_bool("bias", False, "Whether layers have biases.")
_ACTIVATION = flags.DEFINE_enum("activation", "identity", ACTIVATIONS, "Between layers.")
_INITS = flags.DEFINE_list(
    "inits",
    ["near_zero"],
    f"Initialisers: {', '.join(INITIALISERS)}. near_zero: Gaussian; identity: Gaussian plus the "
    "rectangular identity; orthogonal: semi-orthogonal; pytorch: torch.nn.Linear's default; "
    "balanced: an end-to-end Gaussian split evenly over the layers.",
)
_INIT_STDS = flags.DEFINE_list(
    "init_stds", ["0.01"], "Standard deviations of near_zero, identity and balanced."
)
_GROUPS.add("Models", _DEPTHS, _HIDDEN_WIDTHS, _BIAS, _ACTIVATION, _INITS, _INIT_STDS)

_LOSSES = flags.DEFINE_list("losses", ["l2", "l4"], "l and an exponent p >= 2: l2, l4, l2.5.")
_LOSS_CONVENTION = flags.DEFINE_enum(
    "loss_convention",
    "paper",
    CONVENTIONS,
    "paper: mean |r|^p / p (Arora et al. 2018); plain: mean |r|^p (PyTorch's MSE, Levy & Wang).",
)
_OPTIMIZERS = flags.DEFINE_list("optimizers", ["sgd"], f"From {', '.join(OPTIMIZERS)}.")
_SETTINGS = flags.DEFINE_list(
    "optimizer_settings", [], "Other settings, optimizer:setting=value: momentum:momentum=0.8."
)
_WEIGHT_DECAYS = flags.DEFINE_list(
    "weight_decays", ["0"], "L2 penalties lambda/2 |W|^2; decoupled for adamw."
)
_RATES = flags.DEFINE_list(
    "learning_rates", ["log:1e-3:3:29"], "Numbers, or log:low:high:count for equal ratios."
)
_NUM_SEEDS = flags.DEFINE_integer("num_seeds", 5, "Seeds 0, 1, ... of the initial weights.")
_NUM_STEPS = flags.DEFINE_integer("num_steps", 20_000, "Updates per run (full-batch epochs).")
_GROUPS.add(
    "Training", _LOSSES, _LOSS_CONVENTION, _OPTIMIZERS, _SETTINGS, _WEIGHT_DECAYS, _RATES,
    _NUM_SEEDS, _NUM_STEPS,
)  # fmt: skip

_TARGET = flags.DEFINE_string(
    "target",
    "10%",
    "Excess loss (above the optimum) at which a run has arrived: a number like 1e-5, or a share "
    "like 10% of the excess loss of predicting zero.",
)
_BEST_BY = flags.DEFINE_enum(
    "best_by",
    "target",
    BEST_BY,
    "What makes a learning rate the best: fewest steps to the target; the same among stable runs, "
    "which do not diverge later; or the smallest final excess loss.",
)
_NUM_RECORDS = flags.DEFINE_integer(
    "num_records", 400, "About how many steps' losses are kept, evenly spaced on a log axis."
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "This run's own folder; unless given, outputs/<dataset>, with a code of the settings behind it "
    "if they are not the defaults.",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace another run in the output folder.")
_GROUPS.add("Results", _TARGET, _BEST_BY, _NUM_RECORDS, _OUTPUT_DIR, _OVERWRITE)

_PRECISION = flags.DEFINE_enum("precision", "float32", PRECISIONS, "Of training.")
_DEVICES = flags.DEFINE_integer(
    "devices",
    None,
    "How many of this process's devices share the runs; all unless given. On a CPU a device is a "
    "core.",
    lower_bound=1,
)
_MEMORY_LIMIT = flags.DEFINE_string(
    "memory_limit",
    None,
    "Memory for runs in training, like 4GiB; larger grids are trained in several pieces. 60 % of "
    "the device's or machine's unless given.",
)
_GROUPS.add("Machine", _PRECISION, _DEVICES, _MEMORY_LIMIT)
cluster.add_flags(_GROUPS)


def build_config() -> SweepConfig:
    """The grid that the flags ask for.

    Raises:
        UserError: If a flag's value is not allowed.
    """
    settings = parse_settings(_SETTINGS.value)
    names = [name.strip() for name in _OPTIMIZERS.value]
    unused = [name for name in settings if name not in names]
    if unused:
        raise UserError(f"--optimizer_settings: {unused[0]} is not among --optimizers")
    return SweepConfig(
        depths=cli.parse_items("depths", _DEPTHS.value, int),
        hidden_widths=cli.parse_items("hidden_widths", _HIDDEN_WIDTHS.value, parse_hidden_widths),
        inits=cli.parse_items("inits", _INITS.value, str),
        init_stds=cli.parse_items("init_stds", _INIT_STDS.value, float),
        losses=cli.parse_items(
            "losses", _LOSSES.value, lambda text: Loss.parse(text, _LOSS_CONVENTION.value)
        ),
        optimizers=cli.parse_items(
            "optimizers", names, lambda name: Optimizer(name, settings.get(name, ()))
        ),
        weight_decays=cli.parse_items("weight_decays", _WEIGHT_DECAYS.value, float),
        learning_rates=parse_learning_rates([item.strip() for item in _RATES.value]),
        num_seeds=_NUM_SEEDS.value,
        num_steps=_NUM_STEPS.value,
        target=Target.parse(_TARGET.value.strip()),
        num_records=_NUM_RECORDS.value,
        precision=_PRECISION.value,
        bias=_BIAS.value,
        activation=_ACTIVATION.value,
    )


def load_dataset(console: Console) -> Dataset:
    """The dataset that the flags ask for.

    Raises:
        UserError: If it cannot be had; the message says how to get it.
    """
    name = _DATASET.value
    path, target = _CSV_PATH.value, _CSV_TARGET.value
    if name == "csv":
        if path is None or target is None:
            raise UserError("--dataset csv needs --csv_path and --csv_target")
        return load_csv(path, target)
    if path is not None or target is not None:
        raise UserError(f"--csv_path and --csv_target go with --dataset csv, not {name}")
    for flag in ("gas_name", "gas_batches"):
        if name != "gas" and flags.FLAGS[flag].present:
            raise UserError(f"--{flag} goes with --dataset gas, not {name}")
    if name == "gas_like":
        return gas_like()
    with _bar(console, "downloading") as report:
        if name == "abalone":
            return load_abalone(data_dir=_DATA_DIR.value, progress=report)
        batches = cli.parse_items("gas_batches", _GAS_BATCHES.value, int)
        return load_gas(
            gas_name=_GAS_NAME.value, batches=batches, data_dir=_DATA_DIR.value, progress=report
        )


@contextlib.contextmanager
def _bar(console: Console, what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar with the rate and the time left; it appears at the first report."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, visible=False, rate="")

        def report(done: int, total: int | None) -> None:
            speed = bar.tasks[task].speed
            rate = f"{speed:,.0f}/s" if speed else ""
            bar.update(task, completed=done, total=total, visible=True, rate=rate)

        yield report


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Makes a folder and makes sure that it can be written; undoes what is empty on failure.

    Raises:
        UserError: If the folder cannot be made or written.
    """
    made: list[Path] = []
    try:
        made = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        _remove_empty(made)
        raise UserError(
            f"--output_dir {folder}: cannot write there ({error.strerror}); choose another folder"
        ) from None
    try:
        yield
    except OSError as error:
        _remove_empty(made)
        raise UserError(f"--output_dir {folder}: {error.strerror or error}") from error
    except BaseException:
        _remove_empty(made)
        raise


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def settings_of(config: SweepConfig) -> dict[str, Any]:
    """What results depend on besides the data's contents, by the flags' names, as JSON has it."""
    data = {"dataset": _DATASET.value}
    if _DATASET.value == "gas":
        data |= {"gas_name": _GAS_NAME.value, "gas_batches": sorted(map(int, _GAS_BATCHES.value))}
    if _DATASET.value == "csv":
        data |= {"csv_target": _CSV_TARGET.value}
    grid = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    grid |= {
        "losses": [loss.name for loss in config.losses],
        "loss_convention": config.losses[0].convention,
        "optimizers": [o.name for o in config.optimizers],
        "optimizer_settings": [[o.name, *s] for o in config.optimizers for s in o.settings],
        "target": str(config.target),
    }
    split = {"held_out_fraction": _HELD_OUT.value, "split_seed": _SPLIT_SEED.value}
    return json.loads(json.dumps(data | {"scaling": _SCALING.value} | split | grid))


def default_folder(settings: dict[str, Any]) -> Path:
    """A folder for each set of settings, so that two runs do not meet in one."""
    usual = {
        "dataset": settings["dataset"], "scaling": "standard", "gas_name": "ethanol",
        "gas_batches": list(range(1, 11)), "held_out_fraction": 0.0, "split_seed": 0,
    }  # fmt: skip
    plain = SweepConfig()
    unchanged = settings == settings_of(plain) and all(
        settings.get(name, value) == value for name, value in usual.items()
    )
    if unchanged:
        return Path("outputs") / settings["dataset"]
    code = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return Path("outputs") / f"{settings['dataset']}-{code}"


def finished_run(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether the folder already holds the wanted run.

    Raises:
        UserError: If it holds another run or other files, and may not be overwritten.
    """
    try:
        if not folder.is_dir() or _OVERWRITE.value:
            return False
        if {p.name for p in folder.iterdir()} <= {cluster.SHARES_FOLDER}:
            return False  # empty, or shares of a run that several processes have begun
    except OSError as error:
        raise UserError(f"--output_dir {folder}: {error.strerror}; choose another folder") from None
    try:
        stored = json.loads((folder / CONFIG_FILE).read_text())
        if stored.get("format") != FORMAT:
            raise ValueError
        old = {"data": stored["identity"]["dataset_fingerprint"][:12]}
        old |= stored["identity"]["settings"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"--output_dir {folder} holds files that are not a finished run's: choose an empty "
            "folder, or --overwrite to write into this one"
        ) from None
    new = {"data": wanted["dataset_fingerprint"][:12]} | wanted["settings"]
    changed = [
        f"{name}: {_show(old.get(name))} there, {_show(new.get(name))} asked for"
        for name in dict.fromkeys([*new, *old])
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise UserError(
            f"--output_dir {folder} holds a run with other settings ({'; '.join(changed)}): "
            "choose another folder, or --overwrite to replace it"
        )
    return True


def _show(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@contextlib.contextmanager
def counted_compilations() -> Iterator[list[float]]:
    """Collects the seconds of every XLA compilation, by JAX's own events, while it lasts."""
    seconds: list[float] = []
    active = True

    def note(event: str, duration_secs: float, **_: object) -> None:
        if active and event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield seconds
    active = False


def describe(
    wanted: dict[str, Any],
    dataset: Dataset,
    timing: Timing,
    num_compilations: int,
    devices: Sequence[Device],
) -> dict[str, Any]:
    """What ``config.json`` says of a run: what was asked for, of which data, on what, how fast."""
    packages = ("jax", "jaxlib", "optax", "numpy", "scipy", "xarray")
    return {
        "format": FORMAT,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [f"python -m {Path(__file__).parent.name}.{Path(__file__).stem}", *sys.argv[1:]],
        "identity": wanted,
        "dataset": {
            "name": dataset.name,
            "title": dataset.title,
            "source": dataset.source,
            "is_stand_in": dataset.is_stand_in,
            "fingerprint": dataset.fingerprint,
            "num_rows": len(dataset.features),
            "features": list(dataset.feature_names),
            "targets": list(dataset.target_names),
        },
        "versions": {"python": platform.python_version()}
        | {"implicit_accel": importlib.metadata.version("implicit-accel")}
        | {name: importlib.metadata.version(name) for name in packages},
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "machine": platform.machine(),
            "cores": cli.num_cores(),
        },
        "timing": {
            "compilations": num_compilations,
            "compile_seconds": round(timing.compile_seconds, 3),
            "train_seconds": round(timing.train_seconds, 3),
            "configuration_steps": timing.configuration_steps,
            "pieces": timing.num_pieces,
            "segments": timing.num_segments,
        },
    }


def memory_limit(devices: Sequence[Device]) -> int:
    """Bytes that runs in training may take."""
    if _MEMORY_LIMIT.value is not None:
        return cli.parse_bytes(_MEMORY_LIMIT.value)
    stats = devices[0].memory_stats() if devices[0].platform != "cpu" else None
    available = stats["bytes_limit"] * len(devices) if stats else cli.host_memory()
    return int(0.6 * available)


def choose_devices() -> list[Device]:
    """This process's devices.

    Raises:
        UserError: If there are fewer than asked for.
    """
    devices = jax.local_devices()
    if _DEVICES.value is not None and _DEVICES.value > len(devices):
        raise UserError(f"--devices {_DEVICES.value}: this process has {len(devices)}")
    return devices[: _DEVICES.value]


def report_results(results: xr.Dataset, folder: Path) -> pd.DataFrame:
    """Writes the summary and the figures of a run; returns the table."""
    # Imported here: errors and --help come half a second sooner without matplotlib.
    from implicit_accel.plotting import save_figures

    table = summarise(results, best_by=_BEST_BY.value)
    with atomic_path(folder / SUMMARY_FILE) as temporary:
        table.to_csv(temporary, index=False)
    save_figures(results, folder / FIGURES_FOLDER, best_by=_BEST_BY.value)
    return table


def train(
    plan: Plan, share: Share, wanted: dict[str, Any], folder: Path, log: Console
) -> tuple[list[GroupResult], Timing]:
    """Trains this process's share, or takes it from an earlier call, and collects the others'."""
    whose = json.dumps(wanted, sort_keys=True)
    earlier = cluster.finished_share(folder, share, whose) if share.count > 1 else None
    with cluster.sign_of_life(folder, share), _bar(log, "training") as report:
        if earlier is not None:
            trained, timing = earlier, Timing()
        else:
            trained, timing = train_plan(
                plan,
                share=share,
                devices=choose_devices(),
                memory_limit=memory_limit(choose_devices()),
                progress=report,
            )
        if share.count > 1 and earlier is None:
            cluster.save_share(folder, share, whose, trained)
    if share.index == 0 and share.count > 1:
        trained = cluster.collect(folder, share, whose, log.print)
    return trained, timing


def main() -> None:
    """Trains, prints, writes."""
    config = build_config()
    if _MEMORY_LIMIT.value is not None:
        cli.parse_bytes(_MEMORY_LIMIT.value)
    console, log = cli.make_console(), cli.make_console(stderr=True)
    dataset = load_dataset(log)
    problem = make_problem(
        dataset,
        scaling=_SCALING.value,
        held_out_fraction=_HELD_OUT.value,
        split_seed=_SPLIT_SEED.value,
    )
    settings = settings_of(config)
    wanted = {"settings": settings, "dataset_fingerprint": dataset.fingerprint}
    folder = Path(_OUTPUT_DIR.value) if _OUTPUT_DIR.value else default_folder(settings)
    if finished_run(folder, wanted):
        results = load_run(folder)
        with output_folder(folder):
            table = report_results(results, folder)
        cli.print_summary(table, dataset.title, console)
        console.print(f"\nThis run was already in {folder}; --overwrite trains it again.")
        return

    # One host-platform device per core: each runs its own blocks of configurations in its cache.
    # More may be asked for, to try what several devices do; but not without bound.
    most = max(cli.num_cores(), _MOST_CPU_DEVICES)
    jax.config.update("jax_num_cpu_devices", min(_DEVICES.value or cli.num_cores(), most))
    share = cluster.join()
    devices = choose_devices()
    num_runs = len(config.models) * len(config.learning_rates) * config.num_seeds
    with output_folder(folder), counted_compilations() as compilations:
        log.print(
            f"{dataset.title}: {len(problem.features):,} rows, {problem.num_features} features\n"
            f"{len(config.models)} models x {len(config.learning_rates)} learning rates x "
            f"{config.num_seeds} seeds = {num_runs:,} runs of {config.num_steps:,} steps on "
            f"{len(devices)} {devices[0].platform} device{'s' if len(devices) > 1 else ''}"
            + (f", process {share.index} of {share.count}" if share.count > 1 else "")
        )
        plan = plan_sweep(problem, config, platform=devices[0].platform)
        trained, timing = train(plan, share, wanted, folder, log)
        if share.index > 0:
            log.print(f"process {share.index} of {share.count}: share finished")
            return
        # While this file is missing, the folder holds no finished run.
        (folder / CONFIG_FILE).unlink(missing_ok=True)
        results = assemble(plan, trained)
        save_results(results, folder)
        table = report_results(results, folder)
        count = len(compilations)
        save_json(describe(wanted, dataset, timing, count, devices), folder / CONFIG_FILE)
        cluster.remove_shares(folder, share)
    cli.print_summary(table, dataset.title, console)
    rate = timing.configuration_steps / timing.train_seconds if timing.train_seconds else 0
    console.print(
        f"\n{count} compilation{'' if count == 1 else 's'} ({timing.compile_seconds:.1f} s), "
        f"training {timing.train_seconds:.1f} s: {rate:,.0f} run-steps/s.\n"
        f"{folder}: {RESULTS_FILE}, {SUMMARY_FILE}, {CONFIG_FILE}, {FIGURES_FOLDER}/",
        soft_wrap=True,
    )


if __name__ == "__main__":
    cli.run(main, _GROUPS, __doc__ or "")
