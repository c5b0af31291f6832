"""Going on from snapshots: to the bit, from any segment, whatever happened to the files."""

import dataclasses
import errno
import random
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import random_problem

from implicit_accel import Loss, Optimizer, SweepConfig, files
from implicit_accel.engine.layout import WHOLE
from implicit_accel.engine.train import Segment, Training
from implicit_accel.experiment import assemble
from implicit_accel.linear.sweep import LinearSweep
from implicit_accel.store.checkpoints import Checkpoints, Keeper


class BrokenOffError(Exception):
    pass


def config(**changes) -> SweepConfig:
    values = {
        "depths": (1, 3), "hidden_widths": (2,), "init_stds": (0.3,),
        "losses": (Loss(2), Loss(3)), "optimizers": (Optimizer("adam"),),
        "learning_rates": (0.003, 0.03, 60.0), "num_seeds": 3, "num_steps": 1000,
    }  # fmt: skip
    return SweepConfig(**(values | changes))


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(3)
    problem = random_problem(rng)
    shapes = ((5, problem.num_features), (5, problem.num_outputs))
    held_out = [rng.standard_normal(shape) for shape in shapes]
    return dataclasses.replace(problem, held_out_features=held_out[0], held_out_targets=held_out[1])


class Planned:
    """A sweep and its one part."""

    def __init__(self, problem, config, planned_steps=None):
        self.sweep = LinearSweep(problem, config)
        self.plan = self.sweep.plan(self.sweep.axes, planned_steps=planned_steps)
        self.groups = self.plan.groups
        self.precision = config.precision

    def train(self, **options) -> Training:
        return Training(
            self.groups, num_steps=self.sweep.num_steps, recording=self.sweep.recording,
            precision=self.precision, keep_states=True, **options,
        )  # fmt: skip

    def label(self, training):
        return self.sweep.label(assemble(self.sweep.axes, [(self.plan, training.results)]))

    def straight(self, **options):
        training = self.train(**options)
        training.run()
        return self.label(training)


@pytest.fixture(scope="module")
def undisturbed(problem):
    return Planned(problem, config()).straight()


def sizes(plan, share=WHOLE):
    return [len(share.members(group.num_runs)) for group in plan.groups]


def train_until(plan, checkpoints, segments, **options):
    """Trains from the newest snapshot on and breaks off after so many segments."""
    resume = checkpoints.newest(plan.groups, sizes(plan), plan.precision)
    training = plan.train(resume=resume, **options)
    for done, segment in enumerate(training.segments(), 1):
        if done == segments or segment.is_last:
            checkpoints.save(segment.snapshot())
        if done == segments and not segment.is_last:
            raise BrokenOffError
    return training


@settings(max_examples=4)
@given(pauses=st.lists(st.integers(1, 3), max_size=3), pieces=st.booleans())
def test_a_run_broken_off_anywhere_ends_the_same_to_the_bit(
    problem, undisturbed, tmp_path_factory, pauses, pieces
):
    plan = Planned(problem, config())
    checkpoints = Checkpoints(tmp_path_factory.mktemp("checkpoints"), "part", "mine")
    limits: dict[str, Any] = {"memory_limit": 60_000 if pieces else None}
    for segments in pauses:
        try:
            train_until(plan, checkpoints, segments, **limits)
        except BrokenOffError:
            continue
    trained = train_until(plan, checkpoints, -1, **limits)
    if pieces:  # another layout of the runs, which rounds differently
        undisturbed = plan.straight(**limits)
    assert plan.label(trained).identical(undisturbed)
    assert checkpoints.is_finished(plan.sweep.num_steps)
    assert len(checkpoints.paths()) <= 2


@pytest.mark.parametrize("num_devices", [1, 3])
def test_going_on_with_other_devices_or_more_steps(problem, tmp_path, num_devices):
    """Equal to rounding: the order of additions may differ, the runs do not."""
    checkpoints = Checkpoints(tmp_path, "part", "mine")
    few, devices = jax.local_devices()[:2], jax.local_devices()[:num_devices]
    short = Planned(problem, config(precision="float64"))
    with pytest.raises(BrokenOffError):
        train_until(short, checkpoints, 3, devices=few)
    train_until(short, checkpoints, -1, devices=devices)
    longer = config(precision="float64", num_steps=1700)
    plan = Planned(problem, longer, planned_steps=1000)
    extended = plan.label(train_until(plan, checkpoints, -1, devices=devices))
    straight = plan.straight(devices=few)
    np.testing.assert_array_equal(extended["divergence_step"], straight["divergence_step"])
    np.testing.assert_array_equal(extended["steps_to_target"], straight["steps_to_target"])
    np.testing.assert_allclose(
        extended["excess_loss"], straight["excess_loss"], rtol=1e-7, atol=1e-14
    )


