import contextlib
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from absl.flags import ListParser
from hypothesis import example, given
from hypothesis import strategies as st

from implicit_accel import Optimizer, UserError, linear
from implicit_accel.data.problems import Preparation, Problem
from implicit_accel.engine.layout import spaced_steps
from implicit_accel.fields import fields_of, read
from implicit_accel.linear import Initialiser, Loss, SweepConfig, Target
from implicit_accel.linear.config import parse_hidden_widths, parse_learning_rates
from implicit_accel.linear.networks import layer_shapes
from implicit_accel.linear.planning import merge_shapes, plan_groups
from implicit_accel.linear.sweep import LinearSweep

PROBLEM = Problem.from_arrays(np.arange(12.0).reshape(6, 2) % 5, np.arange(6.0) % 4)


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
        ({"depths": (True, 2)}, "depth True: must be a whole number"),
        ({"depths": ("true",)}, "depths: 'true' is not a whole number"),
        ({"depths": ("1-3",)}, r"'1-3' is not a whole number; did you mean 1,2,3\?"),
        ({"losses": ("mse",)}, "loss 'mse': write an l .*; the mean squared error is l2"),
        ({"depths": ((1, 2),)}, r"depth \(1, 2\): must be a whole number"),
        ({"depths": {1, 2}}, "depths: must be a list"),
        ({"hidden_widths": ("4x",)}, "hidden width '4x': write a whole number like 10"),
        ({"losses": (4,)}, "loss '4': write an l and an exponent"),
        ({"losses": None}, "loss None: must be a Loss, or a text like 'l4'"),
        ({"losses": (Loss,)}, "must be a Loss, or a text like 'l4'"),
        ({"optimizers": "lion"}, "optimizer 'lion': choose from sgd"),
        ({"learning_rates": (0.1, True)}, "learning rate True: must be a number above 0"),
        ({"learning_rates": "auto"}, "log:low:high:count"),
        ({"learning_rates": ["log:1e-3:1:60000"] * 9}, "more than 100,000 learning rates"),
        ({"num_steps": "many"}, "number of steps: 'many' is not a whole number"),
        pytest.param(
            {"num_steps": 10**5000},
            "number of steps a value of type int: must be a whole number",
            id="digits",
        ),
        ({"bias": "no"}, "bias no: must be true or false"),
        ({"bias": 1}, "bias 1: must be true or false"),
        ({"target": "100%"}, "below 100%"),
        ({"target": 0}, "target 0: the target excess loss must be a number above 0"),
        ({"target": None}, "target None: must be an excess loss like 1e-5, a share like '10%'"),
        ({"target": True}, "target True: must be an excess loss"),
        ({"weight_decays": tuple(map(float, range(10_000)))}, "60,000 combinations"),
        ({"precision": "float16"}, "'float16': choose from float32, float64"),
        ({"activation": "tanh"}, "'tanh': choose from identity, relu"),
    ],
)
def test_bad_grids_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        SweepConfig(**changes)


