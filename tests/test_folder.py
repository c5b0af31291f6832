"""A run's folder: what may go on, what is set aside, who may come in."""

import dataclasses
import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from test_statistics import general

from implicit_accel import DataError, UserError, load_run
from implicit_accel.engine.chunks import Chunk, chunks_of
from implicit_accel.experiment import Experiment, Identity, Round, chosen_runs
from implicit_accel.linear import Problem, SweepConfig, run_sweep
from implicit_accel.results import FORMAT
from implicit_accel.store.folder import ForeignFolderError, Manifest, RunFolder

AXES = {"learning_rate": (0.1, 0.2), "seed": (0, 1)}
ROUND = Round(AXES, 10)
CHUNK_FILE = "0-0-0.000001.npz"


def identity(*, num_steps: Any = 10, axes: Any = None, **changes: Any) -> Identity:
    settings = {"bias": False, "programs": {"a": 1}, "record": ["sharpness"]} | changes
    return Identity(settings, AXES | (axes or {}), num_steps, "f" * 64)


DERIVED = (
    "summary.csv", "prediction.csv", "report.html", "figures/excess_loss.png",
    "figures/sharpness.pdf",
)  # fmt: skip

# What a user may have put beside a run's figures.
MINE = ("figures/excess_loss_annotated.png", "figures/notes.txt")


def write_mine(path):
    for name in MINE:
        (path / name).write_text("mine")


def write_run(path, who, *, finished=True, begun=True):
    """What a run leaves, with its name in every file."""
    path.mkdir(exist_ok=True)
    folder = RunFolder(path)
    if begun:
        folder.checkpoints.mkdir()
        folder.save_manifest(Manifest(who, (ROUND,), ((2,),), "a machine"))
        (folder.checkpoints / CHUNK_FILE).write_text(who.code())
    if finished:
        (path / "figures").mkdir()
        for name in ("results.nc", *DERIVED):
            (path / name).write_text(who.code())
        config = {"format": FORMAT, "identity": who.as_json()}
        (path / "config.json").write_text(json.dumps(config))
    return folder


def contents(path):
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in path.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def test_more_of_the_same_is_no_difference():
    old = identity()
    for more in (
        {"num_steps": 11},
        {"axes": {"seed": (2, 1, 0)}},
        {"axes": {"learning_rate": (0.3, 0.2, 0.1)}},
        {"programs": {"a": 1, "b": 2}},
    ):
        assert old.differences(identity(**more)) == []
        assert len(old.differences(identity(**more), may_extend=False)) == 1
    for other, words in (
        ({"num_steps": 9}, "num_steps: 10 there, 9 here"),
        ({"axes": {"seed": (1,)}}, "seed: 0,1 there, 1 here"),
        (
            {"axes": {"learning_rate": (0.1, 0.3)}},
            "learning_rate: 0.1,0.2 there, 0.1,0.3 here",
        ),
        ({"axes": {"std": (1.0,)}}, "std:  there, 1.0 here"),
        ({"bias": True}, "bias: False there, True here"),
        ({"decay": 1}, "decay: None there, 1 here"),
        ({"programs": {"a": 2}}, "programs: {'a': 1} there, {'a': 2} here"),
    ):
        assert old.differences(identity(**other)) == [words]
    assert "data" in old.differences(dataclasses.replace(old, fingerprint="e" * 64))[0]


# --- rounds, against sets of runs ----------------------------------------------------------------


def set_of(axes, chosen):
    """The chosen runs of a grid, each as its values."""
    runs = itertools.product(*axes.values())
    return {run for run, is_one in zip(runs, np.ravel(chosen), strict=True) if is_one}


def trained(added: Round):
    """The runs of a round."""
    every = list(itertools.product(*added.axes.values()))
    return set(every) if added.runs is None else {every[i] for i in added.runs}


@st.composite
def grids(draw):
    """Axes of numbers and words, in any order, and some of their runs."""
    values = [(1, 2, 3), (0.5, 1.5, 2.5), ("x", "y")]
    axes = {
        name: tuple(draw(st.lists(st.sampled_from(own), min_size=1, unique=True)))
        for name, own in zip(("a", "b", "c"), values, strict=True)
    }
    shape = [len(own) for own in axes.values()]
    size = int(np.prod(shape))
    chosen = draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(any))
    return axes, np.array(chosen).reshape(shape)


