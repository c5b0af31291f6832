import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from implicit_accel import Loss, Optimizer, SweepConfig, Target, UserError
from implicit_accel.engine.layout import largest_block, spaced_steps, split_evenly
from implicit_accel.linear.config import parse_hidden_widths, parse_learning_rates
from implicit_accel.linear.networks import layer_shapes
from implicit_accel.linear.planning import merge_shapes, plan_groups


def test_the_student_project_s_grid_has_seven_models():
    config = SweepConfig(depths=(1, 2, 3), hidden_widths=(1, 10, 64), losses=(Loss(2, "plain"),))
    assert [m.hidden for m in config.models] == ["-", "1", "10", "64", "1x1", "10x10", "64x64"]


def test_equal_models_are_trained_once():
    config = SweepConfig(
        depths=(2,), inits=("near_zero", "pytorch"), init_stds=(0.01, 0.1), losses=(Loss(2),)
    )
    stds = [(m.initialiser.name, m.initialiser.std) for m in config.models]
    assert stds[:2] == [("near_zero", 0.01), ("near_zero", 0.1)]
    assert stds[2][0] == "pytorch"
    assert len(stds) == 3


def test_own_widths_make_one_network():
    config = SweepConfig(depths=(1, 3), hidden_widths=(2, (64, 32)), losses=(Loss(2),))
    assert [m.hidden for m in config.models] == ["-", "2x2", "64x32"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": ()}, "depths: the list is empty"),
        ({"depths": (0,)}, "depth 0: must be a whole number >= 1"),
        ({"depths": (2, 2)}, "depths: 2 is given twice"),
        ({"losses": (Loss(2), Loss(2))}, "losses: l2 is given twice"),
        ({"hidden_widths": (0,)}, "hidden width 0"),
        ({"hidden_widths": ((3, -1),)}, "hidden width -1"),
        ({"hidden_widths": ((3, 1, 2),)}, "make a network of depth 4"),
        ({"learning_rates": (0.1, -0.1)}, "learning rate -0.1: must be a number above 0"),
        ({"learning_rates": (float("nan"),)}, "learning rate nan"),
        ({"learning_rates": (0.1, 0.1)}, "0.1 is given twice"),
        ({"weight_decays": (-1.0,)}, "weight decay"),
        ({"init_stds": (-1.0,)}, "initial standard deviation -1"),
        ({"inits": ("zeros",)}, "initialiser 'zeros': choose from"),
        ({"num_seeds": 0}, "number of seeds 0"),
        ({"num_steps": 0}, "number of steps 0"),
        ({"num_steps": 2**31}, "number of steps"),
        ({"records_per_decade": 0}, "records per decade"),
        ({"depths": (10**20,)}, "depth 1000"),
        ({"hidden_widths": (10**20,)}, "hidden width 1000"),
        ({"num_seeds": 10**11}, "number of seeds"),
        ({"num_seeds": 10**6, "records_per_decade": 10**5}, "numbers to keep"),
        ({"learning_rates": (10**400,)}, "learning rate 1000"),
        ({"depths": (2.0,)}, "depth 2.0: must be a whole number"),
        ({"depths": (True,)}, "depth True: must be a whole number"),
        ({"depths": [1]}, "depths: must be a tuple"),
        ({"hidden_widths": ("4",)}, "hidden width 4: must be a whole number"),
        ({"bias": "no"}, "bias no: must be true or false"),
        ({"target": 0.1}, "target 0.1: must be a Target"),
        ({"weight_decays": tuple(map(float, range(10_000)))}, "60,000 combinations"),
        ({"precision": "float16"}, "'float16': choose from float32, float64"),
        ({"activation": "tanh"}, "'tanh': choose from identity, relu"),
    ],
)
def test_bad_grids_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        SweepConfig(**changes)


def test_learning_rates_are_read():
    assert parse_learning_rates(["0.1", "1e-3"]) == (0.1, 1e-3)
    rates = parse_learning_rates(["log:1e-5:0.5:24"])
    assert len(rates) == 24
    assert (rates[0], rates[-1]) == (1e-5, 0.5)
    ratios = np.array(rates[1:]) / rates[:-1]
    np.testing.assert_allclose(ratios, ratios[0], rtol=2e-5)
    widest = parse_learning_rates(["log:3:1.7976931348623157e308:8"])
    assert widest[-1] == pytest.approx(1.79769e308)


@pytest.mark.parametrize(
    "text", ["", "x", "log:", "log:1:2", "log:2:1:3", "log:0:1:3", "log:1:2:1", "log:1:2:3:4",
             "log:-1:1:3", "log:1e-3:inf:3", "log:nan:1:3", "log:1:2:99999999"],
)  # fmt: skip
def test_bad_learning_rates_are_refused(text):
    with pytest.raises(UserError, match="log:low:high:count"):
        parse_learning_rates([text])


