"""A share of the fuzzing, and that the fuzzer sees what it looks for."""

import signal

import fuzz
import pytest


def test_every_reader_withstands_two_thousand_inputs():
    outcomes = fuzz.fuzz(2000, seed=0)
    assert not [(o.target.name, o.failures) for o in outcomes if o.failures]
    assert len(outcomes) == len(fuzz.TARGETS)
    for outcome in outcomes:
        assert outcome.tried == outcome.planned
        assert outcome.accepted > 0, f"{outcome.target.name} was never given anything right"
        assert outcome.refused > 0 or outcome.target.name == "list items"


HOSTILE = """
import ctypes, time, warnings
from fuzz import FuzzTarget
from implicit_accel.errors import UserError

def refuse(_): raise UserError("no")
def wordless(_): raise UserError
def escape(_): raise KeyError("x")
def wrong(_): assert False
def warn(_): warnings.warn("odd", stacklevel=1)
def crash(n): n == 1 and ctypes.string_at(0)
def hang(n): n == 1 and time.sleep(60)
def hoard(n): n == 1 and bytearray(2**33)

TARGETS = [
    FuzzTarget(f.__name__, lambda rng: rng.seed or 0, f)
    for f in (refuse, wordless, escape, wrong, warn)
]
counts = {}
class Numbered(FuzzTarget):
    def input(self, seed, number):
        return number
TARGETS += [Numbered(f.__name__, lambda rng: 0, f) for f in (crash, hang, hoard)]
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "hostile.py").write_text(HOSTILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return {o.target.name: o for o in fuzz.fuzz(24, 0, module="hostile", limit=2.0)}


def test_refusal_is_no_failure(hostile):
    assert (hostile["refuse"].refused, hostile["refuse"].failures) == (3, [])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wordless", "refused without a word"),
        ("escape", "KeyError: 'x'"),
        ("wrong", "AssertionError"),
        ("warn", "UserWarning: odd"),
    ],
)
def test_what_is_raised_is_a_failure(hostile, name, words):
    assert [number for number, _ in hostile[name].failures] == [0, 1, 2]
    assert all(words in what for _, what in hostile[name].failures)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("crash", f"the process ended: -{signal.SIGSEGV.value}"),
        ("hang", "no end within 2 s"),
        ("hoard", "MemoryError"),
    ],
)
def test_the_end_of_the_process_is_one_failure_among_others(hostile, name, words):
    ((number, what),) = hostile[name].failures
    assert number == 1
    assert words in what
    assert (hostile[name].accepted, hostile[name].tried) == (2, 3)


def test_an_input_can_be_had_again():
    for target in fuzz.TARGETS:
        # HDF5 holds the time; the sweep's flags do not go with other programs' in one process.
        if target.name not in ("forged results", "forged storage", "config.json, manifest.json"):
            assert repr(target.input(3, 5)) == repr(target.input(3, 5))
            assert any(target.input(3, i) != target.input(4, i) for i in range(20))
