"""One declaration per setting: what follows from it."""

import dataclasses
import json
from dataclasses import dataclass

import pytest

from implicit_accel import SweepConfig, UserError
from implicit_accel.data.problems import Preparation
from implicit_accel.data.registry import find_sources, options_of
from implicit_accel.fields import (
    Allowed,
    Field,
    check,
    each,
    fields_of,
    read,
    setting,
    table,
    with_details,
    write,
)


def _scaled(items, factor):
    return tuple(factor * value for value in each(int)(items))


@dataclass(frozen=True)
class Thing:
    sizes: tuple[int, ...] = setting(
        ("1", "2"), "How | large.", parse=_scaled, one="size",
        allowed=Allowed("from 1 to 9", int, (1, 9)), may_grow=True, heading="H",
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
        ({"sizes": [1]}, r"sizes: must be a tuple, not \[1\]"),
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
