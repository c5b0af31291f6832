"""Signals: the first asks, the second ends, and neither is lost while a compiled call runs."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A program that does not look whether it is asked to stop, as in a long compiled call.
_DEAF = """
import sys, time
from implicit_accel.experiments.stopping import watched_signals
def say(text): print(text, flush=True)
with watched_signals(say) as stop:
    stop.is_training = "compiles" not in sys.argv
    say("listening")
    end = time.monotonic() + 60
    while time.monotonic() < end and not (stop() and "obeys" in sys.argv):
        time.sleep(0.01)
# Only now is what the watching thread says over.
say("asked" if stop() else "not asked")
"""


def started(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _DEAF, *arguments],
        cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_at_once_what_does_not_obey_the_first(number):
    process = started()
    assert process.stdout is not None
    process.send_signal(number)
    assert "once more ends at once" in process.stdout.readline()
    begin = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + number
    assert output == ""
    assert time.monotonic() - begin < 30  # of the 60 seconds that it would have gone on for


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_training_the_first_signal_ends(number):
    process = started("compiles")
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert output == "stopped before training: nothing is lost\n"


def test_the_first_signal_only_asks():
    process = started("obeys")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    assert output.splitlines()[-1] == "asked"


# Python drops what is raised here: neither the interpreter nor the program hears of it.
_FINALIZER = """
import signal, sys, time, weakref
from implicit_accel.experiments.stopping import Stopped, stop_on_signals
stop_on_signals()
class Thing: pass
def called(reference):
    signal.raise_signal(getattr(signal, sys.argv[1]))
    time.sleep(0.1)
thing = Thing()
reference = weakref.ref(thing, called)
try:
    del thing
    print("went on", flush=True)
    time.sleep(60)
except Stopped as stopped:
    print(stopped, stopped.exit_code)
"""


@pytest.mark.parametrize(
    ("name", "heard"), [("SIGINT", "interrupted: {} 130"), ("SIGTERM", "terminated: {} 143")]
)
def test_a_signal_in_a_finalizer_is_heard(name, heard):
    result = subprocess.run(
        [sys.executable, "-c", _FINALIZER, name],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    expected = heard.format("nothing that was saved is lost")
    assert result.stdout.splitlines() == ["went on", expected], result.stderr
    assert result.stderr == ""
