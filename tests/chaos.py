"""Does damage to real sweeps and looks whether anything is lost or wrong.

    python tests/chaos.py                      # all of it, 60 kills and 20 terminations
    python tests/chaos.py --kills 200 --seed 1
    python tests/chaos.py --task user          # the same, done to a model of one's own
    python tests/chaos.py --task first --num_steps 20000 --only cluster

Every scenario runs the program as a user does, and in the end compares the results with an
undisturbed run's, to the bit. Prints a table of what was tried; exits 1 if anything went wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import xarray as xr

REPOSITORY = Path(__file__).parents[1]

COMMANDS = {
    "first": (),  # README's first command
    "linear": (
        "--losses", "l4", "--learning_rates", "0.001,0.003,0.01,0.03",
        "--num_seeds", "8", "--held_out_fraction", "0.2",
    ),
    "user": (
        "--task", f"{REPOSITORY / 'docs' / 'examples' / 'my_model.py'}:task",
        "--task_optimizer", "optimizer", "--axes", "width_scale=0.5:2",
        "--learning_rates", "0.001,0.01,0.1", "--num_seeds", "4", "--batch_size", "16",
        "--record", "gradient_norm",
    ),
}  # fmt: skip


def start(
    task: str,
    folder: Path,
    num_steps: int,
    formats: str,
    *more: str,
    file_limit: int | None = None,
) -> subprocess.Popen[str]:
    flags = (
        *COMMANDS[task], "--checkpoint_every", "0",
        "--num_steps", str(num_steps), "--output_dir", str(folder), "--formats", formats, *more,
    )  # fmt: skip
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "implicit_accel.experiments.sweep", *flags],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if file_limit is not None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (file_limit, file_limit))
    return process


class ChaosError(Exception):
    """Something was lost, wrong or unclear."""


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise ChaosError(what)


def finish(process: subprocess.Popen[str], code: int, *words: str) -> str:
    """Waits for the end; the exit code and the words in its message must be these."""
    _, errors = process.communicate(timeout=300)
    expect(process.returncode == code, f"exit code {process.returncode}, not {code}: {errors}")
    expect("Traceback" not in errors, f"a traceback: {errors}")
    for word in words:
        expect(word in errors, f"no {word!r} in: {errors}")
    return errors


class Chaos:
    """The scenarios.

    Args:
        folder: Where to work.
        seed: Of the moments.
        task: What is trained, a name of `COMMANDS`.
        num_steps: Of the runs; 12 000 are about six seconds of training in 40-odd segments, each
            of which is a checkpoint.
        formats: Of the figures that runs end with.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        task: str = "linear",
        num_steps: int = 12_000,
        formats: str = "png,pdf",
    ) -> None:
        self.folder = folder
        self.task = task
        self.num_steps = num_steps
        self.formats = formats
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.number = 0
        self.undisturbed = folder / "undisturbed"
        begin = time.monotonic()
        process = self.start(self.undisturbed)
        while not list(self.undisturbed.glob("checkpoints/[0-9]*.npz")):
            expect(process.poll() is None, "the undisturbed run ended early")
            time.sleep(0.01)
        self.seconds_to_checkpoint = time.monotonic() - begin
        finish(process, 0)
        self.seconds = time.monotonic() - begin

    def start(
        self, folder: Path, *more: str, file_limit: int | None = None
    ) -> subprocess.Popen[str]:
        return start(self.task, folder, self.num_steps, self.formats, *more, file_limit=file_limit)

    def new_folder(self) -> Path:
        self.number += 1
        return self.folder / f"run{self.number}"

    def same(self, folder: Path) -> None:
        """The results are the undisturbed run's, to the bit, and nothing else is left behind."""
        names = {p.name for p in folder.rglob("*")}
        wanted = {p.name for p in self.undisturbed.rglob("*")}
        numbers = {n for n in names | wanted if n.endswith(".npz")}
        expect(names - numbers == wanted - numbers, f"files {names ^ wanted}")
        versions = Counter(p.name.split(".")[0] for p in folder.glob("checkpoints/[0-9]*.npz"))
        expect(max(versions.values()) <= 2, "old checkpoints are left")
        ours, theirs = folder / "results.nc", self.undisturbed / "results.nc"
        with xr.open_dataset(ours) as a, xr.open_dataset(theirs) as b:
            expect(a.identical(b), "results differ from the undisturbed run's")
        for name in ("results.nc", "summary.csv"):
            content = (folder / name).read_bytes()
            expect(content == (self.undisturbed / name).read_bytes(), f"{name} differs")
        shutil.rmtree(folder)

    def newest(self, folder: Path) -> int:
        numbers = [int(p.name.split(".")[-2]) for p in folder.glob("checkpoints/[0-9]*.npz")]
        return max(numbers, default=0)

    def interrupted(
        self, name: str, count: int, hit: Callable[[subprocess.Popen[str]], bool]
    ) -> None:
        """Ends runs at random moments, ``count`` times in all, and lets the last one finish.

        Half of the moments are any from the start to the end of a run, the others while a file
        is being written.
        """
        hits = 0
        folder = self.new_folder()
        while hits < count or folder.exists():
            process = self.start(folder)
            before = self.newest(folder)
            if hits < count:
                writing = self.random.random() < 0.5
                if writing:
                    self._wait_for_writing(process, folder)
                else:
                    moment = self.random.uniform(0, self.seconds)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(moment)
                if process.poll() is None:
                    partial = list(folder.rglob(".partial-*")) if folder.exists() else []
                    if hit(process):
                        hits += 1
                        self.counts[f"{name}: runs ended"] += 1
                        left = [p for p in partial if p.exists()]
                        self.counts[f"{name}: of these while writing a file"] += bool(left)
                        if (folder / "config.json").exists():
                            self.counts[f"{name}: of these after the training"] += 1
                    expect(self.newest(folder) >= before, "a checkpoint was lost")
                    continue
            finish(process, 0)
            self.same(folder)
            self.counts[f"{name}: runs finished, identical"] += 1
            folder = self.new_folder()

    def _wait_for_writing(self, process: subprocess.Popen[str], folder: Path) -> None:
        """Waits for a random one of the next files that are written."""
        after = time.monotonic() + self.random.uniform(0, self.seconds)
        while process.poll() is None:
            if time.monotonic() > after and any(folder.rglob(".partial-*")):
                time.sleep(self.random.uniform(0, 0.002))
                return
            time.sleep(0.0002)

    def killed(self, count: int) -> None:
        def hit(process: subprocess.Popen[str]) -> bool:
            process.kill()
            process.communicate()
            return process.returncode == -signal.SIGKILL

        self.interrupted("SIGKILL", count, hit)

    def terminated(self, count: int) -> None:
        def hit(process: subprocess.Popen[str]) -> bool:
            number = self.random.choice([signal.SIGTERM, signal.SIGINT])
            process.send_signal(number)
            _, errors = process.communicate(timeout=120)
            if process.returncode == 0:
                return False  # it was about to end
            # Before the program has begun to listen, the system's own way of ending is seen.
            allowed = {128 + number, -number} | ({1} if number == signal.SIGINT else set())
            expect(process.returncode in allowed, f"exit code {process.returncode}: {errors}")
            if "same command goes on" in errors:
                self.counts["SIGTERM, SIGINT: said how to go on"] += 1
            return True

        self.interrupted("SIGTERM, SIGINT", count, hit)

    def ended_twice(self, count: int) -> None:
        """A second Ctrl-C, a moment after the first, ends at once."""
        for _ in range(count):
            folder = self.new_folder()
            process = self.start(folder)
            self.until(process, lambda folder=folder: self.newest(folder) >= 2)
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
            expect(process.returncode == 130, f"exit code {process.returncode}")
            finish(self.start(folder), 0)
            self.same(folder)
            self.counts["Ctrl-C twice: identical after that"] += 1

    def until(self, process: subprocess.Popen[str], holds: Callable[[], bool]) -> None:
        while not holds():
            expect(process.poll() is None, "the run ended early")
            time.sleep(0.005)

    def begun(self) -> Path:
        """A folder with a run that was stopped in the middle."""
        folder = self.new_folder()
        process = self.start(folder)
        self.until(process, lambda: self.newest(folder) >= 5)
        process.terminate()
        finish(process, 143, "the same command goes on")
        return folder

    def file_limits(self, count: int) -> None:
        """A limit on the size of a file, at any size."""
        largest = max(p.stat().st_size for p in self.undisturbed.rglob("*") if p.is_file())
        for i in range(count):
            fresh = i % 2 == 0
            folder = self.new_folder() if fresh else self.begun()
            before = self.newest(folder)
            limit = int(largest * self.random.uniform(0.001, 0.95))
            process = self.start(folder, file_limit=limit)
            _, errors = process.communicate(timeout=300)
            expect(process.returncode in (1, 2), f"exit code {process.returncode}: {errors}")
            expect("Traceback" not in errors, f"a traceback: {errors}")
            expect("--output_dir" in errors, f"no clear error: {errors}")
            expect(self.newest(folder) >= before, "a checkpoint was lost")
            # All may have been trained by then, and the page, the largest file, not be written.
            trained = len(finished_chunks(folder, self.num_steps)) == len(
                finished_chunks(self.undisturbed, self.num_steps)
            )
            finish(self.start(folder), 0, *([] if fresh or trained else ["going on"]))
            self.same(folder)
            self.counts["file-size limit: clear error, identical after that"] += 1

    def full_disks(self, count: int) -> None:
        """A disk with room for some of the files only."""
        used = sum(p.stat().st_size for p in self.undisturbed.rglob("*") if p.is_file())
        for _ in range(count):
            with small_disk(self.folder / "disk") as resize:
                if resize is None:
                    self.counts["full disk: cannot be tried here (mounting is not allowed)"] += 1
                    return
                folder = self.folder / "disk" / "run"
                resize(int(used * self.random.uniform(0.05, 1.0)))
                process = self.start(folder)
                _, errors = process.communicate(timeout=300)
                if process.returncode:
                    expect(process.returncode in (1, 2), f"code {process.returncode}: {errors}")
                    expect("Traceback" not in errors, f"a traceback: {errors}")
                    expect("No space left" in errors, f"no clear error: {errors}")
                    self.counts["full disk: clear error"] += 1
                before = self.newest(folder)
                resize(100 * used)
                errors = finish(self.start(folder), 0)
                expect(not before or "going on" in errors or not process.returncode
                       or self.newest(folder) == before, f"began again: {errors}")  # fmt: skip
                self.same(folder)
                self.counts["full disk: identical after room was made"] += 1

    def rivals(self, count: int) -> None:
        """Two of the same command on one folder; and one right after another was killed."""
        for i in range(count):
            folder = self.new_folder() if i % 2 == 0 else self.begun()
            first, second = self.start(folder), self.start(folder)
            first.poll()
            outputs = [p.communicate(timeout=300)[1] for p in (first, second)]
            codes = sorted(p.returncode for p in (first, second))
            expect(codes == [0, 2], f"exit codes {codes}: {outputs}")
            loser = outputs[0] if first.returncode == 2 else outputs[1]
            expect("another process is at work" in loser, f"no clear error: {loser}")
            self.same(folder)
            self.counts["two rivals: one refused, the other identical"] += 1
        folder = self.new_folder()
        process = self.start(folder)
        self.until(process, lambda: self.newest(folder) >= 3)
        process.kill()
        after = self.start(folder)
        process.communicate()
        finish(after, 0, "going on")
        self.same(folder)
        self.counts["lock of a killed owner: free at once"] += 1

    def deleted(self) -> None:
        """The folder disappears while the run is on."""
        folder = self.new_folder()
        process = self.start(folder)
        self.until(process, lambda: self.newest(folder) >= 2)
        trash = folder.with_name("trash")
        folder.rename(trash)
        finish(process, 1, "--output_dir", "No such file")
        expect(not folder.exists(), "the folder is there again")
        trash.rename(folder)
        finish(self.start(folder), 0, "going on")
        self.same(folder)
        self.counts["folder removed in mid-run: clear error, identical after its return"] += 1

    def damaged(self, count: int) -> None:
        """A chunk's newest version is damaged: the one before it is used; both: begun again."""
        for i in range(count):
            folder = self.begun()
            files = sorted(folder.glob("checkpoints/[0-9]*.npz"), reverse=True)
            chunk = self.random.choice(files).name.split(".")[0]
            for path in [p for p in files if p.name.startswith(chunk)][: 1 + i % 2]:
                content = bytearray(path.read_bytes())
                place = self.random.randrange(len(content))
                content[place] ^= 1 << self.random.randrange(8)
                cut = self.random.choice([len(content), place])
                path.write_bytes(content[:cut])
            finish(self.start(folder), 0)
            self.same(folder)
            self.counts["damaged checkpoints: identical all the same"] += 1

    def cluster(self, seconds: float) -> None:
        """A worker of four is killed every so many seconds, and the program twice."""
        with a_cluster(self.folder, num_workers=4) as scheduler:
            folder, more = self.new_folder(), ("--scheduler", str(scheduler))
            before: dict[str, int] = {}
            for deaths in range(3):
                process = self.start(folder, *more)
                until = time.monotonic() + (1.5 * seconds if deaths < 2 else float("inf"))
                killed = time.monotonic()
                while process.poll() is None and time.monotonic() < until:
                    if time.monotonic() - killed > seconds:
                        worker = self.random.choice(workers_of(scheduler))
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(worker, signal.SIGKILL)
                            self.counts["cluster: workers killed"] += 1
                        killed = time.monotonic()
                    time.sleep(0.05)
                if deaths == 2 or process.poll() is not None:
                    finish(process, 0)
                    break
                process.kill()
                process.communicate()
                self.counts["cluster: programs killed"] += 1
                before |= finished_chunks(folder, self.num_steps)
            after = finished_chunks(folder, self.num_steps)
            expect({n: after.get(n) for n in before} == before, "a finished chunk was written anew")
            self.counts["cluster: chunks finished before the program was killed"] += len(before)
            self.counts["cluster: chunks"] += len(after)
            self.same(folder)
            self.counts["cluster: runs finished, identical"] += 1


