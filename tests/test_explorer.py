"""What a page is given of results: read back by a decoder of its own, held against the results."""

import base64
import itertools
import json
import re
import zlib

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from test_statistics import general, some_axes

from implicit_accel import UserError, summarise
from implicit_accel.errors import DataError
from implicit_accel.linear.observables import effective_rate, has_effective_rate
from implicit_accel.pages import shell
from implicit_accel.pages.explorer import (
    Published,
    assets,
    explorer,
    payload,
    read_asset,
)
from implicit_accel.results import by_model, trained
from implicit_accel.statistics import BEST_BY_WORDS

INF, NAN = np.inf, np.nan
BURST = 137  # a step, and how high runs jump there
HEIGHT = 40.0


def decaying(
    *, depths=(1, 2, 3), rates=(0.01, 0.02, 0.05, 0.1, 0.3), seeds=7, num_steps=400, title="made"
) -> xr.Dataset:
    """A sweep's results: excess losses decay by their rates; at the last one, runs diverge."""
    rng = np.random.default_rng(3)
    # As sweeps record: every step at first, then ever fewer.
    step = np.unique([*range(60), *range(60, num_steps, 3), num_steps, BURST])
    shape = (len(depths), len(rates), seeds)
    speed = np.array(rates)[None, :, None] * rng.lognormal(0, 0.2, shape)
    speed = speed / np.array(depths, float)[:, None, None] ** 0.5
    excess = np.exp(-speed[..., None] * step)
    excess[:, 2:3][..., step == BURST] = HEIGHT
    diverged = np.full(shape, NAN)
    diverged[:, -1] = 4.0
    excess[:, -1][..., step >= 4] = INF
    target = np.full(len(depths), 0.1)
    every = np.arange(num_steps + 1)
    exact = np.exp(-speed[..., None] * every) <= target[:, None, None, None]
    steps = np.where(exact.any(-1), exact.argmax(-1), INF).astype(float)
    steps[:, -1] = INF
    runs = ("model", "learning_rate", "seed")
    M = len(depths)
    return xr.Dataset(
        {
            "loss": ((*runs, "step"), excess + 1),
            "excess_loss": ((*runs, "step"), excess),
            "steps_to_target": (runs, steps),
            "divergence_step": (runs, diverged),
            "optimum": ("model", np.ones(M)),
            "zero_loss": ("model", np.full(M, 3.0)),
            "target": ("model", target),
            "resolution": ("model", np.full(M, 1e-7)),
        },
        {
            "learning_rate": np.array(rates), "seed": np.arange(seeds), "step": step,
            "loss_name": ("model", ["l2"] * M), "depth": ("model", list(depths)),
            "hidden_widths": ("model", ["-" if d == 1 else "1" for d in depths]),
            "init": ("model", ["near_zero"] * M), "init_std": ("model", [0.01] * M),
            "optimizer": ("model", ["sgd"] * M), "weight_decay": ("model", [0.0] * M),
        },
        {"num_steps": num_steps, "title": title, "precision": "float32"},
    )  # fmt: skip


