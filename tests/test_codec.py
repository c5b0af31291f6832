"""What is stored of findings is read back as it was, or refused."""

import dataclasses
import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples

from implicit_accel.claims.codec import decode, encode
from implicit_accel.claims.criteria import Direction, Judged, Part, Range, Size
from implicit_accel.claims.effects import Design, Effect, Key, Kind

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
WORDS = st.text(max_size=8)
KEYS = st.builds(
    Key, WORDS, st.lists(st.tuples(WORDS, WORDS | st.integers() | st.floats(-1e9, 1e9))).map(tuple)
)
EFFECTS = st.builds(
    Effect, WORDS, NUMBERS, NUMBERS, NUMBERS, WORDS, WORDS, NUMBERS,
    design=st.builds(Design, st.sampled_from(Kind), st.integers(1, 99), NUMBERS, NUMBERS),
    halves=st.lists(NUMBERS, max_size=2).map(tuple), bound=st.sampled_from(["", "<", ">"]),
    key=st.none() | KEYS,
)  # fmt: skip
RANGES = st.builds(Range, NUMBERS, NUMBERS, st.booleans())
PARTS = st.builds(
    Judged, st.builds(Part, EFFECTS, RANGES, st.none() | RANGES), st.sampled_from(Direction),
    st.sampled_from(Size),
)  # fmt: skip


@settings(max_examples=examples(30), deadline=None)
@given(PARTS)
def test_what_is_written_is_read_back(judged):
    text = json.dumps(encode(judged), allow_nan=False)  # JSON that any program reads
    again = decode(Judged, json.loads(text))
    np.testing.assert_equal(dataclasses.asdict(again), dataclasses.asdict(judged))


def test_tables_keep_their_cells():
    table = pd.DataFrame({"a": [1.5, np.inf], "b": ["x", "y"]})
    (again,) = decode(tuple[pd.DataFrame, ...], json.loads(json.dumps(encode([table]))))
    assert again.to_numpy().tolist() == [[1.5, "x"], [np.inf, "y"]]
    assert list(again.columns) == ["a", "b"]
    assert encode(np.float32(0.5)) == 0.5
    assert encode({"n": np.int64(3)}) == {"n": 3}


RANGE = {"low": 1.0, "high": "inf", "closed": False}


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (Range, RANGE | {"more": 1}),
        (Range, {"low": 1.0}),
        (Range, RANGE | {"low": "one"}),
        (Range, RANGE | {"closed": 1}),
        (Range, [1, 2, False]),
        (Direction, "sideways"),
        (Key, {"measure": "m", "at": [["p", [1]]]}),
        (Key, {"measure": "m", "at": [["p"]]}),
        (Mapping[str, int], [1]),
        (Mapping[str, int], {"a": True}),
        (tuple[str, ...], "text"),
        (str | None, 3),
    ],
)
def test_what_is_not_of_the_type_is_refused(kind, stored):
    with pytest.raises((TypeError, ValueError, KeyError, AttributeError)):
        decode(kind, stored)


def test_functions_are_not_stored():
    effect = Effect("a", 1.0, at=lambda _: None)  # pyright: ignore[reportArgumentType]
    assert "at" not in encode(effect)
    with pytest.raises(TypeError, match="cannot be stored"):
        encode({"f": print})
