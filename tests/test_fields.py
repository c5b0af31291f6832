"""One declaration per setting: what follows from it."""

import dataclasses
import itertools
import json
import math
from dataclasses import dataclass
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from implicit_accel import UserError
from implicit_accel.data.problems import Preparation
from implicit_accel.data.registry import find_sources, options_of
from implicit_accel.fields import (
    Allowed,
    Field,
    check,
    each,
    fields_of,
    finite,
    read,
    setting,
    shown,
    table,
    with_details,
    write,
)
from implicit_accel.linear import SweepConfig


def _scaled(items, factor):
    return tuple(factor * value for value in each(int)(items))


@dataclass(frozen=True)
class Thing:
    sizes: tuple[int, ...] = setting(
        ("1", "2"), "How | large.", parse=_scaled, one="size",
        allowed=Allowed("from 1 to 9", int, (1, 9)), may_grow=True, may_nest=True, heading="H",
        write=lambda sizes: [f"s{s}" for s in sizes],
        details={"factor": Field(1, "Times.", write=lambda sizes: len(sizes))},
    )  # fmt: skip
    colour: str = setting("red", "Which.", choices=("red", "blue"))
    place: str | None = setting(None, "Where.", write=None)
    fixed: int = 7  # no setting

    def __post_init__(self) -> None:
        check(self)


FIELDS = fields_of(Thing)


def test_defaults_are_the_parsed_texts():
    assert Thing() == Thing((1, 2), "red", None)
    assert list(FIELDS) == ["sizes", "colour", "place"]


def test_reading():
    assert Thing(**read(FIELDS, {})) == Thing()
    given = {"sizes": (" 3", "2 "), "factor": 2, "place": "x", "of another": 1}
    assert read(FIELDS, given) == {"sizes": (6, 4), "colour": "red", "place": "x"}


@pytest.mark.parametrize("item", ["", "x", "1.5", "1" * 5000])
def test_errors_name_the_flag(item):
    with pytest.raises(UserError, match=r"^--sizes: .* is not a whole number$"):
        read(FIELDS, {"sizes": ("1", item)})
    with pytest.raises(UserError, match=r"^'x' is not a number$"):
        each(float)(["x"])


def test_writing():
    assert write(FIELDS, vars(Thing((3, 4, 5)))) == {
        "sizes": ["s3", "s4", "s5"], "factor": 3, "colour": "red"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": ()}, "sizes: the list is empty, give at least one"),
        ({"sizes": {1}}, r"sizes: must be a list, not \{1\}"),
        ({"sizes": {1: 2}}, r"sizes: must be a list, not \{1: 2\}"),
        ({"sizes": b"1"}, "sizes: must be a list, not b'1'"),
        ({"sizes": "1,x"}, "sizes: 'x' is not a whole number"),
        ({"sizes": None}, "size None: must be from 1 to 9"),
        ({"sizes": (((1,), 2),)}, r"size \(1,\): must be from 1 to 9"),
        ({"sizes": range(10**9)}, "size 0: must be from 1 to 9"),
        ({"colour": ["red"]}, r"colour \['red'\]: choose from red, blue"),
        ({"sizes": (1, 1)}, "sizes: 1 is given twice"),
        ({"sizes": (0,)}, "size 0: must be from 1 to 9"),
        ({"sizes": (True,)}, "size True: must be from 1 to 9"),
        ({"sizes": ((2, 10),)}, "size 10: must be from 1 to 9"),
        ({"colour": "green"}, "colour 'green': choose from red, blue"),
    ],
)
def test_checks(changes, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        Thing(**changes)


@pytest.mark.parametrize(
    "given", [[3, 4], "3,4", " 3 , 4", ("3", 4), range(3, 5), np.array([3, 4]), iter([3, 4]),
              jnp.array([3, 4]), np.array(["3", "4"]), (np.int8(3), jnp.int32(4))],
)  # fmt: skip
def test_lists_may_be_given_in_any_form(given):
    made = Thing(given)
    assert made == Thing((3, 4))
    assert [type(size) for size in made.sizes] == [int, int]


@pytest.mark.parametrize("given", [3, "3", np.int64(3), np.array(3), [3], np.array([3])])
def test_a_single_item_is_a_list_of_one(given):
    assert Thing(given).sizes == (3,)


@pytest.mark.parametrize("given", [[[3, 4], 5], [np.array([3, 4]), "5"], (("3", "4"), 5)])
def test_items_may_be_lists_where_the_setting_allows_it(given):
    assert Thing(given).sizes == ((3, 4), 5)
    flat = dataclasses.replace(FIELDS["sizes"], may_nest=False)
    with pytest.raises(UserError, match=r"must be from 1 to 9"):
        flat.value("sizes", given)


def test_a_number_s_text_is_read_as_its_flag_would():
    number, whole, switch = (Field(default, "") for default in (0.5, 5, False))
    assert number.value("x", " 1e-3") == 1e-3
    assert whole.value("x", "12") == 12
    assert [switch.value("x", text) for text in ("true", "False")] == [True, False]
    with pytest.raises(UserError, match=r"^x: 'true' is not a number$"):
        number.value("x", "true")
    with pytest.raises(UserError, match=r"^x: '1\.0' is not a whole number$"):
        whole.value("x", "1.0")


def test_a_list_has_bounded_length():
    with pytest.raises(UserError, match=r"^more than 100,000 x: give fewer$"):
        Field(("1",), "", parse=each(int)).value("x", itertools.repeat(1))


def test_what_the_user_s_own_iterator_raises_is_named():
    with pytest.raises(UserError, match=r"^sizes: cannot be read \(ZeroDivisionError") as error:
        Thing(1 // (n - n) for n in (1, 2))  # pyright: ignore[reportArgumentType]
    assert isinstance(error.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    "value",
    [pytest.param(10**5000, id="digits"), "x\ny" * 999, "\udcff", np.arange(10**4), object()],
)
def test_errors_quote_any_value_in_one_short_line(value):
    text = shown(value)
    assert len(text) <= 80
    assert "\n" not in text


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1), (0.5, 0.5), (np.float32(0.5), 0.5), (np.int64(7), 7), (Fraction(1, 4), 0.25),
     (jnp.float32(2.0), 2.0)],
)  # fmt: skip
def test_finite_numbers_become_python_s_own(value, number):
    found = finite(value)
    assert found == number
    assert type(found) in (int, float)


