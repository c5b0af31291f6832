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
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import pandas as pd
import xarray as xr
from implicit_accel.engine.training import Device, GroupResult, Share, Snapshot, Timing, merge
from rich.console import Console

from experiments import cli, cluster
from experiments.settings import (
    BEST_BY,
    CHECKPOINT_EVERY,
    DEVICES,
    GROUPS,
    MEMORY_LIMIT,
    OUTPUT_DIR,
    OVERWRITE,
    build_config,
    build_preparation,
    default_settings,
    load_dataset,
    settings_of,
)
from experiments.stopping import StopRequest, watched_signals
from implicit_accel.data.dataset import Dataset
from implicit_accel.data.problems import Problem, make_problem
from implicit_accel.errors import DataError, UserError
from implicit_accel.files import atomic_path, remove_partial
from implicit_accel.linear.config import SweepConfig
from implicit_accel.linear.sweep import Plan, assemble, plan_sweep, train_plan
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
from implicit_accel.statistics import summarise
from implicit_accel.store.checkpoints import Keeper
from implicit_accel.store.folder import CHECKPOINTS_FOLDER, Identity, Manifest, RunFolder

_GO_ON = "stopped at a checkpoint: the same command goes on from there"

# What --devices may ask of a CPU with fewer cores.
_MOST_CPU_DEVICES = 16


def choose_folder(identity: Identity) -> RunFolder:
    """The run's folder: the one asked for, or one in ``outputs/``.

    Without ``--output_dir``, a run that this command goes on with is looked for; a new one gets
    a folder of its own, so that two runs do not meet in one.
    """
    if OUTPUT_DIR.value:
        return RunFolder(Path(OUTPUT_DIR.value))
    outputs, dataset = Path("outputs"), identity.settings["dataset"]
    plain = RunFolder(outputs / dataset)
    if not Identity(default_settings(), identity.dataset_fingerprint).differences(identity) and (
        (stored := plain.stored()) is None or not stored.differences(identity)
    ):
        return plain
    for path in sorted(outputs.glob(f"{dataset}-*")):
        stored = RunFolder(path).stored()
        if stored is not None and not stored.differences(identity):
            return RunFolder(path)
    return RunFolder(outputs / f"{dataset}-{identity.code()}")


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
    identity: Identity,
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
        "identity": dataclasses.asdict(identity),
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
    if MEMORY_LIMIT.value is not None:
        return cli.parse_bytes(MEMORY_LIMIT.value)
    stats = devices[0].memory_stats() if devices[0].platform != "cpu" else None
    available = stats["bytes_limit"] * len(devices) if stats else cli.host_memory()
    return int(0.6 * available)


def choose_devices() -> list[Device]:
    """This process's devices.

    Raises:
        UserError: If there are fewer than asked for.
    """
    devices = jax.local_devices()
    if DEVICES.value is not None and DEVICES.value > len(devices):
        raise UserError(f"--devices {DEVICES.value}: this process has {len(devices)}")
    return devices[: DEVICES.value]


def report_results(results: xr.Dataset, folder: Path) -> pd.DataFrame:
    """Writes the summary and the figures of a run; returns the table."""
    # Imported here: errors and --help come half a second sooner without matplotlib.
    from implicit_accel.plotting import save_figures

    table = summarise(results, best_by=BEST_BY.value)
    with atomic_path(folder / SUMMARY_FILE) as temporary:
        table.to_csv(temporary, index=False)
    save_figures(results, folder / FIGURES_FOLDER, best_by=BEST_BY.value)
    return table


