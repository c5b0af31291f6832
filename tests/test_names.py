"""Names that collide with those of results and tables are refused, in one place."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import implicit_accel as ia
from implicit_accel.names import RESERVED, SUMMARY_COLUMNS, check_axis_names, check_recorded_names
from implicit_accel.results import QUANTITIES


def task(**options):
    return ia.from_loss(
        lambda params, batch: (jnp.sum((params["w"] - batch) ** 2), {"mine": params["w"]}),
        init=lambda key: {"w": jnp.ones(())}, data=np.ones(2), has_aux=True, **options,
    )  # fmt: skip


def train(axes=None, record=(), name="mine", **options):
    def loss(params, batch):
        return jnp.sum((params["w"] - batch) ** 2), {name: params["w"]}

    return ia.sweep(
        ia.from_loss(loss, init=lambda key: {"w": jnp.ones(())}, data=np.ones(2), has_aux=True),
        axes={"learning_rate": [0.1, 0.2], "seed": [0, 1]} | (axes or {}), record=record,
        optimizer=lambda hp: optax.sgd(hp["learning_rate"]), num_steps=2, **options,
    )  # fmt: skip


@pytest.mark.parametrize("best_by", ["target", "stable", "final"])
def test_every_column_of_a_summary_is_in_the_register(best_by):
    runs = train()
    summary = ia.summarise(runs, best_by=best_by)
    compared = ia.compare({"a": runs, "b": runs}, best_by=best_by)
    held_out = ia.summarise(runs.assign(held_out_loss=runs["loss"]), best_by=best_by)
    for table in (summary, compared, held_out):
        assert set(table.columns) <= set(SUMMARY_COLUMNS)


def test_every_variable_of_results_is_in_the_register():
    runs = train(record=("gradient_norm",), target=0.1)
    assert {*map(str, runs.variables)} - {"mine", "gradient_norm"} <= RESERVED
    rows = ia.to_tidy(runs)
    assert set(rows.columns) - {"mine", "final_mine"} <= RESERVED | {
        "final_loss", "final_excess_loss"
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_reserved_name_is_refused_wherever_it_is_given(name):
    with pytest.raises(ia.UserError, match=f"'{name}'.*give it another"):
        train(name=name)
    with pytest.raises(ia.UserError, match=f"record '{name}'|held_out_loss needs"):
        train(record={name: lambda point: point.step})
    if name not in ("learning_rate", "seed"):
        with pytest.raises(ia.UserError, match=f"axis '{name}'"):
            train(axes={name: [1.0, 2.0]})


def test_long_names_are_refused_before_training():
    for name in ("x" * 101, "ä" * 51):
        with pytest.raises(ia.UserError, match="at most 100 bytes"):
            train(record={name: lambda point: point.step})
        with pytest.raises(ia.UserError, match="at most 100 bytes"):
            train(axes={name: [1.0, 2.0]})
    assert "x" * 100 in train(record={"x" * 100: lambda point: point.step})


def test_names_of_axes_observables_and_auxiliary_values_do_not_meet():
    with pytest.raises(ia.UserError, match="record 'width': an axis or something else"):
        ia.sweep(
            task(), axes={"learning_rate": [0.1], "width": [1.0]}, num_steps=1,
            optimizer=lambda hp: optax.sgd(hp["learning_rate"] * hp["width"]),
            record={"width": lambda point: point.step},
        )  # fmt: skip
    with pytest.raises(ia.UserError, match="'mine': an axis or something else"):
        train(record={"mine": lambda point: point.step})
    with pytest.raises(ia.UserError, match="'mine': an axis or something else"):
        ia.sweep(
            task(), axes={"learning_rate": [0.1], "mine": [1.0]}, num_steps=1,
            optimizer=lambda hp: optax.sgd(hp["learning_rate"] * hp["mine"]),
        )  # fmt: skip


@settings(deadline=None)
@given(st.one_of(st.text(), st.integers(), st.none(), st.sampled_from(sorted(QUANTITIES))))
def test_any_name_is_allowed_or_refused_in_a_line(name):
    for check in (check_axis_names, lambda names: check_recorded_names("record", names, ())):
        is_free = isinstance(name, str) and name.isidentifier() and name not in RESERVED
        if is_free or (check is check_axis_names and name in ("learning_rate", "seed")):
            check([name])
        else:
            with pytest.raises(ia.UserError, match=r"give it another|must be a name"):
                check([name])


@pytest.mark.parametrize("space", [ia.linear, ia.images], ids=["linear", "images"])
def test_former_names_warn_and_say_where_they_are_now(space):
    for name in space.__all__:
        assert name not in ia.__all__
        with pytest.warns(
            DeprecationWarning, match=rf"implicit_accel\.{name} is now {space.__name__}"
        ):
            assert getattr(ia, name) is getattr(space, name)
    with pytest.raises(AttributeError, match="no attribute 'Sweep'"):
        ia.Sweep  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
