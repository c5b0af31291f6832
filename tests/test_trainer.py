"""What a chunk's results must not depend on, to the bit; and when programs are compiled."""

import copy
import dataclasses
import functools

import jax
import numpy as np
import pytest
from chunked import CASES, assert_same_bits, case
from compilations import count_compilations
from marks import param

from implicit_accel.engine.chunks import (
    GroupResult,
    Recording,
    chunks_of,
    gather,
    precision_context,
)
from implicit_accel.engine.train import Trainer, train
from implicit_accel.executors import Job
from implicit_accel.executors.local import LocalExecutor

KINDS = sorted(CASES)


@functools.cache
def together(kind, num_devices):
    """A trainer of all chunks of a case."""
    return case(kind).trainer(num_devices, [case(kind).chunks])


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_the_cases_are_packed_and_freed_at_different_times(kind):
    found, moved, freed, diverged = case(kind), set(), set(), set()
    before = {chunk: chunk.members(found.groups[chunk.group]) for chunk in found.chunks}
    for number, states in enumerate(found.segments):
        for chunk, state in states.items():
            size = chunk.size(found.groups[chunk.group].num_runs)
            assert len(state.members) > 1
            assert sorted(state.members[state.members >= 0]) == list(range(size))
            steps = state.result.divergence_step
            diverged |= {(number, s) for s in steps[steps >= 0] if s >= number}
            alive = np.append(steps < 0, False)[state.members]
            live_blocks = np.flatnonzero(alive.any(axis=1))
            # Live runs are in the first blocks, and in no more than they need.
            assert len(live_blocks) <= max(1, -(-np.count_nonzero(alive) // alive.shape[1]))
            if len(live_blocks) < len(alive):
                freed.add((chunk, len(live_blocks)))
            if state.members.tolist() != before[chunk].tolist():
                moved.add(number)
            before[chunk] = state.members
    assert len(found.segments) > 4
    assert moved
    assert len(freed) > 1
    assert len({step for _, step in diverged}) > 3
    assert all((state.result.divergence_step < 0).any() for state in found.last.values())


# XLA partitions what it compiles for several devices, and does not for one; it then fuses other
# operations of these programs, which rounds differently.
ROUND_OTHERWISE_ON_ONE_DEVICE = ("mini-batches", "dropout")


NUM_DEVICES = {"linear": (1, 2, 3, 4), "relu": (1, 3), "mini-batches": (1, 3, 4), "dropout": (1, 4)}
IN_EVERY_RUN = {("linear", 1), ("linear", 3), ("relu", 3), ("mini-batches", 1), ("dropout", 4)}


@pytest.mark.parametrize(
    ("kind", "num_devices"),
    [
        param(kind, n, nightly=(kind, n) not in IN_EVERY_RUN)
        for kind in KINDS
        for n in NUM_DEVICES[kind]
    ],
)
def test_a_chunk_has_the_same_bits_whatever_is_trained_beside_it(kind, num_devices):
    found = case(kind)
    segments = found.train(together(kind, num_devices), found.chunks)
    if num_devices == 1 and kind in ROUND_OTHERWISE_ON_ONE_DEVICE:
        trainer = found.trainer(1, [[chunk] for chunk in found.chunks])
        for chunk in found.chunks[::-1]:
            for states, alone in zip(segments, found.train(trainer, [chunk]), strict=True):
                assert_same_bits({chunk: states[chunk]}, alone)
        assert_close(segments[-1], found.last)
        return
    for states, alone in zip(segments, found.segments, strict=True):
        assert_same_bits(states, alone)


def assert_close(some, others):
    """Whether runs that do not diverge are equal to rounding."""
    for chunk, state in some.items():
        kept = state.result.divergence_step < 0
        for name, values in state.result.records.items():
            tolerance = 1e-3 if values.dtype == np.float32 else 1e-7
            expected = others[chunk].result.records[name]
            np.testing.assert_allclose(values[kept], expected[kept], rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_from_any_segment_it_goes_on_to_the_same_bits_on_other_devices(kind):
    found = case(kind)
    others = NUM_DEVICES[kind][kind in ROUND_OTHERWISE_ON_ONE_DEVICE :]
    for number, reached in enumerate(found.segments[:-1]):
        trainer = together(kind, others[number % len(others)])
        chunks = found.chunks[number % 2 :: 1 + number % 3][::-1]  # some of them, in another order
        kept = {chunk: reached[chunk] for chunk in chunks}
        for states, alone in zip(
            found.train(trainer, chunks, kept), found.segments[number + 1 :], strict=True
        ):
            assert_same_bits(states, {chunk: alone[chunk] for chunk in chunks})


def updates(kind, num_devices, memory_limit, chunks=None, reached=None):
    """The last states of what an executor trains, and the chunks of each of its calls."""
    found = case(kind)
    executor = LocalExecutor(jax.local_devices()[:num_devices], memory_limit)
    states, calls, done = {}, [], []
    job = Job(found.experiment, found.round, found.counts)
    for update in executor.train(job, chunks or found.chunks, reached or {}):
        done.append(update.done)
        if update.is_due:
            calls.append(list(update.states()))
            states |= update.states()
    assert done == sorted(done)
    runs = sum(c.size(found.groups[c.group].num_runs) for c in chunks or found.chunks)
    assert done[-1] == runs * found.experiment.num_steps
    return states, calls


@pytest.mark.parametrize(
    ("num_devices", "memory_limit", "kind"),
    [
        (2, None, "linear"), param(2, None, "mini-batches"),
        param(3, 1, "linear"), (3, 1, "mini-batches"),
        (4, 20_000, "linear"), param(4, 20_000, "mini-batches"),
    ],
)  # fmt: skip
def test_calls_by_memory_and_work_change_no_bit_and_are_one_program(
    kind, num_devices, memory_limit
):
    found = case(kind)
    result = []
    compiled = count_compilations(lambda: result.append(updates(kind, num_devices, memory_limit)))
    assert compiled == 1
    ((states, calls),) = result
    assert_same_bits(states, found.last)
    sizes = [len(call) for call in calls]
    assert sum(sizes) == len(found.chunks)
    if memory_limit == 1:
        assert set(sizes) == {1}
    elif memory_limit is None:
        assert max(sizes) <= num_devices + 1
    assert len(sizes) > 1


def test_chunks_at_different_steps_are_not_trained_together():
    found = case("linear")
    reached = dict(list(found.segments[1].items())[::2]) | dict(
        [list(found.segments[3].items())[1]]
    )
    states, calls = updates("linear", 4, None, reached=reached)
    assert_same_bits(states, found.last)
    begun = {chunk: reached[chunk].next_step if chunk in reached else 0 for chunk in found.chunks}
    assert all(len({begun[chunk] for chunk in call}) == 1 for call in calls)
    with pytest.raises(ValueError, match=r"go on at different steps: \[0, "):
        found.train(together("linear", 1), found.chunks, reached)


def test_a_trainer_compiles_once_for_all_of_its_calls():
    found = case("linear")
    calls = [found.chunks[:2], found.chunks[2:5], found.chunks[5:]]
    trainer = found.trainer(2, calls)
    trained = {}

    def train_calls():
        for call in calls:
            trained.update(found.train(trainer, call)[-1])
        found.train(trainer, found.chunks[:1], found.segments[0])

    assert count_compilations(train_calls) == 1
    assert_same_bits(trained, found.last)


@pytest.mark.parametrize("kind", ["linear", "mini-batches"])
def test_reports_within_a_segment_change_no_bit(kind, monkeypatch):
    """On a slow machine a segment is several dispatches, after each of which training goes on."""
    found = case(kind)
    monkeypatch.setattr("implicit_accel.engine.train._REPORT_AFTER", 0.0)
    monkeypatch.setattr("implicit_accel.engine.layout.Pace.SECONDS", 1e-9)
    trainer = found.trainer(2, [found.chunks])
    reports = [copy.deepcopy(s.states()) for s in trainer.train(found.chunks, {})]
    assert len(reports) > 2 * len(found.segments)
    assert_same_bits(reports[-1], found.last)
    steps = [next(iter(states.values())).next_step for states in reports]
    assert steps == sorted(set(steps))
    (*_, last) = trainer.train(found.chunks, reports[len(reports) // 3])
    assert_same_bits(last.states(), found.last)


def test_what_finished_chunks_cost_and_hold():
    found = case("linear")
    trainer = found.trainer(1, [found.chunks[:1]])
    (chunk,) = found.chunks[:1]
    *_, last = trainer.train([chunk], {}, keep_leaves=False)
    (state,) = last.states().values()
    assert state.is_finished
    assert state.leaves == ()
    assert state.timing.compile_seconds > 0
    assert state.timing.train_seconds > 0
    size = chunk.size(found.groups[chunk.group].num_runs)
    assert (state.timing.num_chunks, state.timing.run_steps) == (1, size * 120)
    assert state.result.arrays.keys() == found.last[chunk].result.arrays.keys()


@pytest.mark.parametrize("number", [0, 3])
def test_states_go_on_in_blocks_of_another_size(number):
    """As on a device of another kind: to rounding."""
    found = case("relu")
    groups = [dataclasses.replace(group, largest_block=5) for group in found.groups]
    trainer = found.trainer(2, [found.chunks], groups)
    states = found.train(trainer, found.chunks, found.segments[number])[-1]
    for chunk, state in states.items():
        assert state.members.shape != found.last[chunk].members.shape
        for name in ("divergence_step", "steps_to_target"):
            expected = found.last[chunk].result.arrays[name]
            np.testing.assert_array_equal(state.result.arrays[name], expected)
    assert_close(states, found.last)


def test_final_parameters_are_in_the_order_of_the_runs():
    """However runs were moved between blocks."""
    found = case("linear")
    options = {
        "num_steps": 120, "recording": found.experiment.recording, "precision": "float64",
        "devices": jax.local_devices()[:1],
    }  # fmt: skip
    groups = found.groups[:1]
    whole = [dataclasses.replace(group, largest_block=None) for group in groups]
    ((a, packed),), ((b, plain),) = train(groups, **options), train(whole, **options)
    np.testing.assert_array_equal(a.divergence_step, b.divergence_step)
    kept = a.divergence_step < 0
    assert 0 < np.count_nonzero(kept) < len(kept)
    for x, y in zip(jax.tree.leaves(packed), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(x[kept], y[kept], rtol=1e-7, atol=1e-12)


def test_gathered_results_are_those_of_the_runs():
    found = case("linear")
    results = gather(found.groups, dict(reversed(found.last.items())))
    for number, (group, result) in enumerate(zip(found.groups, results, strict=True)):
        for run in range(group.num_runs):
            count = found.counts[number]
            (chunk,) = (c for c in found.chunks if (c.group, c.index) == (number, run % count))
            own = found.last[chunk].result.arrays
            for name, values in result.arrays.items():
                np.testing.assert_array_equal(values[run], own[name][run // count])
        assert GroupResult.of(result.arrays).arrays.keys() == result.arrays.keys()


def test_other_records_or_fewer_steps_are_refused():
    found = case("linear")
    (chunk,) = found.chunks[:1]

    def go_on(reached, recording=found.experiment.recording, num_steps=120):
        trainer = Trainer(
            found.groups, found.counts, [[chunk]], num_steps=num_steps, recording=recording,
            devices=jax.local_devices()[:1],
        )  # fmt: skip
        return list(trainer.train([chunk], {chunk: reached}))

    steps, *observed = found.experiment.recording.all
    with pytest.raises(ValueError, match="120 steps are done already, 100 asked for"):
        go_on(found.last[chunk], num_steps=100)
    with pytest.raises(ValueError, match="something else"):
        go_on(dataclasses.replace(found.segments[1][chunk], steps=(steps,)))
    short = dataclasses.replace(found.segments[1][chunk], steps=(steps[1:], *observed))
    with pytest.raises(ValueError, match="lacks records"):
        go_on(short)


def test_a_call_needs_groups():
    with pytest.raises(ValueError, match="no groups"):
        Trainer([], [], [[]], num_steps=1, recording=Recording(np.arange(2)))


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_states_and_records_are_those_of_the_arrays(kind):
    found = case(kind)
    precision = found.experiment.precision
    for chunk, state in found.last.items():
        group = found.groups[chunk.group]
        held = sum(leaf[0, 0].nbytes for leaf in state.leaves)
        assert group.state_bytes(precision) == held
        recorded = sum(a[0].nbytes for a in state.result.records.values())
        lengths = [len(steps) for steps in found.experiment.recording.all]
        assert group.record_bytes(lengths, precision) == recorded
        with precision_context(precision) as dtype:
            shapes = [leaf.shape for leaf in jax.tree.leaves(group.state(dtype))]
        assert shapes == [leaf.shape[2:] for leaf in state.leaves]


def test_chunks_are_named_in_order():
    named = [(c.group, c.index, c.count) for c in chunks_of([2, 1])]
    assert named == [(0, 0, 2), (0, 1, 2), (1, 0, 1)]