@dataclasses.dataclass
class Training:
    """The training of a run: its parts, and their shares that are this process's.

    Attributes:
        folder: The run's.
        manifest: What there is to train.
        problem: What to fit.
        config: The whole grid.
        process: Which process this is.
        devices: This process's.
        log: Where to say what is done.
    """

    folder: RunFolder
    manifest: Manifest
    problem: Problem
    config: SweepConfig
    process: Share
    devices: Sequence[Device]
    log: Console

    def __post_init__(self) -> None:
        self.plans = [
            plan_sweep(
                self.problem,
                part.config(self.config),
                platform=self.devices[0].platform,
                planned_steps=part.planned_steps,
            )
            for part in self.manifest.parts
        ]
        self.units = self.manifest.units()

    def run(self) -> None:
        """Trains this process's units, from their last snapshots on.

        Raises:
            Stopped: If a signal asked for it; the state is saved.
        """
        with watched_signals(self.log.print) as stop:
            for number, (part, share) in enumerate(self.units):
                if number % self.process.count == self.process.index:
                    self._train(part, share, stop)
            if self.process.index == 0:
                cluster.wait_for_others(
                    self.folder.checkpoints,
                    self.process,
                    self._unfinished_processes,
                    self.log.print,
                    lambda: stop.obey(_GO_ON),
                )

    def results(self) -> tuple[xr.Dataset, Timing]:
        """The whole grid's results, of all finished units, and what they cost together."""
        parts: list[tuple[Plan, list[GroupResult]]] = []
        timings = []
        for number, plan in enumerate(self.plans):
            snapshots = [self._newest(k, share) for k, share in self.units if k == number]
            parts.append((plan, merge([s.results for s in snapshots if s is not None])))
            timings += [s.timing for s in snapshots if s is not None]
        fields = (f.name for f in dataclasses.fields(Timing))
        together = Timing(**{name: sum(getattr(t, name) for t in timings) for name in fields})
        return assemble(self.config, parts), together

    def _newest(self, part: int, share: Share) -> Snapshot | None:
        groups = self.plans[part].groups
        sizes = [len(share.members(group.num_configurations)) for group in groups]
        unit = self.folder.unit(self.manifest, part, share)
        return unit.newest(groups, sizes, self.config.precision)

    def _train(self, part: int, share: Share, stop: StopRequest) -> None:
        unit = self.folder.unit(self.manifest, part, share)
        if unit.is_finished(self.config.num_steps):
            return
        what = "training"
        if len(self.units) > self.process.count:
            what += f" part {part + 1} of {len(self.plans)}"
        with self.folder.locked(f"{CHECKPOINTS_FOLDER}/{unit.name}.lock"):
            resume = self._newest(part, share)
            if resume is None and unit.paths():
                self.log.print("no checkpoint can be read: beginning again")
            if resume is not None:
                reached = [
                    0 if p is None else min(p.next_step, resume.num_steps) for p in resume.pieces
                ]
                done = sum(reached) / len(reached) / self.config.num_steps
                self.log.print(f"going on from a checkpoint at {done:.1%} of {what}")
            keeper = Keeper(unit, CHECKPOINT_EVERY.value, wanted=stop)

            def after_segment(take: Callable[[], Snapshot], is_last: bool) -> None:
                keeper(take, is_last)
                if keeper.num_saved and self.process.index == 0:
                    self.folder.forget_replaced()
                stop.obey(_GO_ON)

            with cli.progress_bar(self.log, what) as report:
                train_plan(
                    self.plans[part],
                    share=share,
                    devices=self.devices,
                    memory_limit=memory_limit(self.devices),
                    progress=report,
                    resume=resume,
                    after_segment=after_segment,
                )

    def _unfinished_processes(self) -> list[int]:
        processes = [k % self.process.count for k in range(len(self.units))]
        return sorted(
            {
                process
                for process, (part, share) in zip(processes, self.units, strict=True)
                if process
                and not self.folder.unit(self.manifest, part, share).is_finished(
                    self.config.num_steps
                )
            }
        )


def show_finished(folder: RunFolder, title: str, console: Console) -> bool:
    """Prints a finished run's table and redraws its figures; False if its results are damaged."""
    try:
        results = load_run(folder.path)
    except DataError as error:
        if folder.manifest() is None:
            raise
        console.print(f"{error}: put together again from the checkpoints")
        return False
    with cli.output_folder(folder.path), folder.locked(patience=cluster.PATIENCE):
        remove_partial(folder.path)
        table = report_results(results, folder.path)
    cli.print_summary(table, title, console)
    console.print(f"\nThis run was already in {folder.path}; --overwrite trains it again.")
    return True


