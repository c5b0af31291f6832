"""The authors' figures, and the problems that one of them may show."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples
from matplotlib.figure import Figure
from test_reproduction import context  # noqa: F401 - a fixture

from implicit_accel import DataError, Optimizer, UserError
from implicit_accel.claims.collection import with_text
from implicit_accel.claims.evaluate import evaluate
from implicit_accel.claims.published import figure_search, p8
from implicit_accel.claims.published.authors import (
    FIGURES,
    authors_curves,
    distance,
    draw_authors,
)
from implicit_accel.claims.published.figure_search import (
    BATCH_ROWS,
    FEATURES,
    FRAME_TOP,
    NORMALISATIONS,
    PAPER_RATES,
    Candidate,
    at_rates,
    choices_of_rows,
    fit_scales,
    flow_of,
    least_loss,
    near,
    nearest_table,
    range_of,
    rescaled,
    resolved,
    rows_of,
    scale_features,
    scale_labels,
    zero_loss,
)
from implicit_accel.claims.published.stiff import Flow, follow_l4
from implicit_accel.linear import Dataset, Layers, Loss, Problem, Target, gas_like, load_gas
from implicit_accel.linear.initialisers import Initialiser
from implicit_accel.linear.losses import optimum
from implicit_accel.linear.sweep import train

HEADER = "figure,curve,iteration,loss,loss_low,loss_high\n"


def curve_of(iterations, losses) -> pd.DataFrame:
    return pd.DataFrame({"iteration": iterations, "loss": losses})


def positive(rng, n=60, d=5) -> Dataset:
    """Rows whose features and labels are above 0, as the measured ones' labels are."""
    X = np.exp(rng.standard_normal((n, d)))
    y = np.exp(X @ rng.standard_normal(d) / 4)[:, None]
    names = tuple(f"x{i}" for i in range(d))
    return Dataset("made", X, y, names, ("y",), "made", "made")


def least_of(problem: Problem) -> float:
    return least_loss(problem, range_of(problem.features))


def test_the_figures_are_there_with_their_misreadings_left_out():
    sizes = {f: [len(c) for c in authors_curves(f).values()] for f in FIGURES}
    assert sizes == {"l4_ethanol": [63, 81, 79, 81], "mnist_cnn": [75, 77]}
    curves = authors_curves("l4_ethanol")
    last = {name: curve["loss"].iloc[-1] for name, curve in curves.items()}
    assert last["gradient_descent_depth_2"] == pytest.approx(0.0081, abs=1e-4)
    assert last["gradient_descent_depth_1"] == pytest.approx(0.0595, abs=1e-4)
    for curve in curves.values():
        low, loss, high = curve[["loss_low", "loss", "loss_high"]].to_numpy().T
        assert np.all(loss < 1.02 * np.minimum.accumulate(loss))
        assert np.all((low <= loss) & (loss <= high))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a table"),
        ("figure,curve,iteration\na,b,1\n", "no column loss, loss_low, loss_high"),
        (HEADER + "l4_ethanol,adagrad_depth_1,1,zero,1,1\n", "loss of reading 1 is 'zero'"),
        (HEADER + "l4_ethanol,adagrad_depth_1,1,-1,1,1\n", "must be a number above 0"),
        (HEADER + "l4_ethanol,adagrad_depth_1,1,1,1,1\n", "no readings of figure l4_ethanol"),
        (
            HEADER + 2 * "l4_ethanol,gradient_descent_depth_1,5,1,1,1\n",
            "gradient_descent_depth_1 do not increase",
        ),
    ],
)
def test_a_bad_file_is_said_to_be_one(tmp_path, text, message):
    path = tmp_path / "curves.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        authors_curves("l4_ethanol", path=path)


def test_a_missing_file_and_an_unknown_figure(tmp_path):
    with pytest.raises(DataError, match="not a table"):
        authors_curves("l4_ethanol", path=tmp_path / "none.csv")
    with pytest.raises(UserError, match="choose from l4_ethanol, mnist_cnn"):
        authors_curves("l2")


def test_a_distance_by_hand():
    steps = np.array([0, 1, 10, 100, 1000])
    losses = np.array([9.0, 8.0, 4.0, 2.0, 1.0])
    curve = curve_of([10, 100, 10_000], [2.0, 4.0, 1.0])
    # A factor of two above, one below; the last iteration is not covered.
    assert distance(steps, losses, curve) == pytest.approx(math.log10(2))
    # Half-way between two records on logarithmic axes lies their geometric mean.
    between = curve_of([math.sqrt(1000)], [math.sqrt(8)])
    assert distance(steps, losses, between) == pytest.approx(0, abs=1e-12)
    three = curve_of([10, 100, 1000], [4.0, 2.0, 10.0])
    assert distance(steps, losses, three) == pytest.approx(math.sqrt(1 / 3))


