"""Sizes of chunks, blocks and segments, held against slow definitions."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples

from implicit_accel.engine.chunks import Chunk, ChunkState, Group, GroupResult, Timing, first_step
from implicit_accel.engine.layout import (
    MOST_RECORDS,
    MiniBatches,
    Pace,
    chunk_shape,
    count_chunks,
    deal,
    dispatch_capacity,
    efficient_block,
    largest_block,
    pack,
    record_indices,
    segment_length,
    sizes_on,
    steps_in_dispatch,
)

platforms = st.sampled_from(["cpu", "gpu", "tpu"])


@given(
    num_parameters=st.integers(1, 10**7), num_rows=st.integers(0, 10**6), platform=platforms,
    itemsize=st.sampled_from([4, 8]),
)  # fmt: skip
def test_blocks_fit_the_cache_unless_runs_are_large(num_parameters, num_rows, platform, itemsize):
    found = largest_block(
        num_parameters=num_parameters, num_rows=num_rows, platform=platform, itemsize=itemsize
    )
    run = (3 * num_parameters + num_rows) * itemsize
    cache = sizes_on(platform).cache
    if platform == "cpu":
        assert 4 <= found <= 256
        assert found == 4 or found * run <= cache
        assert found == 256 or (found + 1) * run > cache
    else:
        assert found >= 256
        assert found == 256 or found * run <= cache < (found + 1) * run


def test_blocks_of_known_networks():
    sizes = [
        largest_block(num_parameters=n, num_rows=128, platform="cpu", itemsize=4)
        for n in (130, 12_352)
    ]
    assert sizes == [256, 7]


@given(largest=st.integers(1, 10**4), operations=st.floats(0, 1e12), platform=platforms)
def test_an_efficient_block_is_the_smallest_that_pays_for_its_loop(largest, operations, platform):
    found = efficient_block(largest, operations, platform)
    enough = sizes_on(platform).block_step

    def pays(block):
        return block >= 32 and block * max(1, operations) >= enough

    assert 1 <= found <= largest
    if pays(largest):
        assert pays(found)
        # Fewer would not do; the quotient is rounded once.
        assert not pays(found - 1) or (found - 1) * operations == pytest.approx(enough)
    else:
        assert found == largest


grids = {
    "num_runs": st.integers(1, 10**6), "block": st.integers(1, 2000),
    "run_operations": st.floats(0, 1e16), "run_bytes": st.floats(1, 1e9), "platform": platforms,
}  # fmt: skip


@given(**grids)
@settings(max_examples=examples(100))
def test_chunks_are_as_many_as_they_should_be(num_runs, block, run_operations, run_bytes, platform):
    count = count_chunks(
        num_runs, block, run_operations=run_operations, run_bytes=run_bytes, platform=platform
    )
    fewest = 2 if platform == "cpu" else 1
    blocks, size = chunk_shape(num_runs, count, block)
    assert 1 <= count <= num_runs
    assert count >= min(fewest, num_runs)
    assert count >= 64 or count == num_runs or math.log2(count) % 1 == 0
    largest = math.ceil(num_runs / count)
    # Small in memory: the bound is passed by √2 at most, by the rounding to a power of two.
    assert blocks == 1 or largest * run_bytes <= 2.1 * 2**27 + 2 * block * run_bytes
    # A cut is not finer than four blocks, or some seconds of work, or the bytes ask for.
    if count > fewest:
        smallest = num_runs // count
        is_work = (smallest + block) * run_operations >= 0.35 * sizes_on(platform).chunk
        is_large = (smallest + 2 * block) * run_bytes >= 0.35 * 2**27
        assert smallest + block > 2.7 * block or is_work or is_large
    assert size <= block


def test_chunks_of_known_grids():
    def count(num_runs, block, seconds, platform="cpu", run_bytes=1e4):
        speed = sizes_on(platform).chunk / 5
        return count_chunks(
            num_runs, block, run_operations=speed * seconds, run_bytes=run_bytes, platform=platform
        )

    assert count(1, 32, 1) == 1
    assert count(3, 32, 100) == 2
    assert count(4 * 32 * 8, 32, 1) == 8
    assert count(4 * 32 * 15, 32, 1) == 16
    assert count(4 * 32 * 100, 32, 1) == 100
    assert count(4 * 32, 32, 1, "gpu") == 1
    # Short runs: a chunk is at least as much as pays for its storing.
    assert count(32 * 160, 32, 5 / 32 / 20) == 8
    # 16 MiB for each run: chunks of a block of 8.
    assert count(32, 8, 1, run_bytes=2**24) == 4


@given(
    num_runs=st.integers(1, 5000), num_chunks=st.integers(1, 5000), block=st.integers(1, 300)
)  # fmt: skip
def test_blocks_of_a_chunk_are_as_few_and_as_small_as_possible(num_runs, num_chunks, block):
    num_chunks = min(num_chunks, num_runs)
    blocks, size = chunk_shape(num_runs, num_chunks, block)
    largest = max(len(range(i, num_runs, num_chunks)) for i in range(num_chunks))
    assert 1 <= size <= block
    assert blocks * size >= largest
    assert (blocks - 1) * block < largest
    assert blocks * (size - 1) < largest


def group(num_runs: int, block: int | None) -> Group:
    nothing: Any = None
    return Group(
        program=nothing, data=None, num_runs=num_runs, runs=nothing, shapes=None,
        operations=1e9, largest_block=block,
    )  # fmt: skip


@given(
    num_runs=st.integers(1, 300), count=st.integers(1, 40),
    block=st.none() | st.integers(1, 50),
)  # fmt: skip
def test_chunks_are_a_partition_of_the_runs(num_runs, count, block):
    count = min(count, num_runs)
    chunks = [Chunk(0, index, count) for index in range(count)]
    runs = [chunk.runs(num_runs).tolist() for chunk in chunks]
    assert sorted(itertools.chain(*runs)) == list(range(num_runs))
    sizes = [chunk.size(num_runs) for chunk in chunks]
    assert sizes == list(map(len, runs))
    assert max(sizes) - min(sizes) <= 1
    shapes = set()
    for chunk, size in zip(chunks, sizes, strict=True):
        members = chunk.members(group(num_runs, block))
        shapes.add(members.shape)
        assert members[members >= 0].tolist() == list(range(size))
        assert (members.ravel()[size:] == -1).all()
    assert len(shapes) == 1


@given(
    blocks=st.lists(st.integers(1, 9), min_size=1, max_size=7), num_devices=st.integers(1, 8),
    spare=st.integers(0, 3),
)  # fmt: skip
def test_blocks_are_dealt_to_devices_in_turn(blocks, num_devices, spare):
    per_device = math.ceil(sum(blocks) / num_devices) + spare
    places = deal(blocks, num_devices, per_device)
    assert list(map(len, places)) == blocks
    every = np.concatenate(places)
    assert len(set(every)) == len(every)
    assert every.min() >= 0
    assert every.max() < per_device * num_devices
    # Whatever later blocks become free, devices have equally many of those before them.
    for level in range(1, max(blocks) + 1):
        left = [p for own in places for p in own[:level]]
        shares = [sum(p // per_device == device for p in left) for device in range(num_devices)]
        assert max(shares) - min(shares) <= 1


@given(alive=st.integers(1, 6).flatmap(lambda size: st.lists(
    st.lists(st.booleans(), min_size=size, max_size=size), min_size=1, max_size=7
)))  # fmt: skip
def test_packing_frees_as_many_blocks_as_possible(alive):
    alive = np.array(alive)
    used = sum(map(any, alive))
    needed = math.ceil(alive.sum() / alive.shape[1])
    order = pack(alive)
    assert (order is None) == (used == needed)
    if order is None:
        return
    assert sorted(order) == list(range(alive.size))
    packed = alive.reshape(-1)[order]
    assert packed[: alive.sum()].all()
    assert sum(map(any, packed.reshape(alive.shape))) == needed
    for half in (order[: alive.sum()], order[alive.sum() :]):
        assert (np.diff(half) > 0).all()


@given(
    recorded=st.lists(st.sets(st.integers(0, 900), min_size=1).map(sorted), min_size=1, max_size=3),
    first=st.integers(0, 900), most=st.integers(1, 900),
)  # fmt: skip
def test_a_dispatch_is_as_long_as_its_records_allow(recorded, first, most):
    count = steps_in_dispatch(first, most, [np.array(steps) for steps in recorded])

    def records(count):
        return max(sum(first <= s < first + count for s in steps) for steps in recorded)

    assert 1 <= count <= most
    assert records(count) <= MOST_RECORDS
    assert count == most or records(count + 1) > MOST_RECORDS
    for steps in recorded:
        inside = [s for s in steps if first <= s < first + count]
        where = record_indices(np.arange(first, first + most), np.array(inside, int))
        asked = range(first, first + most)
        assert where.tolist() == [inside.index(s) if s in inside else MOST_RECORDS for s in asked]


def test_steps_of_a_dispatch_are_bounded_by_the_rows_of_their_mini_batches():
    assert dispatch_capacity([]) == dispatch_capacity([MiniBatches(100, 10, (0, 1))]) == 2048
    large = MiniBatches(10_000, 500, tuple(range(50)))
    assert 16 <= dispatch_capacity([large, large]) < 100
    assert dispatch_capacity([large] * 1000) == 16


@given(seconds_per_step=st.floats(1e-7, 100))
def test_dispatches_come_to_take_half_a_second(seconds_per_step):
    pace, spent = Pace(), 0.0
    for _ in range(12):
        spent += pace.steps * seconds_per_step
        pace.note(pace.steps, pace.steps * seconds_per_step)
    assert pace.steps == 1 or pace.steps * seconds_per_step <= 0.5 * (1 + 1e-9)
    assert pace.steps >= 10**7 or (pace.steps + 1) * seconds_per_step > 0.5
    # What it takes to find that out.
    assert spent <= 12 * max(0.5, 4 * seconds_per_step)


@pytest.mark.parametrize("steps", [1, 199, 200, 399, 400, 20_000, 12_345_678])
def test_segments_cover_all_steps(steps):
    length = segment_length(steps)
    assert length * 50 >= steps + 1
    assert length <= max(400, steps)


@given(
    num_steps=st.integers(1, 10**7), operations=st.floats(0, 1e13), platform=platforms
)  # fmt: skip
def test_segments_are_a_second_s_work_or_a_fiftieth(num_steps, operations, platform):
    length = segment_length(num_steps, operations_per_step=operations, platform=platform)
    work = sizes_on(platform).segment
    assert 1 <= length <= num_steps + 1
    assert length == 1 or (length - 1) * operations <= work * (1 + 1e-9)
    # No shorter than it must be.
    is_long = 2 * length * operations >= 0.99 * work or (length + 1) * 51 > num_steps
    assert is_long or length >= 100
    assert length == num_steps + 1 or num_steps > 199 or operations * (num_steps + 1) > work


def state(members: np.ndarray, num_steps: int = 10, next_step: int = 4) -> ChunkState:
    """A state whose leaves say which run they are of; padding holds −1, and has diverged."""
    value = np.where(members < 0, -1, members)
    leaves = (
        np.stack([value, value + 0.5], axis=-1), value.astype(np.int32),
        np.where(members < 0, 0, np.where(value % 2 == 1, value, -1)).astype(np.int32),
    )  # fmt: skip
    runs = np.arange(members.max() + 1)
    result = GroupResult({"excess_loss": runs[:, None] * 1.0}, runs, runs)
    return ChunkState(num_steps, next_step, (np.array([0]),), members, leaves, result, Timing())


@given(data=st.data(), num_runs=st.integers(1, 30))
def test_a_state_in_other_blocks_keeps_every_run(data, num_runs):
    def members(*, is_shuffled: bool):
        size = data.draw(st.integers(1, num_runs + 3))
        places = np.full(math.ceil(num_runs / size) * size, -1)
        places[:num_runs] = np.arange(num_runs)
        if is_shuffled:
            places = np.array(data.draw(st.permutations(places.tolist())))
        return places.reshape(-1, size)

    old, new = state(members(is_shuffled=True)), members(is_shuffled=False)
    moved = old.laid_out(new)
    if old.members.shape == new.shape:
        assert moved is old
        return
    assert moved.members.tolist() == new.tolist()
    real, wanted = new >= 0, state(new)
    for leaf, expected in zip(moved.leaves, wanted.leaves, strict=True):
        assert leaf.dtype == expected.dtype
        assert leaf.shape == expected.shape
        np.testing.assert_array_equal(leaf[real], expected[real])
    assert (moved.leaves[-1][~real] == 0).all()
    assert moved.result is old.result
    assert (moved.num_steps, moved.next_step) == (10, 4)


def test_where_a_chunk_goes_on():
    places = np.array([[0]])
    assert first_step(None, 10) == 0
    for num_steps, next_step, wanted, expected in (
        (10, 4, 10, 4), (10, 4, 20, 4), (10, 11, 10, 11), (10, 11, 20, 10), (10, 10, 20, 10)
    ):  # fmt: skip
        assert first_step(state(places, num_steps, next_step), wanted) == expected
    with pytest.raises(ValueError, match="10 steps are done already, 9 asked for"):
        first_step(state(places, 10, 11), 9)