@contextlib.contextmanager
def a_cluster(folder: Path, num_workers: int) -> Iterator[Path]:
    """A scheduler and workers, as the documentation starts them by hand; gives its file."""
    file = folder / "scheduler.json"
    environment = os.environ | {"DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0"}
    commands = [
        ["scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0"],
        ["worker", "--nthreads", "1", "--memory-limit", "0", "--nworkers", str(num_workers),
         "--local-directory", str(folder)],
    ]  # fmt: skip
    processes = []
    try:
        for command in commands:
            command += ["--scheduler-file", str(file)]
            words = [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]]
            with (folder / f"{command[0]}.log").open("w") as log:
                processes.append(subprocess.Popen(words, env=environment, stderr=log))
            while not file.exists():
                expect(processes[0].poll() is None, "the scheduler ended")
                time.sleep(0.1)
        yield file
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def workers_of(scheduler: Path) -> list[int]:
    """The worker processes that are alive on this machine."""
    words = "distributed.cli.dask_worker", str(scheduler)
    nannies = [
        p for p in psutil.process_iter(["cmdline"])
        if all(any(word in part for part in p.info["cmdline"] or ()) for word in words)
    ]  # fmt: skip
    return [
        child.pid
        for nanny in nannies
        for child in nanny.children()
        if "spawn_main" in " ".join(child.cmdline())
    ]