NUMPY: list[Any] = [np.float32(2), np.int64(4), np.float64(2.5)]
SPELLINGS: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    (
        {"depths": (1, 2)},
        [{"depths": d} for d in ([1, 2], "1,2", range(1, 3), np.array([1, 2]), jnp.array([1, 2]),
                                 ("1", 2), [np.int8(1), 2], np.array(["1", "2"]), iter((1, 2)))],
    ),
    ({"depths": (3,)}, [{"depths": d} for d in (3, "3", [3], np.int64(3), np.array(3))]),
    (
        {"depths": (3,), "hidden_widths": ((64, 32), 5)},
        [{"depths": 3, "hidden_widths": h}
         for h in ("64x32,5", ["64x32", "5"], [[64, 32], 5], [np.array([64, 32]), 5],
                   (("64", 32), 5))],
    ),
    ({"bias": True}, [{"bias": b} for b in ("true", "True", np.bool_(1), np.array(True))]),
    ({"activation": "relu"}, [{"activation": np.array("relu")}]),
    (
        {"inits": ("near_zero", "pytorch")},
        [{"inits": i} for i in (["near_zero", "pytorch"], "near_zero, pytorch",
                                np.array(["near_zero", "pytorch"]))],
    ),
    ({"inits": ("balanced",), "hidden_widths": (4,)},
     [{"inits": "balanced", "hidden_widths": 4}]),
    ({"init_stds": (0.0, 1.0)},
     [{"init_stds": s} for s in ((0, 1), "0,1", [-0.0, 1], np.array([0, 1]))]),
    ({"init_stds": (0.25,)}, [{"init_stds": s} for s in (0.25, np.float32(0.25), Fraction(1, 4))]),
    (
        {"losses": (Loss(2), Loss(4), Loss(2.5))},
        [{"losses": ls} for ls in ("l2,l4,l2.5", ["l2", "l4", "l2.5"], (Loss(2), "l4", "l2.5"),
                                   [Loss(p) for p in NUMPY])],
    ),
    ({"losses": (Loss(4),)}, [{"losses": ls} for ls in ("l4", ("l4",), Loss(4), [Loss(4.0)])]),
    (
        {"optimizers": (Optimizer("sgd"), Optimizer("adam"))},
        [{"optimizers": o} for o in ("sgd,adam", ("sgd", "adam"), ["sgd", Optimizer("adam")])],
    ),
    (
        {"optimizers": (Optimizer("end_to_end", (("depth", 3.0), ("rate", False))),)},
        [{"optimizers": Optimizer("end_to_end", s)}  # pyright: ignore[reportArgumentType]
         for s in ((("depth", 3), ("rate", False)), {"depth": np.int64(3), "rate": np.bool_(0)},
                   [["depth", 3], ["rate", False]])],
    ),
    ({"weight_decays": (0.0, 1.0)}, [{"weight_decays": w} for w in ("0,1", [0, 1], ("-0", 1))]),
    (
        {"learning_rates": (0.001, 1.0)},
        [{"learning_rates": r} for r in ([0.001, 1], "1e-3,1", np.array([0.001, 1.0]), ("1e-3", 1),
                                         "log:1e-3:1:2", ["log:1e-3:1:2"])],
    ),
    (
        {"learning_rates": tuple(np.geomspace(1e-3, 1, 5).tolist())},
        [{"learning_rates": r} for r in (np.geomspace(1e-3, 1, 5), [*np.geomspace(1e-3, 1, 5)])],
    ),
    ({"learning_rates": (0.5, 2.0)}, [{"learning_rates": jnp.array([0.5, 2], t)}
                                      for t in (jnp.float32, jnp.bfloat16)]),
    ({"num_seeds": 3, "num_steps": 300}, [{"num_seeds": "3", "num_steps": np.int32(300)}]),
    ({"target": Target(0.01, relative=True)}, [{"target": "1%"}, {"target": " 1.0%"}]),
    (
        {"target": Target(0.01)},
        [{"target": t} for t in (0.01, "0.01", "1e-2", np.float64(0.01), Fraction(1, 100),
                                 Target(np.float64(0.01)))],
    ),
    ({"target": Target(2.0)}, [{"target": t} for t in (2, "2", Target(2), jnp.float32(2))]),
    ({"record": ("sharpness",)}, [{"record": r} for r in ("sharpness", ["sharpness"])]),
    ({"record": ()}, [{"record": r} for r in ("", [], np.array([]))]),
]  # fmt: skip


@pytest.mark.parametrize(("canonical", "spellings"), SPELLINGS)
def test_settings_may_be_written_in_many_ways(canonical, spellings):
    wanted = SweepConfig(**canonical)
    assert {name: getattr(wanted, name) for name in canonical} == canonical
    identity = LinearSweep(PROBLEM, wanted).identity
    for spelling in spellings:
        config = SweepConfig(**spelling)
        assert config == wanted
        assert hash(config) == hash(wanted)
        assert config.settings() == wanted.settings()
        assert LinearSweep(PROBLEM, config).identity.code() == identity.code()


def test_every_setting_has_a_second_spelling():
    written = {name for canonical, _ in SPELLINGS for name in canonical}
    whole = {"first_seed", "records_per_decade", "observations_per_decade"}  # as num_seeds
    assert written | whole | {"precision"} == set(fields_of(SweepConfig))


