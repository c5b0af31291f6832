"""Claims in a folder of one's own: found, run, reported and exported like the project's."""

import json
import re

import jsonschema
import numpy as np
import pytest
from programs import expect_usage_error, run

from implicit_accel import UserError
from implicit_accel.claims import describe, effects, text
from implicit_accel.claims.api import Check, Claim, Context, Found, Key, Measure, Range, Scaled
from implicit_accel.claims.collection import load_collection
from implicit_accel.claims.context import Scale
from implicit_accel.claims.describe import where
from implicit_accel.claims.effects import Effect, label
from implicit_accel.claims.estimators import median
from implicit_accel.claims.evaluate import evaluate
from implicit_accel.claims.outcomes import SCHEMA

# A claim of another paper: heavy-ball momentum needs fewer steps on an ill-conditioned quadratic.
CLAIM = '''
"""A1: momentum on a quadratic."""

import jax.numpy as jnp
import numpy as np
import optax

import implicit_accel as ia
from implicit_accel.claims.api import Check, Claim, Context, Effect, Found, Measure
from implicit_accel.claims.estimators import compare, model_number

CURVATURES = jnp.array([1.0, 0.02])


def loss(params, batch):
    return 0.5 * jnp.sum(CURVATURES * params**2)


def run(context: Context) -> Found:
    task = ia.from_loss(
        loss, init=lambda key: jnp.ones(2), data=jnp.zeros((1, 1)), optimum=0.0, name="quadratic"
    )
    results = context.task(
        task,
        axes={"momentum": (0.0, 0.8), "learning_rate": np.geomspace(0.1, 3, 8), "seed": range(2)},
        optimizer=lambda hp: optax.sgd(hp["learning_rate"], momentum=hp["momentum"]),
        num_steps=context.pick(400, 2000, 2000), target=1e-4,
    )
    return Found(runs={"quadratic": results})


def speed_up(results, momentum: float) -> Effect:
    models = (model_number(results, momentum=m) for m in (momentum, 0.0))
    return compare(results, *models)


CLAIM = Claim(
    id="A1", statement="Momentum needs fewer steps.", source="Polyak 1964", run=run,
    measures=(Measure("speed-up", speed_up, {"momentum": (0.8,)}),),
    checks=(Check("speed-up", low=1.0),),
)
'''

TEXT = """
## What we saw

Momentum has a speed-up of {{ effect("speed-up", momentum=0.8) }} on {{ first }}.
"""


@pytest.fixture
def folder(tmp_path):
    mine = tmp_path / "mine"
    (mine / "text").mkdir(parents=True)
    (mine / "a1.py").write_text(CLAIM)
    (mine / "text" / "a1.md").write_text(TEXT)
    (mine / "helper.py").write_text("raise AssertionError('not a claim, not run')")
    return mine