def test_fewer_steps_than_were_made_are_refused(problem, tmp_path):
    checkpoints = Checkpoints(tmp_path, "part", "mine")
    train_until(Planned(problem, config()), checkpoints, -1)
    plan = Planned(problem, config(num_steps=900), planned_steps=1000)
    with pytest.raises(ValueError, match="1000 steps are done already"):
        train_until(plan, checkpoints, -1)


@pytest.fixture
def two_snapshots(problem, tmp_path):
    plan = Planned(problem, config(losses=(Loss(2),), depths=(2,)))
    checkpoints = Checkpoints(tmp_path / "checkpoints", "part", "mine")
    checkpoints.folder.mkdir()
    for _ in range(2):
        with pytest.raises(BrokenOffError):
            train_until(plan, checkpoints, 1)
    return plan, checkpoints


def next_step(plan, checkpoints):
    snapshot = checkpoints.newest(plan.groups, sizes(plan), plan.precision)
    return None if snapshot is None else snapshot.pieces[0].next_step


def test_damage_is_noticed_and_the_snapshot_before_used(two_snapshots):
    plan, checkpoints = two_snapshots
    newest, before = checkpoints.paths()
    last = next_step(plan, checkpoints)
    content = newest.read_bytes()
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
        newest.write_bytes(damaged)
        found.add(next_step(plan, checkpoints))
    (first,) = found
    assert 0 < first < last
    newest.write_bytes(b"")
    assert next_step(plan, checkpoints) == first
    before.write_bytes(b"PK" + bytes(300))
    assert next_step(plan, checkpoints) is None
    newest.write_bytes(content)
    assert next_step(plan, checkpoints) == last


def test_foreign_snapshots_are_passed_over(two_snapshots, problem):
    plan, checkpoints = two_snapshots
    other = dataclasses.replace(checkpoints, identity="theirs")
    assert next_step(plan, other) is None
    wider = Planned(problem, config(losses=(Loss(2),), depths=(2,), hidden_widths=(5,)))
    assert checkpoints.newest(wider.groups, sizes(wider), "float32") is None
    assert checkpoints.newest(plan.groups, sizes(plan), "float64") is None
    another_share = [size + 1 for size in sizes(plan)]
    assert checkpoints.newest(plan.groups, another_share, "float32") is None


@pytest.mark.parametrize("point", ["open", "write", "fsync", "rename"])
def test_a_failure_at_any_point_of_writing_leaves_the_last_snapshot(
    two_snapshots, monkeypatch, point
):
    plan, checkpoints = two_snapshots
    last, names = next_step(plan, checkpoints), set(checkpoints.folder.iterdir())

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {
        "open": (files.tempfile, "mkstemp"), "write": (np, "savez"),
        "fsync": (files.os, "fsync"), "rename": (files.Path, "replace"),
    }[point]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(*target, fail)
        with pytest.raises(OSError, match="No space left"):
            train_until(plan, checkpoints, 1)
    assert set(checkpoints.folder.iterdir()) == names
    assert next_step(plan, checkpoints) == last


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(("cost", "every", "interval"), [(0.1, 60, 60), (3, 60, 150), (3, 0, 0)])
def test_snapshots_are_due_by_time_and_cost_at_most_two_per_cent(
    monkeypatch, tmp_path, cost, every, interval
):
    clock = Clock()
    monkeypatch.setattr("implicit_accel.store.checkpoints.time.monotonic", clock)
    saved = []

    class Recorder(Checkpoints):
        def save(self, snapshot):  # noqa: ARG002
            saved.append(clock.now)
            clock.now += cost

    asked = []
    keeper = Keeper(Recorder(tmp_path, "part", "mine"), every, wanted=lambda: bool(asked))

    def segment(*, is_last: bool) -> Segment:
        return Segment(0, 1, is_last, lambda: None)  # pyright: ignore[reportArgumentType]

    for _ in range(1000):
        clock.now += 1.0
        keeper(segment(is_last=False))
    gaps = np.diff(saved)
    assert (gaps >= interval).all()
    assert (gaps <= interval + cost + 1.001).all()
    before = len(saved)
    keeper(segment(is_last=True))
    asked.append(True)
    keeper(segment(is_last=False))
    assert len(saved) == before + 2 == keeper.num_saved