@given(grid=grids(), other=grids())
def test_the_smallest_round_covers_what_was_chosen_and_nothing_else(grid, other):
    axes, chosen = grid
    added = Round.smallest(axes, chosen, 7)
    assert trained(added) == set_of(axes, chosen)
    np.testing.assert_array_equal(added.covers(axes), chosen)
    for k, (name, own) in enumerate(added.axes.items()):
        # No value is without a run, and they are in the grid's order.
        assert {run[k] for run in trained(added)} == set(own)
        assert list(own) == [v for v in axes[name] if v in own]
    assert (added.runs is None) == (
        len(trained(added)) == np.prod([*map(len, added.axes.values())])
    )
    # In another grid, with fewer values, more, or the same in another order.
    elsewhere, _ = other
    everything = np.ones([len(own) for own in elsewhere.values()], bool)
    common = set_of(elsewhere, everything) & trained(added)
    assert set_of(elsewhere, added.covers(elsewhere)) == common
    stored = json.loads(json.dumps(added.as_json()))
    assert Round.of(stored, axes) == added


class Grid(Experiment):
    """An experiment that is nothing but a grid."""

    precision = "float32"

    def __init__(self, axes, num_steps, rates=None):
        self._axes, self.num_steps, self.rates = axes, num_steps, rates

    @property
    def axes(self):
        return self._axes

    @property
    def wanted(self):
        if self.rates is None:
            chosen = np.ones([len(own) for own in self.axes.values()], bool)
        else:
            chosen = chosen_runs(self.axes, self.rates)
        return set_of(self.axes, chosen)

    @property
    def identity(self):
        raise NotImplementedError

    @property
    def recording(self):
        raise NotImplementedError

    def plan(self, axes, *, platform, planned_steps):
        raise NotImplementedError

    def label(self, arrays):
        raise NotImplementedError


def assert_added(rounds, before, grid):
    """Whether what rounds a grid has after some others is what it lacks."""
    assert rounds[: len(before)] == before
    old = set().union(*map(trained, before))
    new = [trained(added) for added in rounds[len(before) :]]
    assert new == [grid.wanted - old] or (not new and grid.wanted <= old)
    assert all(added.planned_steps == grid.num_steps for added in rounds[len(before) :])
    assert grid.rounds_after(rounds) == rounds