def main() -> None:
    """Trains, prints, writes."""
    config = build_config()
    if MEMORY_LIMIT.value is not None:
        cli.parse_bytes(MEMORY_LIMIT.value)
    console, log = cli.make_console(), cli.make_console(stderr=True)
    dataset = load_dataset(log)
    problem = make_problem(dataset, **dataclasses.asdict(build_preparation()))
    identity = Identity(settings_of(config), dataset.fingerprint)
    folder = choose_folder(identity)
    overwrite = OVERWRITE.value
    if not overwrite and folder.finished() == identity:
        if show_finished(folder, dataset.title, console):
            return
    else:
        folder.check(identity, overwrite=overwrite)

    # One host-platform device per core: each runs its own blocks of configurations in its cache.
    # More may be asked for, to try what several devices do; but not without bound.
    most = max(cli.num_cores(), _MOST_CPU_DEVICES)
    jax.config.update("jax_num_cpu_devices", min(DEVICES.value or cli.num_cores(), most))
    with contextlib.ExitStack() as stack:
        stack.enter_context(cli.output_folder(folder.path))
        compilations = stack.enter_context(counted_compilations())
        # Every process looks after the folder before any of them trains: `join` waits for all.
        with folder.locked(patience=cluster.PATIENCE if cluster.is_one_of_many() else 0):
            folder.settle(identity, overwrite=overwrite)
        process = cluster.join()
        if process.index == 0:
            stack.enter_context(folder.locked())
        devices = choose_devices()
        num_runs = len(config.models) * len(config.learning_rates) * config.num_seeds
        log.print(
            f"{dataset.title}: {len(problem.features):,} rows, {problem.num_features} features\n"
            f"{len(config.models)} models x {len(config.learning_rates)} learning rates x "
            f"{config.num_seeds} seeds = {num_runs:,} runs of {config.num_steps:,} steps on "
            f"{len(devices)} {devices[0].platform} device{'s' if len(devices) > 1 else ''}"
            + (f", process {process.index} of {process.count}" if process.count > 1 else "")
        )
        manifest = open_manifest(folder, identity, config, process, devices, log)
        training = Training(folder, manifest, problem, config, process, devices, log)
        with cluster.sign_of_life(folder.checkpoints, process):
            training.run()
        if process.index > 0:
            log.print(f"process {process.index} of {process.count}: share finished")
            return
        results, timing = training.results()
        # While this file is missing, the folder holds no finished run.
        (folder.path / CONFIG_FILE).unlink(missing_ok=True)
        save_results(results, folder.path)
        table = report_results(results, folder.path)
        count = len(compilations)
        description = describe(identity, dataset, timing, count, devices)
        save_json(description, folder.path / CONFIG_FILE)
    cli.print_summary(table, dataset.title, console)
    rate = timing.configuration_steps / timing.train_seconds if timing.train_seconds else 0
    console.print(
        f"\n{count} compilation{'' if count == 1 else 's'} ({timing.compile_seconds:.1f} s), "
        f"training {timing.train_seconds:.1f} s: {rate:,.0f} run-steps/s.\n"
        f"{folder.path}: {RESULTS_FILE}, {SUMMARY_FILE}, {CONFIG_FILE}, {FIGURES_FOLDER}/",
        soft_wrap=True,
    )


def open_manifest(
    folder: RunFolder,
    identity: Identity,
    config: SweepConfig,
    process: Share,
    devices: Sequence[Device],
    log: Console,
) -> Manifest:
    """What there is to train: what was begun, with parts for what is new; process 0 writes it."""
    environment = (
        f"JAX {jax.__version__}, {len(devices)} {devices[0].device_kind} "
        f"device{'s' if len(devices) > 1 else ''} a process, {platform.machine()}"
    )
    begun = folder.manifest()
    folder.checkpoints.mkdir(exist_ok=True)
    if begun is None:
        manifest = Manifest.begin(identity, config, process.count, environment)
    else:
        manifest = begun.extended(identity, config, process.count)
        if begun.environment != environment:
            log.print(
                f"this run was begun with {begun.environment}; it goes on with {environment}, and "
                "its results are the same to rounding"
            )
    if manifest != begun and process.index == 0:
        folder.save_manifest(manifest)
    return manifest


if __name__ == "__main__":
    cli.run(main, GROUPS, __doc__ or "")