def test_learning_rates_are_floats_of_the_same_bits():
    given: Any = (1, 0.1, np.float32(0.1), 5e-324)
    rates = SweepConfig(learning_rates=given).learning_rates
    assert [rate.hex() for rate in rates] == [
        (1.0).hex(), (0.1).hex(), float(np.float32(0.1)).hex(), (5e-324).hex()
    ]  # fmt: skip
    assert {type(rate) for rate in rates} == {float}


items = st.one_of(
    st.text(max_size=5), st.sampled_from(["1", "2", " 3", "1_0", "0.5", "nan", "1e3", "64x32", "l2",
                                          "l4", "lx", "sgd", "adam", "log:1:2:3", "log:1:2", "true",
                                          "near_zero", "sharpness", "0x1", "-1"])
)  # fmt: skip
LISTS = sorted(name for name, field in fields_of(SweepConfig).items() if field.is_list)


def made(**changes: Any) -> SweepConfig | None:
    with contextlib.suppress(UserError):
        return SweepConfig(**changes)
    return None


@given(name=st.sampled_from(LISTS), texts=st.lists(items, max_size=3))
def test_a_text_means_the_same_in_python_and_on_the_command_line(name, texts):
    text = ",".join(texts)
    try:
        flag = ListParser().parse(text)
    except ValueError:  # quotes and line breaks are special to a flag
        return
    if '"' in text:
        return
    shell = None
    with contextlib.suppress(UserError):
        shell = SweepConfig(**read(fields_of(SweepConfig), {name: flag}))
    assert made(**{name: text}) == shell
    assert made(**{name: flag}) == shell


@given(text=items | st.sampled_from(["1%", "10 %", "0.1", "1e-5", "100%", "0"]))
def test_a_target_s_text_means_the_same(text):
    shell = None
    with contextlib.suppress(UserError):
        shell = SweepConfig(**read(fields_of(SweepConfig), {"target": text}))
    assert made(target=text) == shell


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(1, 5), st.just(10**400),
    st.floats(), st.floats(0, 1), st.complex_numbers(), st.fractions(),
    st.decimals(), st.binary(max_size=3), items, st.just(object()), st.just(Loss), st.just(Loss(2)),
    st.just(Optimizer("adam")), st.just(Target(1.0)), st.just(Initialiser()), st.just(math.nan),
    st.sampled_from([np.float32(0.5), np.int64(2), np.bool_(1), np.array(3), np.array(None),
                     np.datetime64("2020"), jnp.array(2), jnp.bfloat16(1.5), Decimal("0.1")]),
)  # fmt: skip
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(iter),
        st.dictionaries(st.text(max_size=2), inner, max_size=2),
        st.sampled_from([range(3), range(10**12), np.arange(1, 4), np.ones((2, 2)), np.array([]),
                         np.array([1, "a"], object), jnp.arange(1, 3), {1, 2}, frozenset({1}),
                         bytearray(b"1"), memoryview(b"1")]),
    ),
    max_leaves=4,
)  # fmt: skip


@given(changes=st.dictionaries(st.sampled_from(sorted(fields_of(SweepConfig))), anything,
                               min_size=1, max_size=2))  # fmt: skip
def test_anything_at_all_is_a_grid_or_a_user_error(changes):
    config = made(**changes)
    if config is None:
        return
    assert config == SweepConfig(**vars(config))
    hash(config)
    for name, field in fields_of(SweepConfig).items():
        value = getattr(config, name)
        assert type(value) is (tuple if field.is_list else type(field.default_value))
        for item in value if field.is_list else (value,):
            assert type(item) in (bool, int, float, str, tuple, Loss, Optimizer, Target)
    assert config.settings()


@given(value=anything, text=items)
def test_objects_refuse_what_is_not_theirs(value, text):
    pairs: Any = {"b1": text}
    for make in (
        lambda: Loss(value), lambda: Loss(2, value), lambda: Target(value),
        lambda: Initialiser(value), lambda: Initialiser(std=value), lambda: Optimizer(value),
        lambda: Optimizer("adam", value), lambda: Optimizer("adam", (("b1", value),)),
        lambda: Optimizer("adam", ((value, 0.5),)), lambda: Optimizer("adam", pairs),
        lambda: Preparation(value), lambda: Preparation(held_out_fraction=value),
        lambda: Preparation(split_seed=value),
    ):  # fmt: skip
        with contextlib.suppress(UserError):
            hash(make())