def test_distances_of_what_diverges_and_of_what_is_not_covered():
    steps = np.array([0, 1, 10, 100])
    diverging = np.array([1.0, 1.0, 1.0, np.inf])
    assert distance(steps, diverging, curve_of([1, 10], [1.0, 1.0])) == 0
    assert distance(steps, diverging, curve_of([1, 11], [1.0, 1.0])) == np.inf
    assert math.isnan(distance(steps, np.ones(4), curve_of([101], [1.0])))
    assert math.isnan(distance(np.zeros(1), np.ones(1), curve_of([1], [1.0])))


@given(st.floats(1e-3, 1e3), st.floats(0.1, 10))
def test_a_distance_knows_factors(factor, power):
    steps = np.geomspace(1, 1e6, 200)
    losses = 5 * steps**-power
    curve = curve_of(steps[20:180:7], losses[20:180:7] * factor)
    assert distance(steps, losses, curve) == pytest.approx(abs(math.log10(factor)), abs=1e-9)


def test_the_authors_curves_are_drawn_and_named():
    ax = Figure().subplots()
    draw_authors(ax, "l4_ethanol")
    assert len(ax.lines) == 4
    assert {text.get_text() for text in ax.texts} == set(FIGURES["l4_ethanol"].values())
    assert ax.get_xscale() == ax.get_yscale() == "log"
    draw_authors(ax := Figure().subplots(), "mnist_cnn", log_steps=False)
    assert ax.get_xscale() == "linear"


def test_rows_are_those_of_the_batches(rng):
    data = gas_like()
    ends = np.cumsum(BATCH_ROWS)
    assert ends[-1] == 2565 == len(rows_of("batches 1-10", data))
    assert rows_of("batches 2-3", data).tolist() == list(range(90, ends[2]))
    assert rows_of("first 7", data).tolist() == list(range(7))
    drawn = rows_of("random 300, seed 1", data)
    assert len(set(drawn)) == 300
    assert (np.diff(drawn) > 0).all()
    assert set(drawn) != set(rows_of("random 300, seed 2", data))
    # Of other data batches are shares.
    assert len(rows_of("batches 1-10", positive(rng))) == 60


def test_every_range_of_batches_and_each_draw_is_a_choice():
    rows = choices_of_rows((300, 500), (300, 400, 500), seeds=2)
    assert len(set(rows)) == len(rows) == 55 + 2 + 6
    assert {"batches 1-1", "batches 3-7", "first 500", "random 400, seed 1"} <= set(rows)
    assert "batches 7-3" not in rows


def test_candidates_that_the_data_do_not_allow(rng):
    data = positive(rng)
    with pytest.raises(DataError, match="the data have 60"):
        Candidate("first 61").problem(data)
    with pytest.raises(DataError, match="labels are constant"):
        scale_labels("standardised", np.ones(3))
    with pytest.raises(DataError, match="no logarithms"):
        scale_labels("standardised logarithms", np.array([1.0, 0.0]))


def test_scalings_are_what_they_say(rng):
    X = positive(rng).features.copy()
    X[:, 0] = 3.0  # does not vary
    found = {name: scale_features(name, X) for name in FEATURES}
    assert all(np.isfinite(f).all() for f in found.values())
    assert np.allclose(found["centred"].mean(axis=0), 0)
    assert np.allclose(found["standardised"].std(axis=0), [0, 1, 1, 1, 1])
    assert np.allclose(np.linalg.norm(found["unit rows"], axis=1), 1)
    assert np.allclose(np.linalg.norm(found["unit rows of [0, 1]"], axis=1), 1)
    assert np.allclose(np.ptp(found["[0, 1]"], axis=0), [0, 1, 1, 1, 1])
    assert np.allclose(found["[-1, 1]"].min(axis=0), -1)
    assert np.allclose(found["largest 1"].max(axis=0), 1)
    white = found["whitened"]
    assert np.allclose(white.T @ white / len(X), np.eye(4))
    assert found["raw, and a constant"][:, -1].tolist() == [1.0] * len(X)
    y = positive(rng).targets[:, 0]
    assert scale_labels("standardised", y).std() == pytest.approx(1)
    assert scale_labels("[0, 1]", y).max() == 1
    assert np.allclose(scale_labels("logarithms", y), np.log(y))