@pytest.mark.parametrize(
    "value", [True, "1", None, 1j, math.nan, -math.inf, 10**400, Fraction(10**400), np.bool_(1)]
)
def test_what_is_no_finite_number(value):
    assert finite(value) is None


def test_a_number_that_is_none_is_in_no_range():
    number = Allowed("a number", float, (0, float("inf")))
    assert 1.0 in number
    assert float("nan") not in number
    assert -1.0 not in number
    assert True in Allowed("true or false", bool)
    assert 1 not in Allowed("true or false", bool)


def test_details_follow_their_setting():
    every = with_details(FIELDS)
    assert list(every) == ["sizes", "factor", "colour", "place"]
    assert every["factor"].heading == "H"


def test_the_reference_is_a_table():
    head, _, sizes, factor, colour, place = table(FIELDS).splitlines()
    assert head.count("|") == 4
    assert sizes == r"| `--sizes` | `1,2` | How \| large. A run may be given more. |"
    assert factor == "| `--factor` | `1` | Times. |"
    assert colour == "| `--colour` | `red` | Which. One of red, blue. |"
    assert place == "| `--place` |  | Where. |"


# What a run's folder holds: every name that is read must be written, or two runs would meet in it.
def test_the_grid_is_told_apart_by_what_is_written():
    fields = fields_of(SweepConfig)
    assert set(fields) == {f.name for f in dataclasses.fields(SweepConfig)}
    written = write(fields, vars(SweepConfig()))
    assert set(written) == set(with_details(fields))
    assert written == json.loads(json.dumps(written))
    assert {name for name, field in fields.items() if field.may_grow} == {
        "depths", "hidden_widths", "inits", "init_stds", "losses", "optimizers", "weight_decays",
        "learning_rates", "num_seeds", "first_seed", "num_steps",
    }  # fmt: skip


@pytest.mark.parametrize("owner", [SweepConfig, Preparation])
def test_command_lines_without_flags_ask_for_the_defaults(owner):
    assert owner(**read(fields_of(owner), {})) == owner()
    assert all(field.help and field.heading for field in fields_of(owner).values())


def test_losses_and_optimizers_take_their_details():
    given = {
        "losses": ("l2", "l3"), "loss_convention": "plain",
        "optimizers": ("momentum",), "optimizer_settings": ("momentum:momentum=0.5",),
    }  # fmt: skip
    values = read(fields_of(SweepConfig), given)
    written = write(fields_of(SweepConfig), vars(SweepConfig(**values)))
    assert [loss.convention for loss in values["losses"]] == ["plain", "plain"]
    assert values["optimizers"][0].settings == (("momentum", 0.5),)
    assert written["loss_convention"] == "plain"
    assert written["losses"] == ["l2", "l3"]
    assert written["optimizer_settings"] == [["momentum", "momentum", 0.5]]
    with pytest.raises(UserError, match=r"^--optimizer_settings: momentum is not among"):
        read(fields_of(SweepConfig), given | {"optimizers": ("sgd",)})


def test_no_two_settings_share_a_flag():
    names = [
        *options_of(find_sources()),
        *with_details(fields_of(Preparation)),
        *with_details(fields_of(SweepConfig)),
    ]
    assert len(set(names)) == len(names)