def whole(packed) -> np.ndarray:
    """Whole numbers from their text."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8)
    folded = raw.reshape(4, -1).T.copy().view("<u4").ravel().astype(np.int64)
    change = np.where(folded % 2, -(folded + 1) // 2, folded // 2)
    return change.reshape(packed["shape"]).cumsum(axis=-1)


def floats(packed) -> np.ndarray:
    return whole(packed).astype("<u4").view("<f4")


def curves(quantity, name: str) -> np.ndarray:
    """Values from their places on a logarithmic scale; NaN for none."""
    code = whole(quantity[name]).astype(float)
    assert quantity["log"]
    return np.where(code == 0, NAN, quantity["low"] * np.exp((code - 1) * quantity["step"]))


def passages(found) -> np.ndarray:
    """(pair, part, target) steps."""
    code = whole(found["targets"]["steps"]).astype(float)
    return np.where(code == 0, INF, (code - 1) / 2)


def test_steps_to_the_own_target_are_those_of_every_step():
    results = decaying()
    found = payload(results)
    first = found["targets"]["first"]
    assert found["targets"]["factors"][first] == 1
    expected = results["steps_to_target"].values.reshape(-1, results.sizes["seed"])
    got = passages(found)[..., first]
    np.testing.assert_array_equal(got[:, 1], np.median(expected, axis=1))
    # With seven seeds the quartiles are the second and the sixth.
    np.testing.assert_array_equal(got[:, [0, 2]], np.sort(expected, axis=1)[:, [1, 5]])


def test_steps_to_other_targets_are_the_first_recorded_ones():
    results = decaying()
    found = payload(results, best_by="target")
    got, step = passages(found)[:, 1], results["step"].values
    factors = found["targets"]["factors"]
    assert len(factors) == 25
    assert all(a > b for a, b in itertools.pairwise(factors))
    excess = results["excess_loss"].values.reshape(-1, results.sizes["seed"], len(step))
    for t, factor in enumerate(factors):
        if t == found["targets"]["first"]:
            continue
        for pair in range(len(excess)):
            first = [
                next((float(s) for s, e in zip(step, run, strict=True) if e <= factor * 0.1), INF)
                for run in excess[pair]
            ]
            assert got[pair, t] == np.median(first)


def test_speed_ups_are_the_table_s():
    results = decaying()
    found, table = payload(results), summarise(results)
    first = found["targets"]["first"]
    got = floats(found["targets"]["speed_up"])[..., first]
    columns = ["speed_up", "speed_up_low", "speed_up_high"]
    np.testing.assert_allclose(got[1:], table[columns].to_numpy(float)[1:], rtol=1e-6)
    assert np.isnan(got[0]).all()  # the baseline itself
    best = whole(found["targets"]["best"])[:, first] - 1
    rates = np.array(found["rates"])[best]
    np.testing.assert_allclose(rates, table["best_learning_rate"])
    assert found["interval"] == "95 %"
    assert payload(decaying(seeds=3))["interval"] == "range over seeds"


def test_rates_chosen_by_the_final_loss_are_compared_as_they_are():
    """Rate 0.1 ends lowest in every model: its median steps, one over the other."""
    found = payload(decaying(), best_by="final")
    first = found["targets"]["first"]
    best = whole(found["targets"]["best"])[:, first] - 1
    steps = decaying()["steps_to_target"].values
    middle = [np.median(steps[m, b]) for m, b in enumerate(best)]
    got = floats(found["targets"]["speed_up"])[..., first]
    np.testing.assert_allclose(got[1:, 0], middle[0] / np.array(middle[1:]), rtol=1e-6)
    assert (got[1:, 1] <= got[1:, 0]).all()
    assert (got[1:, 0] <= got[1:, 2]).all()


def test_the_page_names_rules_as_tables_do():
    script = read_asset("explorer.js")
    (listed,) = re.findall(r"const BEST_BY_WORDS = \{(.*?)\};", script, re.DOTALL)
    assert dict(re.findall(r'(\w+): "(.*?)"', listed)) == BEST_BY_WORDS


@pytest.mark.parametrize("budget", [5_000, 5_600, 1_000_000])
def test_curves_keep_every_burst_whatever_is_thinned(budget):
    results = decaying()
    found = payload(results, budget=budget)
    assert len(json.dumps(found)) <= budget
    quantity = found["quantities"][0]
    spread = curves(quantity, "spread")
    excess = results["excess_loss"].values
    middle = np.median(excess, axis=2).reshape(-1, results.sizes["step"])
    for pair, record in enumerate(middle):
        finite = record[np.isfinite(record)]
        drawn = spread[1, pair]
        for extreme in (np.min, np.max):
            lowest = max(extreme(finite), 1e-7)
            assert extreme(drawn[~np.isnan(drawn)]) == pytest.approx(lowest, rel=0.003)
        # The line of runs that diverge ends; that of others does not.
        assert np.isnan(drawn).any() == np.isinf(record).any()
    kept = quantity["steps"]
    assert kept[0] == 0
    assert kept[-1] == 400
    if budget == 1_000_000:
        assert kept == results["step"].values.tolist()
        np.testing.assert_allclose(
            spread[1][~np.isnan(spread[1])], middle[np.isfinite(middle)].clip(1e-7), rtol=0.003
        )
    else:
        assert len(kept) < results.sizes["step"]


def test_a_payload_can_be_stored():
    found = payload(decaying(), published=[Published("Somebody", [0, 1, 10], [1.0, 0.5, NAN])])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    # Only what has a place on logarithmic axes.
    assert found["published"] == [{"name": "Somebody", "steps": [1.0], "losses": [0.5]}]


def test_only_rates_at_which_a_model_was_trained_are_there():
    results = decaying()
    excess = results["excess_loss"].values.copy()
    excess[1, 3] = NAN
    steps = results["steps_to_target"].values.copy()
    steps[1, 3] = INF
    results["excess_loss"].values[:] = excess
    results["steps_to_target"].values[:] = steps
    found = payload(results)
    assert [m["rates"] for m in found["models"]] == [[0, 1, 2, 3, 4], [0, 1, 2, 4], [0, 1, 2, 3, 4]]
    assert whole(found["diverged"]).tolist() == [0, 0, 0, 0, 7, 0, 0, 0, 7, 0, 0, 0, 0, 7]


def test_predictions_are_beside_the_curves():
    def predicted(m, rate, steps):
        return np.where(steps < 100, np.exp(-rate * steps) / (m + 1), NAN)

    quantity = payload(decaying(), predicted=predicted)["quantities"][0]
    got, steps = curves(quantity, "predicted"), np.array(quantity["steps"])
    np.testing.assert_allclose(got[0], predicted(0, 0.01, steps), rtol=0.003)
    np.testing.assert_allclose(got[6], predicted(1, 0.02, steps), rtol=0.003)


def test_further_rules_are_as_if_each_were_the_page_s_own():
    results = decaying(depths=(1, 2), rates=(0.02, 0.05, 0.3), seeds=2, num_steps=150)
    found = payload(results, others=("target", "final"), budget=10**9)
    assert set(found["others"]) == {"target", "final"}
    for rule, part in found["others"].items():
        alone = payload(results, best_by=rule, budget=10**9)
        assert "others" not in alone
        assert part == {name: alone[name] for name in ("interval", "lost", "targets", "summary")}
    # Where nothing fits, the page's own rule is what stays.
    least = payload(results, others=("target", "final"), budget=1)
    assert "others" not in least
    assert least["summary"] == found["summary"]


def test_effective_rates_are_those_of_the_end_to_end_rule():
    """By loops over runs and steps; only deep linear networks that gradient descent trains."""
    results = decaying(rates=(0.02, 0.05, 0.3), seeds=1, num_steps=150)
    shape = (3, 3, 1, 4)
    norm = np.random.default_rng(0).uniform(0.01, 2, shape)
    dims = ("model", "learning_rate", "seed", "observation_step")
    recorded = results.assign(end_to_end_norm=(dims, norm)).assign_coords(
        observation_step=[0, 1, 10, 150]
    )
    got = effective_rate(recorded).transpose(*dims).values
    for m, r, s, t in itertools.product(*map(range, shape)):
        expected = results["learning_rate"].values[r] * norm[m, r, s, t] ** (2 - 2 / (m + 1))
        assert got[m, r, s, t] == pytest.approx(expected)
    names = [q["name"] for q in payload(recorded)["quantities"]]
    assert names == ["excess_loss", "end_to_end_norm", "effective_learning_rate"]
    adam = recorded.assign_coords(optimizer=("model", ["sgd", "sgd", "adam"]))
    for other in (adam, recorded.assign_attrs(activation="relu"), recorded.isel(model=[0]),
                  recorded.assign_attrs(num_outputs=3)):  # fmt: skip
        assert not has_effective_rate(other)


@given(axes=some_axes(), seed=st.integers(0, 99), observed=st.booleans())
def test_results_of_any_axes_can_be_explored(axes, seed, observed):
    runs = general(axes, seed=seed, observed=observed)
    found = payload(runs)
    json.dumps(found, allow_nan=False)
    models = by_model(runs)
    assert [m["label"] for m in found["models"]] == summarise(runs)["model"].tolist()
    assert (found["rates"] is None) == ("learning_rate" not in axes)
    assert sum(len(m["rates"]) for m in found["models"]) == trained(models).sum()
    assert [q["name"] for q in found["quantities"]] == ["excess_loss", *["sharpness"] * observed]
    for axis in found["axes"]:
        assert len(axis["of"]) == models.sizes["model"]
        assert len(axis["values"]) > 1


@pytest.mark.parametrize("worst", ["all diverge", "no target", "zero excess", "one run"])
def test_extreme_results_can_be_explored(worst):
    results = decaying(seeds=1, depths=(1,), rates=(0.1,)) if worst == "one run" else decaying()
    if worst == "all diverge":
        results["excess_loss"].values[..., 1:] = INF
        results["steps_to_target"].values[:] = INF
        results["divergence_step"].values[:] = 1
    if worst == "no target":
        results["target"].values[:] = 0
        results["steps_to_target"].values[:] = INF
    if worst == "zero excess":
        results["excess_loss"].values[:] = 0
        results["resolution"].values[:] = 0
    found = payload(results)
    json.dumps(found, allow_nan=False)
    assert found["targets"]["own"] == (worst != "no target")
    assert explorer("x", {"one": found})


def test_what_cannot_be_explored_is_said():
    found = payload(decaying())
    with pytest.raises(DataError, match="no excess_loss"):
        payload(decaying().drop_vars("excess_loss"))
    with pytest.raises(UserError, match="key is made of letters"):
        explorer("a b", {"one": found})
    with pytest.raises(UserError, match="give one payload"):
        explorer("a", {})


def test_names_end_no_element():
    name = "</script><img src=x onerror=alert(1)>"
    part = explorer("T1", {name: payload(decaying(title=name))}, command="a & b <c>")
    data = part.split('<script type="application/json">')[1].split("</script>")[0]
    assert json.loads(data)["results"][0][0] == name
    assert json.loads(data)["command"] == "a & b <c>"
    assert "<img" not in part
    assert "&lt;/script&gt;" in part  # in the table for readers without JavaScript
    assert "<img" not in shell.document(name, "")


def test_assets_are_whole():
    text = assets()
    assert text.count("<script>") == text.count("</script>") == 4
    assert "vegaEmbed" in text
    assert 600_000 < len(text) < 1_200_000
