"""Chunks on disk: trained on to the bit from any of them, whatever happened to the files."""

import dataclasses
import errno
import itertools
import json
import random
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from chunked import SmallBlocks, assert_same_bits, linear
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples

from implicit_accel import UserError, files
from implicit_accel.engine.chunks import Chunk
from implicit_accel.executors.local import LocalExecutor
from implicit_accel.files import seal
from implicit_accel.linear import Loss
from implicit_accel.store.chunks import CheckpointSchedule, ChunkFile
from implicit_accel.store.folder import RunFolder
from implicit_accel.store.training import StoredTraining

STEPS = 120


class Recorder(LocalExecutor):
    """An executor that notes what it is asked for: chunks, and the steps at which they go on."""

    def __init__(self, num_devices=2, memory_limit=None):
        super().__init__(jax.local_devices()[:num_devices], memory_limit)
        self.asked = []

    def train(self, job, chunks, reached, *, keep_leaves=True):
        steps = {chunk: state.next_step for chunk, state in reached.items()}
        groups = job.plan(self.platform).groups
        for chunk in chunks:
            runs = chunk.size(groups[chunk.group].num_runs)
            self.asked.append((job.round, chunk, runs, steps.get(chunk, 0)))
        yield from super().train(job, chunks, reached, keep_leaves=keep_leaves)


def small(**changes):
    # Chunks of 24 runs in 5 blocks: a place is without a run.
    return SmallBlocks(linear(**({"losses": (Loss(2),)} | changes)), block=5)


def training(path, experiment, executor=None, **options: Any):
    path.mkdir(parents=True, exist_ok=True)
    options = {"checkpoint_every": 0.0} | options
    return StoredTraining(RunFolder(path), experiment, executor or Recorder(), **options)


def break_off(path, experiment, updates, executor=None):
    """Trains in a folder, and stops after so many updates."""
    seen: Any = training(path, experiment, executor).train()
    for _ in itertools.islice(seen, updates):
        pass
    seen.close()


def finish(path, experiment, executor=None):
    """Trains to the end in a folder; results and progress."""
    stored = training(path, experiment, executor)
    seen = list(stored.train())
    return stored.results()[0], seen


def chunk_files(path, experiment):
    """The files of a run's chunks, with their groups."""
    folder = RunFolder(path)
    manifest = folder.manifest()
    assert manifest is not None
    found = {}
    for number, (added, counts) in enumerate(zip(manifest.rounds, manifest.counts, strict=True)):
        groups = experiment.plan_round(added, "cpu").groups
        for g, count in enumerate(counts):
            for chunk in (Chunk(g, i, count) for i in range(count)):
                found[number, chunk] = (folder.chunk_file(manifest, number, chunk), groups[g])
    return found


def newest(path, experiment):
    return {
        chunk: file.newest(chunk, group, experiment.precision)
        for (_, chunk), (file, group) in chunk_files(path, experiment).items()
    }


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    path = tmp_path_factory.mktemp("straight")
    results, _ = finish(path, small())
    return results, newest(path, small())


@settings(max_examples=examples(3))
@given(
    pauses=st.lists(
        st.tuples(st.integers(1, 7), st.integers(2, 4), st.sampled_from([None, 1, 20_000])),
        min_size=1, max_size=3,
    )
)  # fmt: skip
def test_a_run_broken_off_anywhere_ends_the_same_to_the_bit(straight, tmp_path_factory, pauses):
    """On other numbers of devices and within other limits each time."""
    path = tmp_path_factory.mktemp("run") / "run"
    for updates, num_devices, limit in pauses:
        break_off(path, small(), updates, Recorder(num_devices, limit))
    results, _ = finish(path, small())
    assert results.identical(straight[0])
    assert_same_bits(newest(path, small()), straight[1])
    for file, _ in chunk_files(path, small()).values():
        assert 1 <= len(file.paths()) <= 2


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, _ = finish(tmp_path, small())
    executor = Recorder()
    again, seen = finish(tmp_path, small(), executor)
    assert executor.asked == []
    assert seen == []
    assert again.identical(first)


def assert_close(actual, expected):
    assert actual["loss"].dtype == np.float64
    for name in expected.data_vars:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-7, err_msg=str(name))