@given(
    calls=st.lists(
        st.tuples(*[st.sets(st.integers(1, 9), max_size=3)] * 3, st.randoms()),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_rounds_cover_every_run_once_however_the_grid_has_grown(calls):
    values, rounds = [{5}, {0}, {3}], ()
    for steps, (*new, order) in enumerate(calls, 10):
        values = [own | more for own, more in zip(values, new, strict=True)]
        axes = {
            name: tuple(order.sample(sorted(own), len(own)))
            for name, own in zip("abc", values, strict=True)
        }
        grid, before = Grid(axes, steps), rounds
        rounds = grid.rounds_after(before)
        assert_added(rounds, before, grid)
        assert sum(len(trained(added)) for added in rounds) == len(grid.wanted)


@given(
    calls=st.lists(
        st.tuples(*[st.sets(st.integers(1, 6), min_size=1)] * 2, st.integers(0, 2)),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_rounds_cover_rates_of_models_own(calls):
    """As a search adds rates to models, and a longer call seeds."""
    own, seeds, rounds = [set(), set()], 1, ()
    for *more, new_seeds in calls:
        own = [a | {0.5 * rate for rate in b} for a, b in zip(own, more, strict=True)]
        seeds += new_seeds
        axes = {
            "learning_rate": tuple(sorted(own[0] | own[1])), "model": ("m", "n"),
            "seed": tuple(range(seeds)),
        }  # fmt: skip
        grid, before = Grid(axes, 10, tuple(tuple(sorted(rates)) for rates in own)), rounds
        expected = {
            (rate, model, seed)
            for model, rates in zip("mn", own, strict=True)
            for rate in rates
            for seed in range(seeds)
        }
        assert grid.wanted == expected
        rounds = grid.rounds_after(before)
        assert_added(rounds, before, grid)


# --- folders -------------------------------------------------------------------------------------


def test_what_is_stored_is_read_back(tmp_path):
    folder = write_run(tmp_path / "run", identity())
    assert folder.finished() == folder.stored() == identity()
    manifest = folder.manifest()
    assert manifest is not None
    assert manifest == Manifest(identity(), (ROUND,), ((2,),), "a machine")
    for damaged in ("", "{", "[]", "null", '{"format": 1}', "[" * 100_000, '{"identity": 3}'):
        (folder.path / "config.json").write_text(damaged)
        (folder.checkpoints / "manifest.json").write_text(damaged)
        assert folder.finished() is None
        assert folder.manifest() is None


def test_folders_that_are_no_runs_are_never_touched(tmp_path):
    path = tmp_path / "thesis"
    path.mkdir()
    (path / "figures").mkdir()
    (path / "figures" / "mine.png").write_text("precious")
    (path / "results.nc").write_text("precious")
    before = contents(path)
    for overwrite in (False, True):
        with pytest.raises(ForeignFolderError, match="choose an empty folder"):
            RunFolder(path).check(identity(), overwrite=overwrite)
        with pytest.raises(ForeignFolderError):
            RunFolder(path).prepare(identity(), overwrite=overwrite)
    assert contents(path) == before


def test_a_user_s_own_checkpoints_are_never_touched(tmp_path):
    path = tmp_path / "mine"
    (path / "checkpoints").mkdir(parents=True)
    (path / "checkpoints" / "best.npz").write_text("precious")
    before = contents(path)
    for overwrite in (False, True):
        with pytest.raises(ForeignFolderError, match=r"not a run's \(best\.npz\)"):
            RunFolder(path).prepare(identity(), overwrite=overwrite)
    assert contents(path) == before
    # Beside those of a run: the run goes on, and is not replaced.
    folder = write_run(tmp_path / "run", identity())
    (folder.checkpoints / "best.npz").write_text("precious")
    (folder.checkpoints / "0-0-0.000001.npz.bak").write_text("precious")
    (folder.checkpoints / "1-0-0.000001.npz").mkdir()
    before = contents(folder.path)
    with pytest.raises(
        ForeignFolderError, match=r"\(0-0-0.000001.npz.bak, 1-.*, best\.npz\): move"
    ):
        folder.prepare(identity(bias=True), overwrite=True)
    folder.prepare(identity(num_steps=20), overwrite=False)
    assert contents(folder.path) == before


def test_a_user_s_own_files_are_not_replaced(tmp_path):
    folder = write_run(tmp_path / "run", identity(), finished=False)
    own = [folder.path / name for name in ("summary.csv", "figures/speed_up.png")]
    own[1].parent.mkdir()
    for path in own:
        path.write_text("mine")
    with pytest.raises(UserError, match=r"not the run's.*\(summary\.csv, figures/speed_up\.png\)"):
        folder.announce([*own, folder.path / "report.html"])
    assert folder.listed() == ()
    folder.keep(())
    assert [path.read_text() for path in own] == ["mine", "mine"]
    # What a call that was killed has announced is its own.
    folder.announce([folder.path / "report.html"])
    (folder.path / "report.html").write_text("half")
    folder.announce([folder.path / "report.html"])
    folder.keep(())
    assert not (folder.path / "report.html").exists()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_where_files_cannot_be_locked_the_file_is_the_lock(tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = RunFolder(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    lock = tmp_path / ".lock"
    # Left by a process on another system, where locks end with their owners.
    lock.touch()
    words = f"if none is, on no computer, remove {lock}"
    with pytest.raises(UserError, match=words), folder.locked():
        pass
    os.utime(lock, (0, 0))
    for _ in range(2):
        with folder.locked():
            assert lock.read_text()
            with pytest.raises(UserError, match="another process is at work"), folder.locked():
                pass
        assert not lock.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_with_other_settings_is_named_and_left(tmp_path):
    folder = write_run(tmp_path / "run", identity())
    before = contents(folder.path)
    with pytest.raises(UserError, match=r"bias: False there, True here.*overwrite"):
        folder.prepare(identity(bias=True), overwrite=False)
    assert contents(folder.path) == before


def test_a_finished_run_without_checkpoints_cannot_go_on(tmp_path):
    folder = write_run(tmp_path / "run", identity(), begun=False)
    with pytest.raises(UserError, match="cannot go on"):
        folder.check(identity(num_steps=20), overwrite=False)


def test_a_replaced_run_is_kept_until_the_new_one_has_a_checkpoint(tmp_path):
    folder = write_run(tmp_path / "run", identity())
    (folder.path / "notes.txt").write_text("mine")
    write_mine(folder.path)
    before = contents(folder.path)
    new = identity(bias=True)
    for _ in range(3):  # several processes look after the folder in turn
        folder.prepare(new, overwrite=True)
        assert folder.stored() is None
        assert {p.name for p in (folder.path / "figures").iterdir()} == {Path(m).name for m in MINE}
        kept = {k.removeprefix(".replaced/"): v for k, v in contents(folder.path).items()}
        assert kept == before
        folder.checkpoints.mkdir(exist_ok=True)
    # The new run was killed before its first checkpoint: the old one is put back.
    folder.prepare(identity(), overwrite=False)
    assert contents(folder.path) == before
    folder.prepare(new, overwrite=True)
    folder.checkpoints.mkdir()
    folder.save_manifest(Manifest(new, (ROUND,), ((2,),), "a machine"))
    (folder.checkpoints / CHUNK_FILE).write_text("new")
    folder.prepare(new, overwrite=True)
    assert folder.stored() == new
    assert set(contents(folder.path)) == {
        "notes.txt", *MINE, f"checkpoints/{CHUNK_FILE}", "checkpoints/manifest.json"
    }  # fmt: skip


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(("aside", "back"), [*itertools.product(range(9), (0, 1, 2, 4, 7))])
def test_a_move_broken_off_anywhere_loses_nothing(tmp_path, monkeypatch, aside, back, begun):
    """Killed after so many renamings of setting aside, and after so many of putting back."""
    folder = write_run(tmp_path / "run", identity(), begun=begun)
    write_mine(folder.path)
    before = contents(folder.path)
    replace, new = type(folder.path).replace, identity(bias=True)

    def limited(count):
        left = [count]

        def move(path, target):
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            return replace(path, target)

        return move

    for wanted, overwrite, moves in ((new, True, aside), (identity(), False, back)):
        with monkeypatch.context() as patch:
            patch.setattr(type(folder.path), "replace", limited(moves))
            try:
                folder.prepare(wanted, overwrite=overwrite)
            except KilledError:
                pass
            except UserError:
                assert not begun
                assert not overwrite
        together = {k.removeprefix(".replaced/"): v for k, v in contents(folder.path).items()}
        assert together == before
    if begun:
        folder.prepare(identity(), overwrite=False)
        assert contents(folder.path) == before


def test_names_of_figures_lead_out_of_no_folder(tmp_path):
    """Names of what was recorded come from a file that anybody may have edited."""
    outside = tmp_path / "precious.png"
    outside.write_text("precious")
    names = ["../../precious", str(outside.with_suffix("")), "", ".", "..", "\0", "x" * 5000]
    folder = write_run(tmp_path / "run", identity(record=names))
    (folder.path / "figures" / "folder.png").mkdir()
    folder.prepare(identity(bias=True), overwrite=True)
    assert outside.read_text() == "precious"
    assert (folder.path / "figures" / "folder.png").is_dir()
    assert not (folder.path / "figures" / "excess_loss.png").exists()


def test_what_was_made_of_other_results_is_removed(tmp_path):
    folder = write_run(tmp_path / "run", identity())
    write_mine(folder.path)
    results = general({"width": (1, 2), "seed": (0, 1)}, observed=True)
    made = [folder.path / "summary.csv", folder.path / "figures" / "sharpness.pdf"]
    folder.finish(results, {}, identity(num_steps=20), made=made)
    there = set(contents(folder.path))
    assert there & {*DERIVED} == {"summary.csv", "figures/sharpness.pdf"}
    assert there >= {*MINE, "results.nc", "config.json"}
    # The same results once more: what was made of them stays.
    folder.announce([folder.path / "prediction.csv"])
    (folder.path / "prediction.csv").write_text("of these results")
    (folder.path / "report.html").write_text("mine, since it is not listed")
    folder.finish(results, {}, identity(num_steps=20))
    there |= {"prediction.csv", "report.html"}
    assert set(contents(folder.path)) == there
    # A call that was broken off has left no config.json: nothing is known of what is there.
    (folder.path / "config.json").unlink()
    folder.finish(results, {}, identity(num_steps=20))
    removed = {"summary.csv", "figures/sharpness.pdf", "prediction.csv"}
    assert set(contents(folder.path)) == there - removed


def test_results_of_another_run_are_refused(tmp_path):
    runs = {name: general({"width": (1, 2)}, seed=seed) for seed, name in enumerate("ab")}
    for name, results in runs.items():
        (tmp_path / name).mkdir()
        RunFolder(tmp_path / name).finish(results, {}, identity())
        xr.testing.assert_identical(load_run(tmp_path / name), results)
    own = (tmp_path / "a" / "results.nc").read_bytes()
    shutil.copy(tmp_path / "b" / "results.nc", tmp_path / "a" / "results.nc")
    for path in (tmp_path / "a", tmp_path / "a" / "results.nc"):
        with pytest.raises(DataError, match=r"not the results of the run.*--overwrite") as raised:
            load_run(path)
        assert "\n" not in str(raised.value)
    # Alone, under another name, or beside files that record nothing, it is read as ever.
    shutil.copy(tmp_path / "b" / "results.nc", tmp_path / "results.nc")
    shutil.copy(tmp_path / "b" / "results.nc", tmp_path / "a" / "other.nc")
    for path in (tmp_path / "results.nc", tmp_path / "a" / "other.nc"):
        xr.testing.assert_identical(load_run(path), runs["b"])
    config = tmp_path / "a" / "config.json"
    stored = json.loads(config.read_text())
    older = {key: value for key, value in stored.items() if key != "results_sha256"}
    unreadable = ("{", "[]", "3", json.dumps(stored | {"results_sha256": 3}))
    for text in (json.dumps(older), json.dumps(stored | {"format": "another"}), *unreadable):
        config.write_text(text)
        xr.testing.assert_identical(load_run(tmp_path / "a"), runs["b"])
    # What is recorded is the SHA-256 of the bytes before the seal.
    assert stored["results_sha256"] == hashlib.sha256(own[: own.rindex(b"\nsha256:")]).hexdigest()


def test_results_that_are_no_more_are_made_from_the_checkpoints(tmp_path):
    """By the library as by the program: the same call again."""
    rng = np.random.default_rng(0)
    problem = Problem.from_arrays(rng.standard_normal((9, 2)), rng.standard_normal((9, 1)))
    configs = {
        name: SweepConfig(depths=(1,), learning_rates=(rate,), num_seeds=1, num_steps=5)
        for name, rate in (("a", 0.1), ("b", 0.2))
    }
    for name, config in configs.items():
        run_sweep(problem, config, folder=tmp_path / name)
    path = tmp_path / "a" / "results.nc"
    own, other = path.read_bytes(), (tmp_path / "b" / "results.nc").read_bytes()
    for wrong in (other, own[:-1]):
        path.write_bytes(wrong)
        results = run_sweep(problem, configs["a"], folder=tmp_path / "a")
        assert results["learning_rate"].values.tolist() == [0.1]
        assert path.read_bytes() == own
    path.write_bytes(other)
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    with pytest.raises(DataError, match="not the results of the run"):
        run_sweep(problem, configs["a"], folder=tmp_path / "a")


def test_a_run_extended_by_the_library_keeps_no_table_of_the_shorter_one(tmp_path):
    rng = np.random.default_rng(0)
    problem = Problem.from_arrays(rng.standard_normal((9, 2)), rng.standard_normal((9, 1)))
    config = SweepConfig(depths=(1,), learning_rates=(0.1,), num_seeds=1, num_steps=5)
    run_sweep(problem, config, folder=tmp_path)
    made = [tmp_path / name for name in ("summary.csv", "report.html")]
    RunFolder(tmp_path).announce(made)
    for path in made:
        path.write_text("of 5 steps")
    run_sweep(problem, config, folder=tmp_path)
    assert (tmp_path / "summary.csv").exists()
    run_sweep(problem, dataclasses.replace(config, num_steps=9), folder=tmp_path)
    there = {p.name for p in tmp_path.iterdir() if p.name[0] != "."}
    assert there == {"checkpoints", "config.json", "results.nc"}


def test_an_unfinished_run_goes_on_even_with_overwrite(tmp_path):
    folder = write_run(tmp_path / "run", identity(), finished=False)
    before = contents(folder.path)
    folder.prepare(identity(), overwrite=True)
    assert contents(folder.path) == before


def test_what_killed_writers_left_is_removed(tmp_path):
    folder = write_run(tmp_path / "run", identity())
    before = contents(folder.path)
    for place in ("", "checkpoints", "figures"):
        (folder.path / place / ".partial-0-0-0-abcd_123.npz").write_text("half")
    folder.prepare(identity(num_steps=20), overwrite=False)
    assert contents(folder.path) == before


HOLD = """
import sys
from typing import Any
from pathlib import Path
from implicit_accel.store.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_keeps_others_out_and_ends_with_its_owner(tmp_path):
    folder = RunFolder(tmp_path)
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is at work"), folder.locked():
            pass
        owner.kill()
        owner.wait()
    with folder.locked():
        pass
    with folder.locked():
        pass


def test_chunks_of_rounds_are_stored_apart(tmp_path):
    folder = RunFolder(tmp_path)
    later = Round(AXES | {"seed": (0,)}, 10, (1,))
    manifest = Manifest(identity(), (ROUND, later), ((3, 1), (2,)), "")
    found = [
        folder.chunk_file(manifest, number, chunk)
        for number, counts in enumerate(manifest.counts)
        for chunk in chunks_of(counts)
    ]
    assert len({file.name for file in found}) == len({file.identity for file in found}) == 6
    assert {file.folder for file in found} == {folder.checkpoints}
    first = folder.chunk_file(manifest, 0, Chunk(0, 0, 3))
    # What a run may be given more of is another's neither.
    for other in (
        identity(num_steps=20), identity(axes={"seed": (0, 1, 2)}), identity(programs={"b": 2}),
    ):  # fmt: skip
        extended = dataclasses.replace(manifest, identity=other)
        assert folder.chunk_file(extended, 0, Chunk(0, 0, 3)) == first
    others = [
        dataclasses.replace(manifest, identity=identity(bias=True)),
        dataclasses.replace(
            manifest, identity=dataclasses.replace(identity(), fingerprint="e" * 64)
        ),
        dataclasses.replace(manifest, rounds=(dataclasses.replace(ROUND, planned_steps=9), later)),
    ]
    for other in others:
        assert folder.chunk_file(other, 0, Chunk(0, 0, 3)).identity != first.identity
    assert folder.chunk_file(manifest, 0, Chunk(0, 0, 2)).identity != first.identity


def test_rounds_of_a_search_list_the_rates_that_they_added():
    axes = {"model": ("m", "n"), "learning_rate": (0.1, 0.2, 0.4), "seed": (0, 1)}
    first = Round({**axes, "learning_rate": (0.1, 0.2), "seed": (0,)}, 10, (0, 1, 3))
    second = Round({**axes, "learning_rate": (0.4,), "model": ("n",), "seed": (0,)}, 10)
    more_seeds = Round({**axes, "seed": (1,)}, 10, (0, 1, 4, 5))
    manifest = Manifest(
        Identity({}, axes, 10, "", ((0.1, 0.2), (0.2, 0.4))), (first, second, more_seeds),
        ((1,), (1,), (1,)), "",
    )  # fmt: skip
    assert manifest.rates_by_round() == (((0.1, 0.2), (0.2,)), ((), (0.4,)))


FORGED_ROUNDS = [
    {"planned_steps": 0},
    {"planned_steps": True},
    {"planned_steps": 10**30},
    {"planned_steps": "10"},
    {"axes": {}},
    {"axes": {"seed": [0], "learning_rate": [0.1]}},
    {"axes": {"learning_rate": [0.1, 0.1], "seed": [0]}},
    {"axes": {"learning_rate": [7.0], "seed": [0]}},
    {"axes": {"learning_rate": [[0.1]], "seed": [0]}},
    {"axes": {"learning_rate": [], "seed": [0]}},
    {"axes": 3},
    {"runs": []},
    {"runs": 3},
    {"runs": "01"},
    {"runs": [True]},
    {"runs": [1.0]},
    {"runs": [1, 0]},
    {"runs": [1, 1]},
    {"runs": [-1]},
    {"runs": [4]},
    {"runs": [10**30]},
]
FORGED = [
    {"layout": 1},
    {"layout": None},
    {"rounds": []},
    {"rounds": {}},
    {"rounds": 3},
    {"counts": []},
    {"counts": [[]]},
    {"counts": [[0]]},
    {"counts": [[True]]},
    {"counts": [[1.0]]},
    {"counts": [["1"]]},
    {"counts": [[10**9]]},
    {"counts": [[1], [1]]},
    {"counts": [3]},
    {"counts": None},
    {"format": "another"},
]


@pytest.mark.parametrize("forged", [*FORGED_ROUNDS, *FORGED], ids=str)
def test_a_forged_manifest_is_none(tmp_path, forged):
    folder = write_run(tmp_path / "run", identity())
    path = folder.checkpoints / "manifest.json"
    stored = json.loads(path.read_text())
    assert folder.manifest() is not None
    if forged in FORGED:
        stored |= forged
    else:
        stored["rounds"][0] |= forged
    path.write_text(json.dumps(stored))
    assert folder.manifest() is None


def small_problem():
    rng = np.random.default_rng(0)
    return Problem.from_arrays(rng.standard_normal((9, 2)), rng.standard_normal((9, 1)))


CONFIG = SweepConfig(depths=(1,), learning_rates=(0.1,), num_seeds=2, num_steps=5)


@pytest.mark.parametrize("counts", [[[1]], [[1, 3]]])
def test_chunks_that_are_not_the_run_s_are_refused(tmp_path, counts):
    """Of other groups, or more than there are runs in a group."""
    run_sweep(small_problem(), CONFIG, folder=tmp_path)
    path = tmp_path / "checkpoints" / "manifest.json"
    stored = json.loads(path.read_text())
    assert [len(each) for each in stored["counts"]] == [2]
    path.write_text(json.dumps(stored | {"counts": counts}))
    with pytest.raises(UserError, match=r"manifest\.json does not fit this run") as raised:
        run_sweep(small_problem(), dataclasses.replace(CONFIG, num_steps=9), folder=tmp_path)
    assert "\n" not in str(raised.value)


def make_old(path: Path) -> None:
    """Turns a run's checkpoints into those of the version before chunks."""
    shutil.rmtree(path / "checkpoints")
    (path / "checkpoints").mkdir()
    identity = json.loads((path / "config.json").read_text())["identity"]
    axes = identity["axes"]
    manifest = {
        "format": FORMAT, "identity": identity, "environment": "a machine",
        "parts": [{"axes": axes, "planned_steps": 5, "num_shares": 1, "runs": None}],
    }  # fmt: skip
    (path / "checkpoints" / "manifest.json").write_text(json.dumps(manifest))
    (path / "checkpoints" / "part0-0of1.000001.npz").write_bytes(b"old")


def test_checkpoints_of_the_version_before_chunks(tmp_path):
    """A finished run is returned; what cannot go on is refused in one line, or replaced."""
    first = run_sweep(small_problem(), CONFIG, folder=tmp_path)
    make_old(tmp_path)
    before = contents(tmp_path)
    again = run_sweep(small_problem(), CONFIG, folder=tmp_path)
    assert again.identical(first)
    longer = dataclasses.replace(CONFIG, num_steps=9)
    with pytest.raises(UserError, match="checkpoints/ are an earlier version's") as raised:
        run_sweep(small_problem(), longer, folder=tmp_path)
    assert "\n" not in str(raised.value)
    assert contents(tmp_path) == before
    # Of a run that was broken off there is nothing but the checkpoints.
    for name in ("config.json", "results.nc"):
        (tmp_path / name).unlink()
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"an earlier version.*overwrite") as raised:
        run_sweep(small_problem(), CONFIG, folder=tmp_path)
    assert "\n" not in str(raised.value)
    assert contents(tmp_path) == before
    replaced = run_sweep(small_problem(), longer, folder=tmp_path, overwrite=True)
    assert replaced.sizes["step"] == 10
    assert not list((tmp_path / "checkpoints").glob("part*"))
    assert not (tmp_path / ".replaced").exists()
