"""A run's folder: what may go on, what is set aside, who may come in."""

import dataclasses
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from implicit_accel import SweepConfig, UserError
from implicit_accel.results import FORMAT
from implicit_accel.store.folder import ForeignFolderError, Identity, Manifest, Part, RunFolder

SETTINGS = {"learning_rates": [0.1, 0.2], "num_seeds": 2, "num_steps": 10, "depths": [1, 2]}


def identity(**changes) -> Identity:
    return Identity(SETTINGS | changes, "f" * 64)


def write_run(path, who, *, finished=True, begun=True):
    """What a run leaves, with its name in every file."""
    path.mkdir(exist_ok=True)
    folder = RunFolder(path)
    if begun:
        folder.checkpoints.mkdir()
        part = Part((0.1, 0.2), 0, 2, 10, 1)
        folder.save_manifest(Manifest(who, (part,), "a machine"))
        (folder.checkpoints / "part0-0of1.000001.npz").write_text(who.code())
    if finished:
        (path / "results.nc").write_text(who.code())
        (path / "summary.csv").write_text(who.code())
        (path / "figures").mkdir()
        (path / "figures" / "a.png").write_text(who.code())
        config = {"format": FORMAT, "identity": dataclasses.asdict(who)}
        (path / "config.json").write_text(json.dumps(config))
    return folder