RATES = (0.1, 0.35, 0.6, 0.9)
EXTENSIONS = {
    "seeds": ({"num_seeds": 5}, 2 * 4 * 2 * STEPS),
    "rates": ({"learning_rates": (0.05, *RATES)}, 2 * 1 * 3 * STEPS),
    "steps": ({"num_steps": 200}, 2 * 4 * 3 * 80),
    "all": (
        {"num_seeds": 5, "learning_rates": (*RATES, 0.2), "num_steps": 200},
        2 * 4 * 3 * 80 + 2 * (5 * 5 - 4 * 3) * 200,
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", EXTENSIONS)
def test_an_extended_run_trains_what_it_lacks_and_is_a_straight_one_to_rounding(tmp_path, which):
    grid = {"learning_rates": RATES, "precision": "float64"}
    changes, missing = EXTENSIONS[which]
    finish(tmp_path / "run", small(**grid))
    wanted, executor = small(**(grid | changes)), Recorder()
    extended, seen = finish(tmp_path / "run", wanted, executor)
    num_steps = wanted.num_steps
    assert {step for _, _, _, step in executor.asked} <= {0, STEPS + 1}
    asked = sum(runs * (num_steps - max(step - 1, 0)) for _, _, runs, step in executor.asked)
    assert asked == missing
    total = extended["steps_to_target"].size * num_steps
    assert {p.total for p in seen} == {total}
    assert seen[-1].done == total
    assert min(p.done for p in seen) > total - missing - num_steps
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].chunks_done == seen[-1].num_chunks == len(chunk_files(tmp_path / "run", wanted))
    straight, _ = finish(tmp_path / "straight", wanted)
    assert_close(extended, straight)


def test_an_extension_broken_off_ends_the_same_to_the_bit(tmp_path):
    """With a chunk broken off in the shorter run, so that chunks go on at different steps."""
    longer = small(num_steps=200)
    break_off(tmp_path / "half", small(), 17, Recorder(2, 1))
    shutil.copytree(tmp_path / "half", tmp_path / "broken")
    whole, _ = finish(tmp_path / "half", longer)
    executor = Recorder(3)
    break_off(tmp_path / "broken", longer, 4, executor)
    begun = {step for _, _, _, step in executor.asked}
    assert len(begun) > 1
    again, _ = finish(tmp_path / "broken", longer, Recorder(4))
    assert again.identical(whole)


def test_fewer_steps_than_were_made_are_refused(tmp_path):
    finish(tmp_path, small())
    with pytest.raises(ValueError, match="120 steps are done already, 90 asked for"):
        finish(tmp_path, small(num_steps=90))


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two versions of each chunk."""
    path = tmp_path_factory.mktemp("trained")
    break_off(path, small(), 3)
    return path


@pytest.fixture
def stored(trained, tmp_path):
    """A copy of it; its first chunk with this chunk's file and group."""
    shutil.copytree(trained, tmp_path / "run")
    (_, chunk), (file, group) = next(iter(chunk_files(tmp_path / "run", small()).items()))
    return chunk, file, group


def next_step(chunk, file, group):
    state = file.newest(chunk, group, "float32")
    return 0 if state is None else state.next_step


def test_both_versions_are_kept_and_the_newest_is_read(stored):
    chunk, file, group = stored
    last, before = file.paths()
    assert [p.name.split(".")[0] for p in (last, before)] == ["0-0-0"] * 2
    step = next_step(*stored)
    last.unlink()
    earlier = file.newest(chunk, group, "float32")
    assert 0 < earlier.next_step < step
    # A file of a number beyond six digits is the newest; one of another chunk's name is none.
    shutil.copy(before, file.folder / f"{file.name}.1000000.npz")
    shutil.copy(before, file.folder / f"{file.name}0.2000000.npz")
    shutil.copy(before, file.folder / f"{file.name}.x.npz")
    assert [p.name.split(".")[1] for p in file.paths()] == ["1000000", before.name.split(".")[1]]
    file.save(earlier)
    assert [p.name.split(".")[1] for p in file.paths()] == ["1000001", "1000000"]
    assert_same_bits({chunk: file.newest(chunk, group, "float32")}, {chunk: earlier})


def test_damage_is_noticed_and_the_version_before_used(stored):
    _, file, _ = stored
    last, before = file.paths()
    step, content = next_step(*stored), last.read_bytes()
    rng = random.Random(5)
    found = set()
    for trial in range(150):
        damaged = bytearray(content)
        place = rng.randrange(len(content))
        if trial % 3 == 0:
            damaged = damaged[:place]
        elif trial % 3 == 1:
            damaged[place] ^= 1 << rng.randrange(8)
        else:
            damaged[place : place + 40] = rng.randbytes(40)
        last.write_bytes(damaged)
        found.add(next_step(*stored))
    (first,) = found
    assert 0 < first < step
    last.write_bytes(b"")
    assert next_step(*stored) == first
    before.write_bytes(b"PK" + bytes(300))
    assert next_step(*stored) == 0
    last.write_bytes(content)
    assert next_step(*stored) == step


def test_foreign_files_are_passed_over(stored):
    chunk, file, group = stored
    assert next_step(chunk, dataclasses.replace(file, identity="theirs"), group) == 0
    wider = small(hidden_widths=(5,))
    plan = wider.plan(wider.axes, platform="cpu", planned_steps=STEPS)
    assert plan.groups[0].num_runs == group.num_runs
    assert next_step(chunk, file, plan.groups[0]) == 0
    assert file.newest(chunk, group, "float64") is None
    larger = dataclasses.replace(group, num_runs=group.num_runs + chunk.count)
    assert next_step(chunk, file, larger) == 0


def forge(file, **changes):
    """The newest file with other contents, sealed."""
    path = file.paths()[0]
    with np.load(path) as arrays:
        content = dict(arrays)
    for name, change in changes.items():
        if name == "about":
            about = json.loads(str(content["about"])) | change
            content["about"] = np.array(json.dumps(about))
        elif change is None:
            del content[name]
        else:
            content[name] = change(content[name])
    np.savez(path, **content)  # pyright: ignore[reportArgumentType]
    seal(path)


FORGED = {
    "lost": {"members": lambda m: np.where(m == 0, -1, m)},
    "twice": {"members": lambda m: np.where(m == 0, 1, m)},
    "beyond": {"members": lambda m: np.where(m == 0, m.max() + 1, m)},
    "padding": {"members": lambda m: np.where(m < 0, -2, m)},
    "flat": {"members": lambda m: m.ravel()},
    "fractions": {"members": lambda m: m.astype(float)},
    "no members": {"members": None},
    "shape": {"leaf_0": lambda a: a[:, :1]},
    "type": {"leaf_0": lambda a: a.astype(np.float64)},
    "no leaf": {"leaf_1": None},
    "fewer leaves": {"about": {"num_leaves": 1}},
    "steps": {"steps_0": lambda a: a[::-1]},
    "fewer records": {"result_excess_loss": lambda a: a[:, 1:]},
    "fewer runs": {"result_divergence_step": lambda a: a[1:]},
    "no records": {"result_excess_loss": None},
    "step": {"about": {"next_step": STEPS + 2}},
    "text": {"about": {"next_step": "4"}},
    "true": {"about": {"num_steps": True}},
    "timing": {"about": {"timing": {"compile_seconds": "1"}}},
    "about": {"about": {"identity": 3}},
}


@pytest.mark.parametrize("name", FORGED)
def test_files_with_other_contents_are_passed_over(stored, name):
    """Whose checksums fit: of another version of a package, or written by something else."""
    _, file, _ = stored
    step = next_step(*stored)
    forge(file)
    assert next_step(*stored) == step
    forge(file, **FORGED[name])
    assert 0 < next_step(*stored) < step


def test_a_finished_chunk_that_cannot_be_read_is_trained_again(straight, tmp_path):
    """As after an update of a package whose optimizer has another state."""
    finish(tmp_path, small())
    (_, chunk), (file, _) = next(iter(chunk_files(tmp_path, small()).items()))
    file.paths()[1].unlink()
    forge(file, leaf_1=None)
    with pytest.raises(UserError, match="the same call trains it again"):
        training(tmp_path, small()).results()
    executor = Recorder()
    again, _ = finish(tmp_path, small(), executor)
    assert [asked[1:] for asked in executor.asked] == [(chunk, chunk.size(48), 0)]
    assert again.identical(straight[0])


@pytest.mark.parametrize("point", ["open", "write", "fsync", "rename"])
def test_a_failure_at_any_point_of_writing_leaves_the_last_version(stored, monkeypatch, point):
    chunk, file, group = stored
    step, names = next_step(*stored), set(file.folder.iterdir())
    state = file.newest(chunk, group, "float32")

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {
        "open": (files.tempfile, "mkstemp"), "write": (np, "savez"),
        "fsync": (files.os, "fsync"), "rename": (files.Path, "replace"),
    }[point]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(*target, fail)
        with pytest.raises(OSError, match="No space left"):
            file.save(state)
    assert set(file.folder.iterdir()) == names
    assert next_step(*stored) == step


# --- when states are saved -----------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(("cost", "every", "interval"), [(0.1, 60, 60), (3, 60, 150), (3, 0, 0)])
def test_checkpoints_are_due_by_time_and_cost_at_most_two_per_cent(
    monkeypatch, cost, every, interval
):
    clock = Clock()
    monkeypatch.setattr("implicit_accel.store.chunks.time.monotonic", clock)
    saved, schedule = [], CheckpointSchedule(every)
    for _ in range(1000):
        clock.now += 1.0
        if schedule.is_due:
            began = clock.now
            saved.append(began)
            clock.now += cost
            schedule.note_saving(began)
    gaps = np.diff(saved)
    assert len(gaps) > 5
    assert (gaps >= interval).all()
    assert (gaps <= interval + cost + 1.001).all()


@pytest.mark.parametrize("is_wanted", [True, False])
def test_states_are_saved_when_asked_for_and_at_a_chunk_s_end(tmp_path, monkeypatch, is_wanted):
    saved = []
    save = ChunkFile.save

    def note(file, state):
        saved.append(state.next_step)
        save(file, state)

    monkeypatch.setattr(ChunkFile, "save", note)
    stored = training(
        tmp_path, small(), checkpoint_every=1e9, wanted=lambda: is_wanted and not saved
    )
    for _ in stored.train():
        assert saved or not is_wanted  # what is wanted has been saved by then
    ends = [step for step in saved if step == STEPS + 1]
    assert len(ends) == stored.num_chunks
    assert (len(saved) > len(ends)) == is_wanted