def test_features_of_one_span_have_one_optimum(rng):
    data = positive(rng)
    for span in set(FEATURES.values()):
        names = [name for name, own in FEATURES.items() if own == span]
        found = [least_of(Candidate("first 60", name).problem(data)) for name in names]
        assert np.allclose(found, found[0], rtol=1e-6), span


@settings(max_examples=examples(6))
@given(st.sampled_from([*NORMALISATIONS]), st.sampled_from(["adagrad", "adadelta", "sgd"]))
def test_a_constant_before_the_loss_is_scales_of_features_and_labels(normalisation, name):
    """The training of a sum, by hand, against that of the candidate's problem."""
    data = positive(np.random.default_rng(1), n=12, d=2)
    problem = Candidate("first 12", "[0, 1]", "[0, 1]", normalisation).problem(data)
    layers = Layers((np.array([[0.01, -0.02]]),))
    found = train(
        problem, layers, learning_rates=[1e-3], num_steps=20, loss=Loss(4),
        optimizer=Optimizer(name), precision="float64", target=Target(1e-9),
    )  # fmt: skip
    X, y = scale_features("[0, 1]", data.features), scale_labels("[0, 1]", data.targets[:, 0])
    how = np.sum if "sum" in normalisation else np.mean
    share = 4 if "/ 4" in normalisation else 1
    transformation = Optimizer(name).build(1e-3)
    with jax.enable_x64(True):
        w = jnp.array([0.01, -0.02])
        state = transformation.init(w)
        for step in range(20):
            r = np.asarray(X @ np.asarray(w) - y)
            assert found.loss[0, step] == pytest.approx(how(r**4) / share, rel=1e-6)
            gradient = 4 / share * how(X * (r**3)[:, None], axis=0)
            update, state = transformation.update(jnp.asarray(gradient), state, w)
            w = jnp.asarray(optax.apply_updates(w, update))


@settings(max_examples=examples(6))
@given(st.floats(0.05, 50), st.floats(0.05, 50))
def test_scales_move_one_layers_flow_exactly(features, labels):
    data = positive(np.random.default_rng(2))
    base = Candidate("first 60", "standardised").problem(data)
    scaled = Problem.from_arrays(base.features * features, base.targets * labels)
    start = Layers((np.zeros((1, 5)),))
    flow = follow_l4(base, start, most=1e3, lowest=1e-9)
    own = follow_l4(scaled, start, most=1e3, lowest=1e-9 * labels**4)
    moved = rescaled(flow, features=features, labels=labels)
    assert own.sharpness == pytest.approx(moved.sharpness, rel=1e-6)
    assert np.allclose(own.time, moved.time, rtol=1e-6)
    assert np.allclose(own.loss, moved.loss, rtol=1e-3)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_flow_is_gradient_descents_at_small_rates(rng, depth):
    problem = Candidate("first 60", "standardised").problem(positive(rng))
    hidden = (1,) * (depth - 1)
    layers = Initialiser("near_zero", 0.01).draw(5, hidden, 1, bias=False, seed=0)
    flow = follow_l4(problem, layers, most=1e4, lowest=1e-9)
    rate = 0.01 / flow.sharpness
    run = train(
        problem, layers, learning_rates=[rate], num_steps=30_000, loss=Loss(4),
        precision="float64", target=Target(1e-9),
    )  # fmt: skip
    steps = np.arange(30_001)
    some = np.unique(np.geomspace(100, 30_000, 40).astype(int))
    curve = curve_of(steps[some], run.loss[0, some])
    assert distance(flow.time / rate, flow.loss, curve) < 0.01


def test_flows_of_other_networks_are_refused(rng):
    problem = Candidate("first 60").problem(positive(rng))
    for shapes in ([(1, 4)], [(2, 5), (1, 2)], [(1, 5), (1, 1), (1, 1)]):
        layers = Layers(tuple(np.zeros(shape) for shape in shapes))
        with pytest.raises(UserError, match="it and a scalar"):
            follow_l4(problem, layers, most=10, lowest=0.1)