def contents(path):
    return {
        str(p.relative_to(path)): p.read_text()
        for p in path.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def test_more_of_the_same_is_no_difference():
    old = identity()
    for more in ({"num_steps": 11}, {"num_seeds": 5}, {"learning_rates": [0.3, 0.2, 0.1]}):
        assert old.differences(identity(**more)) == []
        assert len(old.differences(identity(**more), may_extend=False)) == 1
    for other, words in (
        ({"num_steps": 9}, "num_steps: 10 there, 9 asked for"),
        ({"num_seeds": 1}, "num_seeds: 2 there, 1 asked for"),
        ({"learning_rates": [0.1, 0.3]}, "learning_rates: 0.1,0.2 there, 0.1,0.3 asked for"),
        ({"depths": [1, 2, 3]}, "depths: 1,2 there, 1,2,3 asked for"),
        ({"bias": True}, "bias: None there, True asked for"),
    ):
        assert old.differences(identity(**other)) == [words]
    assert "data" in old.differences(Identity(SETTINGS, "e" * 64))[0]


@given(
    steps=st.lists(
        st.tuples(st.sets(st.integers(1, 9), max_size=3), st.integers(0, 3)),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_parts_cover_every_run_once_however_the_grid_has_grown(steps):
    rates, seeds, manifest = {5}, 1, None
    for new_rates, new_seeds in steps:
        rates, seeds = rates | new_rates, seeds + new_seeds
        whole = SweepConfig(
            learning_rates=tuple(map(float, sorted(rates))), num_seeds=seeds, num_steps=10
        )
        if manifest is None:
            manifest = Manifest.begin(identity(), whole, 1, "")
        else:
            manifest = manifest.extended(identity(), whole, 1)
        trained = [
            (rate, seed)
            for part in manifest.parts
            for rate in part.config(whole).learning_rates
            for seed in part.config(whole).seeds
        ]
        assert sorted(trained) == sorted((r, s) for r in whole.learning_rates for s in whole.seeds)
        assert manifest.extended(identity(), whole, 1) == manifest


def test_what_is_stored_is_read_back(tmp_path):
    folder = write_run(tmp_path / "run", identity())
    assert folder.finished() == folder.stored() == identity()
    manifest = folder.manifest()
    assert manifest is not None
    assert manifest.parts == (Part((0.1, 0.2), 0, 2, 10, 1),)
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
            RunFolder(path).settle(identity(), overwrite=overwrite)
    assert contents(path) == before


def test_a_run_with_other_settings_is_named_and_left(tmp_path):
    folder = write_run(tmp_path / "run", identity())
    before = contents(folder.path)
    with pytest.raises(UserError, match=r"depths: 1,2 there, 3 asked for.*--overwrite"):
        folder.settle(identity(depths=[3]), overwrite=False)
    assert contents(folder.path) == before


def test_a_finished_run_without_checkpoints_cannot_go_on(tmp_path):
    folder = write_run(tmp_path / "run", identity(), begun=False)
    with pytest.raises(UserError, match="cannot go on"):
        folder.check(identity(num_steps=20), overwrite=False)


def test_a_replaced_run_is_kept_until_the_new_one_has_a_checkpoint(tmp_path):
    folder = write_run(tmp_path / "run", identity())
    (folder.path / "notes.txt").write_text("mine")
    before = contents(folder.path)
    new = identity(depths=[3])
    for _ in range(3):  # several processes look after the folder in turn
        folder.settle(new, overwrite=True)
        assert folder.stored() is None
        kept = {k.removeprefix("replaced/"): v for k, v in contents(folder.path).items()}
        assert kept == before
        folder.checkpoints.mkdir(exist_ok=True)
    # The new run was killed before its first checkpoint: the old one is put back.
    folder.settle(identity(), overwrite=False)
    assert contents(folder.path) == before
    folder.settle(new, overwrite=True)
    folder.checkpoints.mkdir()
    folder.save_manifest(Manifest(new, (Part((0.1, 0.2), 0, 2, 10, 1),), "a machine"))
    (folder.checkpoints / "part0-0of1.000001.npz").write_text("new")
    folder.settle(new, overwrite=True)
    assert folder.stored() == new
    assert set(contents(folder.path)) == {
        "notes.txt", "checkpoints/part0-0of1.000001.npz", "checkpoints/manifest.json"
    }  # fmt: skip


class KilledError(BaseException):
    pass


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(("aside", "back"), [*itertools.product(range(6), (0, 1, 2, 4))])
def test_a_move_broken_off_anywhere_loses_nothing(tmp_path, monkeypatch, aside, back, begun):
    """Killed after so many renamings of setting aside, and after so many of putting back."""
    folder = write_run(tmp_path / "run", identity(), begun=begun)
    before = contents(folder.path)
    replace, new = type(folder.path).replace, identity(depths=[3])

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
                folder.settle(wanted, overwrite=overwrite)
            except KilledError:
                pass
            except UserError:
                assert not begun
                assert not overwrite
        together = {k.removeprefix("replaced/"): v for k, v in contents(folder.path).items()}
        assert together == before
    if begun:
        folder.settle(identity(), overwrite=False)
        assert contents(folder.path) == before


def test_an_unfinished_run_goes_on_even_with_overwrite(tmp_path):
    folder = write_run(tmp_path / "run", identity(), finished=False)
    before = contents(folder.path)
    folder.settle(identity(), overwrite=True)
    assert contents(folder.path) == before


def test_what_killed_writers_left_is_removed(tmp_path):
    folder = write_run(tmp_path / "run", identity())
    before = contents(folder.path)
    for place in ("", "checkpoints", "figures"):
        (folder.path / place / ".partial-part0-abc.npz").write_text("half")
    folder.settle(identity(num_steps=20), overwrite=False)
    assert contents(folder.path) == before


HOLD = """
import sys
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


def test_a_manifest_names_units_for_every_process():
    whole = SweepConfig(learning_rates=(0.1,), num_seeds=2, num_steps=10)
    manifest = Manifest.begin(identity(), whole, 3, "")
    more = dataclasses.replace(whole, learning_rates=(0.1, 0.2), num_seeds=4)
    units = manifest.extended(identity(), more, 2).units()
    assert [(part, share.index, share.count) for part, share in units] == [
        (0, 0, 3), (0, 1, 3), (0, 2, 3), (1, 0, 2), (1, 1, 2), (2, 0, 2), (2, 1, 2)
    ]  # fmt: skip
    assert np.unique([str(u) for u in units]).size == len(units)