def finished_chunks(folder: Path, num_steps: int) -> dict[str, int]:
    """The files of finished chunks, and when they were written."""
    found = {}
    for path in folder.glob("checkpoints/[0-9]*.npz"):
        with contextlib.suppress(OSError), np.load(path) as arrays:
            if json.loads(str(arrays["about"]))["next_step"] == num_steps + 1:
                found[path.name] = path.stat().st_mtime_ns
    return found


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Callable[[int], None] | None]:
    """Mounts a file system in memory, if this user may; gives a function that sets its size."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)],
        capture_output=True, check=False,
    ).returncode == 0  # fmt: skip

    def resize(size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(path)], check=True)

    try:
        yield resize if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(path)], check=True)
        path.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=60, help="SIGKILLs (default: 60)")
    parser.add_argument("--terminations", type=int, default=20, help="SIGTERMs and SIGINTs")
    parser.add_argument("--others", type=int, default=8, help="repetitions of everything else")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--task", choices=COMMANDS, default="linear", help="what is trained")
    parser.add_argument("--num_steps", type=int, default=12_000, help="of a run (default: 12000)")
    parser.add_argument("--only", help="one scenario, by its name")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(
            Path(folder), arguments.seed, task=arguments.task, num_steps=arguments.num_steps
        )
        print(f"undisturbed: {chaos.seconds:.1f} s, first checkpoint after "
              f"{chaos.seconds_to_checkpoint:.1f} s", flush=True)  # fmt: skip
        scenarios: list[tuple[str, Callable[[], None]]] = [
            ("rivals", lambda: chaos.rivals(arguments.others)),
            ("deleted", chaos.deleted),
            ("file limits", lambda: chaos.file_limits(arguments.others)),
            ("full disks", lambda: chaos.full_disks(arguments.others)),
            ("damaged", lambda: chaos.damaged(arguments.others)),
            ("ended twice", lambda: chaos.ended_twice(arguments.others)),
            ("SIGTERM, SIGINT", lambda: chaos.terminated(arguments.terminations)),
            ("SIGKILL", lambda: chaos.killed(arguments.kills)),
            ("cluster", lambda: chaos.cluster(seconds=8)),
        ]
        failures = 0
        for name, scenario in scenarios:
            if arguments.only not in (None, name):
                continue
            try:
                scenario()
            except ChaosError as failure:
                failures += 1
                print(f"FAILED {name}: {failure}", flush=True)
            for what, count in sorted(chaos.counts.items()):
                print(f"{count:6d}  {what}", flush=True)
            chaos.counts.clear()
    print(f"{failures} scenario{'' if failures == 1 else 's'} failed")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