def test_planted_scales_are_found(rng):
    problem = Candidate("first 60", "standardised").problem(positive(rng))
    zero = zero_loss(problem)
    problem = Problem.from_arrays(problem.features, problem.targets * (FRAME_TOP / zero) ** 0.25)
    flows = {depth: flow_of(problem, depth) for depth in (1, 2)}
    rates = {depth: 0.01 / flow.sharpness for depth, flow in flows.items()}
    curves = {}
    for depth, flow in flows.items():
        steps = flow.time / rates[depth]
        iterations = np.geomspace(2 * steps[0], steps[-1] / 2, 50)
        losses = np.exp(np.interp(np.log(iterations), np.log(steps), np.log(flow.loss)))
        curves[depth] = curve_of(iterations, 8.0 / FRAME_TOP * losses)
    fit = fit_scales(flows, FRAME_TOP, curves)
    assert fit["amplitude"] == pytest.approx(8.0, rel=0.02)
    assert fit["free"] < 0.01
    for depth in (1, 2):
        assert fit[f"rate {depth}"] == pytest.approx(rates[depth], rel=0.05)
    late = {
        depth: curve_of(curve["iteration"] * 1e9, curve["loss"]) for depth, curve in curves.items()
    }
    short = {depth: Flow(flow.time[:1], flow.loss[:1], np.inf) for depth, flow in flows.items()}
    assert fit_scales(short, FRAME_TOP, late) == {}


def test_rates_past_the_edge_are_not_looked_at():
    time = np.geomspace(1e-5, 1e8, 400)
    curve = curve_of([1e3, 1e4, 1e5], [1e-3, 1e-4, 1e-5])
    flow = Flow(time, 0.1 / time, sharpness=1.0)  # at rate 0.1 the curve itself
    assert at_rates(flow, curve) == (pytest.approx(0, abs=1e-6), 0.1)
    sharp = Flow(time, 0.1 / time, sharpness=25.0)
    assert at_rates(sharp, curve) == (pytest.approx(math.log10(2), abs=1e-6), 5e-2)
    assert at_rates(Flow(time, 0.1 / time, sharpness=1e9), curve)[0] == np.inf
    assert len(PAPER_RATES) == 10


def test_neighbours_of_the_papers_rates():
    assert near(1e-5) == (1e-5, 5e-5)
    assert near(1e-3) == (5e-4, 1e-3, 5e-3)
    assert near(math.nan) == PAPER_RATES


def test_problems_with_an_optimum_beyond_float64_are_passed_over(rng, monkeypatch):
    data = positive(rng)

    def refuse_few_rows(loss, X, Y):
        if len(X) < 20:
            raise UserError("beyond float64")
        return optimum(loss, X, Y)

    monkeypatch.setattr(figure_search, "optimum", refuse_few_rows)
    table = pd.DataFrame({"rows": ["first 9", "first 60", "first 8"]})
    found = list(resolved(table, lambda row: Candidate(row["rows"]).problem(data)))
    assert [(row["rows"], len(problem.features)) for row, problem in found] == [("first 60", 60)]


def test_a_table_for_reading_has_the_nearest_twenty():
    many = pd.DataFrame({"rows": "first 9", "free": np.arange(30.0)[::-1]})
    assert nearest_table(many, "free")["distance (decades)"].tolist() == list(range(20))


@pytest.mark.nightly
def test_p8_runs_on_the_stand_in_and_counts_what_it_tried(context):  # noqa: F811
    claim = with_text(p8.CLAIM, Path(p8.__file__).parent)
    finding = evaluate(claim, context)
    assert len(finding.figures) == 2
    assert "12 problems" in finding.summary
    headline, *curves = finding.effects
    assert headline.value == max(effect.value for effect in curves[:4])
    made = len(context.trained)
    evaluate(claim, context)
    assert len(context.trained) == made  # nothing is made again


@pytest.fixture
def ethanol(data_dir) -> Dataset:
    return load_gas(data_dir=data_dir, url=None)


def test_the_standardised_problem_cannot_be_the_figure_s(ethanol):
    problem = Candidate("batches 1-10").problem(ethanol)
    assert least_of(problem) == pytest.approx(0.0553, abs=1e-4)
    assert zero_loss(problem) / least_of(problem) == pytest.approx(25, abs=0.5)
    raw = Candidate("batches 1-10", "raw", "raw").problem(ethanol)
    assert zero_loss(raw) / least_of(raw) == pytest.approx(31, abs=0.6)
    unit = Candidate("batches 1-10", "unit rows").problem(ethanol)
    assert zero_loss(unit) / least_of(unit) == pytest.approx(300, abs=2)


def test_batches_of_the_measured_rows_are_the_files_own(ethanol, data_dir):
    for batch in (1, 6, 10):
        own = load_gas(data_dir=data_dir, url=None, batches=(batch,))
        rows = rows_of(f"batches {batch}-{batch}", ethanol)
        assert np.array_equal(ethanol.features[rows], own.features)