def test_preparations_are_read():
    assert Preparation("center", "0.25", "3") == Preparation("center", 0.25, 3)  # pyright: ignore
    data = linear.gas_like(num_rows=140)
    a = linear.make_problem(data, held_out_fraction=np.float32(0.25), split_seed=np.int64(3))  # pyright: ignore
    b = linear.make_problem(data, held_out_fraction=0.25, split_seed=3)
    assert a.fingerprint == b.fingerprint
    assert len(a.features) == 105


def test_one_network_takes_the_same_spellings():
    layers = linear.Layers((np.full((1, 2), 0.1),))
    options: dict[str, Any] = {"num_steps": 5, "precision": "float64"}
    plain = linear.train(
        PROBLEM, layers, learning_rates=(0.01, 1.0), loss=Loss(4), optimizer=Optimizer("momentum"),
        target=Target(0.5, relative=True), weight_decay=1.0, **options,
    )  # fmt: skip
    for rates in ("0.01,1", [0.01, 1], np.array([0.01, 1.0])):
        same = linear.train(
            PROBLEM, layers, learning_rates=rates, loss="l4", optimizer="momentum", target="50%",
            weight_decay=1, **options,
        )  # fmt: skip
        np.testing.assert_array_equal(same.loss, plain.loss)
        np.testing.assert_array_equal(same.steps_to_target, plain.steps_to_target)
    for changes in ({"loss": "x"}, {"loss": 4}, {"optimizer": None}, {"target": "2"[:0]},
                    {"learning_rates": 0}, {"weight_decay": "x"}):  # fmt: skip
        given: dict[str, Any] = {"learning_rates": 0.1} | options | changes
        with pytest.raises(UserError):
            linear.train(PROBLEM, layers, **given)


def test_an_optimum_takes_a_loss_s_name():
    X, Y = PROBLEM.features, PROBLEM.targets
    assert linear.optimum("l4", X, Y).loss == linear.optimum(Loss(4), X, Y).loss
    with pytest.raises(UserError, match="loss 'four'"):
        linear.optimum("four", X, Y)


RUN = SweepConfig(depths=1, losses="l2", learning_rates="0.01,0.02", num_seeds=4, num_steps=3)  # pyright: ignore


@pytest.mark.parametrize("limit", ["4GiB", "1 MiB", 2**30, 1e9, np.int64(2**30), 1, "1"])
def test_memory_limits_of_a_run(limit):
    results = linear.run_sweep(PROBLEM, RUN, memory_limit=limit)
    timing = results.ia.timing
    free = linear.run_sweep(PROBLEM, RUN)
    unlimited = free.ia.timing
    assert results.identical(free)
    assert timing.num_chunks == unlimited.num_chunks


@pytest.mark.parametrize(
    "limit",
    [0, -1, 0.5, math.nan, math.inf, "x", "", "0", "nan", "4TiB", True, [2**30], {}, b"4GiB"],
)
def test_bad_memory_limits_are_refused_before_training(limit):
    with pytest.raises(UserError, match=r"^memory_limit: .*(4GiB|at least one byte)"):
        linear.run_sweep(PROBLEM, RUN, memory_limit=limit)


@pytest.mark.parametrize("seconds", [math.nan, -1, -1e-9, "x", "nan", None, True, [60], 1j])
def test_bad_checkpoint_intervals_are_refused_before_training(tmp_path, seconds):
    for folder in (None, tmp_path / "run"):
        with pytest.raises(UserError, match=r"^checkpoint_every"):
            linear.run_sweep(PROBLEM, RUN, folder=folder, checkpoint_every=seconds)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seconds", [0, 0.0, "60", np.float32(1), math.inf, 10**400])
def test_checkpoint_intervals(tmp_path, seconds):
    results = linear.run_sweep(PROBLEM, RUN, folder=tmp_path / "run", checkpoint_every=seconds)
    free = linear.run_sweep(PROBLEM, RUN)
    np.testing.assert_array_equal(results["loss"], free["loss"])


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


def test_optimizers_with_other_settings_are_other_models():
    config = SweepConfig(
        depths=(1,), losses=(Loss(2),),
        optimizers=(Optimizer("momentum"), Optimizer("momentum", (("momentum", 0.5),))),
    )  # fmt: skip
    assert len(config.models) == 2