def test_hidden_widths_and_targets_are_read():
    assert parse_hidden_widths("10") == 10
    assert parse_hidden_widths("64x32") == (64, 32)
    assert Target.parse("10%") == Target(0.1, relative=True)
    assert Target.parse("1e-5") == Target(1e-5)
    assert Target.parse("10%").absolute(3.0) == pytest.approx(0.3)
    assert Target.parse("0.2").absolute(3.0) == 0.2
    assert (str(Target(0.1, relative=True)), str(Target(1e-5))) == ("10%", "1e-05")
    with pytest.raises(UserError, match="whole number like 10"):
        parse_hidden_widths("4x")


def test_a_hundred_thousand_learning_rates():
    rates = parse_learning_rates(["log:1e-300:1e300:100000"])
    assert (
        len(SweepConfig(learning_rates=rates, num_seeds=1, records_per_decade=2).learning_rates)
        == 10**5
    )
    with pytest.raises(UserError, match="more than 100,000 learning rates"):
        parse_learning_rates(["log:1e-3:1:60000"] * 10**4)


def test_widths_of_numpy_s_types():
    config = SweepConfig(depths=(2,), hidden_widths=(np.int64(3),), losses=(Loss(2),))  # pyright: ignore
    assert [m.hidden for m in config.models] == ["3"]


@given(value=st.floats(1e-300, 1, exclude_max=True), relative=st.booleans())
@example(value=0.1000001, relative=True)
@example(value=0.07, relative=True)
def test_targets_are_told_apart_by_their_text(value, relative):
    target = Target(value, relative)
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize("text", ["", "%", "0", "-1", "nan", "inf", "100%", "5%%", "ten"])
def test_bad_targets_are_refused(text):
    with pytest.raises(UserError, match="target"):
        Target.parse(text)


@given(num_steps=st.integers(1, 10**7), more=st.integers(0, 10**7), density=st.integers(1, 300))
def test_recorded_steps(num_steps, more, density):
    steps = spaced_steps(num_steps, density)
    assert steps[0] == 0
    assert steps[-1] == num_steps
    # Neighbours are a step apart, or in the ratio asked for (the last may be nearer).
    gaps, ratios = np.diff(steps)[1:], steps[2:] / steps[1:-1]
    assert (gaps > 0).all()
    bound = 10 ** (1 / density)
    assert ((gaps == 1) | (ratios <= bound * (1 + 1 / steps[1:-1]))).all()
    in_a_decade = np.count_nonzero((steps > num_steps / 10) & (steps < num_steps))
    assert in_a_decade <= density + 1
    # A run that goes on has recorded what it needs.
    longer = spaced_steps(num_steps + more, density)
    assert set(longer[longer <= num_steps]) <= set(steps)


widths = st.lists(st.integers(1, 9), max_size=4).map(tuple)


@given(shapes=st.lists(widths, min_size=1, max_size=5, unique=True), k=st.integers(1, 3))
def test_merged_shapes_hold_every_member(shapes, k):
    merged = layer_shapes(6, merge_shapes(shapes, k), k)
    for shape in shapes:
        for own, larger in zip(layer_shapes(6, shape, k), merged, strict=False):
            assert own[0] <= larger[0]
            assert own[1] <= larger[1]
        for larger in merged[len(shape) + 1 :]:
            assert min(larger) >= k  # outputs fit through the identity layers


@given(
    counts=st.dictionaries(widths, st.integers(1, 10**4), min_size=1, max_size=6),
    num_steps=st.integers(1, 10**6),
)
def test_groups_are_a_partition(counts, num_steps):
    groups = plan_groups(counts, num_steps=num_steps, d=10, k=1)
    assert sorted(shape for group in groups for shape in group) == sorted(counts)


def test_small_grids_share_a_program_and_large_ones_do_not():
    counts = {(): 7, (64,): 7, (64, 64): 7}
    assert len(plan_groups(counts, num_steps=100, d=128, k=1)) == 1
    large = dict.fromkeys(counts, 10000)
    assert len(plan_groups(large, num_steps=10**5, d=128, k=1)) == 3
    # Width 1 costs nothing to pad.
    thin = {(): 1000, (1,): 1000, (1, 1): 1000}
    assert len(plan_groups(thin, num_steps=10**4, d=128, k=1)) == 1


@given(
    count=st.integers(1, 5000), largest=st.none() | st.integers(1, 300), parts=st.integers(1, 50)
)  # fmt: skip
def test_blocks_hold_everyone_and_waste_little(count, largest, parts):
    blocks, size = split_evenly(count, largest, parts)
    assert blocks * size * parts >= count
    assert largest is None or size <= largest
    assert blocks * size * parts - count < parts * (blocks + 1)


def test_blocks_fit_the_cache():
    thin = largest_block(num_parameters=130, num_rows=128, platform="cpu", itemsize=4)
    wide = largest_block(num_parameters=12_352, num_rows=128, platform="cpu", itemsize=4)
    assert (thin, wide) == (256, 7)
    assert largest_block(num_parameters=1, num_rows=1, platform="gpu", itemsize=4) is None


def test_optimizers_with_other_settings_are_other_models():
    config = SweepConfig(
        depths=(1,), losses=(Loss(2),),
        optimizers=(Optimizer("momentum"), Optimizer("momentum", (("momentum", 0.5),))),
    )  # fmt: skip
    assert len(config.models) == 2