def test_a_folder_of_claims_is_run_reported_and_exported(folder, tmp_path):
    output = tmp_path / "out"
    arguments = ["--claims_from", folder, "--scale", "standard", "--output_dir", output]
    result = run("reproduce", *arguments)
    assert result.returncode == 0, result.stderr
    report = (output / "REPORT.md").read_text()
    assert "# Claims in mine" in report
    assert "Momentum needs fewer steps." in report
    assert re.search(r"momentum 0\.0, 0\.8|momentum 0, 0\.8", report)  # what ran, generated
    assert "speed-up: above 1×" in report  # the criterion, generated
    assert "Arora" not in report
    outcomes = json.loads((output / "outcomes.json").read_text())
    jsonschema.validate(outcomes, SCHEMA)
    (claim,) = outcomes["claims"]
    (check,) = claim["checks"]
    assert check["effect"]["coordinates"] == {"problem": "quadratic", "momentum": 0.8}
    # Gradient descent contracts the flat direction by 1 − 0.02 η; with η < 2 that takes more than
    # log(…)/0.04 steps, momentum's rate is about sqrt(0.8) a step: at least twice as fast.
    assert check["effect"]["value"] > 2
    assert check["direction"] == "as claimed" or check["effect"]["confidence"] is None
    # A second call trains nothing: what ran is found by its content.
    again = run("reproduce", *arguments)
    assert again.returncode == 0
    assert json.loads((output / "outcomes.json").read_text()) == outcomes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.with_name("nowhere"), "no such folder of claims"),
        (lambda f: [(f / "a1.py").unlink(), f][1], "holds no claims"),
        (lambda f: [(f / "a1.py").write_text("1 / 0"), f][1], "cannot be run (ZeroDivisionError"),
        (
            lambda f: [
                (f / "a1.py").write_text(CLAIM.replace("compare(results", "compare(1 / 0")),
                f,
            ][1],
            "a1.py, line",
        ),
        (lambda f: [(f / "a1.py").write_text("x = 1"), f][1], "CLAIM must be the claim A1"),
        (
            lambda f: [(f / "text/a1.md").write_text("## What we saw\n{{ effect('no') }}"), f][1],
            "its text names 'no', which is not measured; there are speed-up",
        ),
        (
            lambda f: [
                (f / "text/a1.md").write_text("## Why\n{{ effect('speed-up', depth=2) }}"),
                f,
            ][1],
            "at depth; the measure's coordinates are momentum, problem",
        ),
        (lambda f: [(f / "text/a1.md").write_text("## Nonsense\nx"), f][1], "heading 'Nonsense'"),
        (lambda f: [(f / "text/a1.md").write_text("## Why\n{{ x }}"), f][1], "'x' is undefined"),
        (lambda f: [(f / "text/a1.md").write_text("## Why\n{{ 1 / 0 }}"), f][1], "division"),
        (
            lambda f: [(f / "text/a1.md").write_text("## Captions\n* speed_ups"), f][1],
            "the caption 'speed_ups' of its text names no figure",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_a_line(folder, tmp_path, change, message):
    where_it_is = change(folder)
    result = run("reproduce", "--claims_from", where_it_is, "--scale", "smoke",
                 "--output_dir", tmp_path / "out")  # fmt: skip
    expect_usage_error(result, message)


def test_a_text_runs_nothing(tmp_path):
    (tmp_path / "x").write_text("secret")
    hostile = "## Why\n{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(UserError, match="cannot be filled in"):
        text.render("A1", hostile, [], {})


# --- the interface ---


def claim(**changes) -> Claim:
    def run(_: Context) -> Found:
        seeds = np.arange(8.0)
        return Found(runs={"first": 3 + seeds / 10, "second": 0.5 + seeds / 100})

    def ratio(values, factor: int) -> Effect:
        return median(values * factor)

    settings = {
        "id": "A1", "statement": "s", "source": "s", "run": run,
        "measures": (Measure("ratio", ratio, {"factor": Scaled((1,), (1, 2), (1, 2, 3))}),),
        "checks": (Check("ratio", at={"factor": 1}, low=1.0, size=Range(low=10)),),
    }  # fmt: skip
    return Claim(**(settings | changes))


def context(tmp_path, scale=Scale.STANDARD) -> Context:
    return Context(scale, tmp_path / "A1", tmp_path, str(tmp_path))


def test_measures_and_checks_give_effects_and_parts_in_their_order(tmp_path):
    finding = evaluate(claim(), context(tmp_path))
    keys = [(dict(e.key.at)["problem"], dict(e.key.at)["factor"]) for e in finding.effects if e.key]
    assert keys == [("first", 1), ("first", 2), ("second", 1), ("second", 2)]
    assert [j.part.effect.value for j in finding.verdict.parts] == [
        pytest.approx(3.35), pytest.approx(0.535)
    ]  # fmt: skip
    assert [str(j.direction) for j in finding.verdict.parts] == ["as claimed", "opposite"]
    assert [str(j.size) for j in finding.verdict.parts] == ["smaller", "smaller"]
    few = evaluate(claim(), context(tmp_path, Scale.SMOKE))
    assert len(few.effects) == 2


def test_the_criterion_says_what_is_checked(tmp_path):
    words = evaluate(claim(), context(tmp_path)).criterion
    assert words.startswith("factor 1: ratio, each of 2 effects: above 1×; in size above 10×.")
    assert where(Range(1, 2, closed=True), "×") == "from 1 to 2×"
    assert where(Range(high=0.5), " %") == "below 0.5 %"
    assert where(Range(), "") == "any"


def test_names_are_for_readers_alone(tmp_path, monkeypatch):
    """With every label replaced by a random one the same effects are found and judged."""
    expected = evaluate(claim(), context(tmp_path))
    rng = np.random.default_rng(0)
    names = {}

    def renamed(key: Key) -> str:
        return names.setdefault(key, "".join(rng.choice(list("abcxyz ,:ℓ×"), 12)))

    monkeypatch.setattr(effects, "label", renamed)
    monkeypatch.setattr(describe, "label", renamed)
    found = evaluate(claim(), context(tmp_path))
    assert {e.name for e in found.effects} == {renamed(e.key) for e in found.effects if e.key}
    for a, b in zip(expected.effects, found.effects, strict=True):
        assert (a.key, a.value, a.low, a.high) == (b.key, b.value, b.low, b.high)
    assert [(j.direction, j.size) for j in expected.verdict.parts] == [
        (j.direction, j.size) for j in found.verdict.parts
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checks": (Check("another"),)}, "a check of 'another', which is not measured"),
        ({"run": lambda _: Found(effects=[Effect("bare", 1.0)])}, "keys of their own"),
        (
            {"measures": (Measure("m", lambda runs: median(runs)),) * 2, "checks": ()},
            "keys of their own",
        ),
    ],
)
def test_a_claim_that_does_not_fit_together_is_an_error(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        evaluate(claim(**changes), context(tmp_path))


def test_labels_are_words_of_the_coordinates():
    key = Key.of("speed-up", problem="Ethanol", p=4, depth=2, share=0.1, horizon=1000)
    assert label(key) == "Ethanol, ℓ4, depth 2, to 10 %, after 1,000 steps: speed-up"
    assert label(Key.of("speed-up")) == "speed-up"
    assert key.matches("speed-up", {"p": 4})
    assert not key.matches("speed-up", {"p": 2})
    assert not key.matches("gain", {"p": 4})


def test_every_claim_of_the_project_is_declared_in_full():
    for one in load_collection().claims:
        assert one.run is not None, one.id
        assert one.checks, one.id
        assert "## What we saw" in one.text, one.id
