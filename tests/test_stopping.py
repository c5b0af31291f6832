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
from experiments.stopping import watched_signals
def say(text): print(text, flush=True)
with watched_signals(say) as stop:
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


def test_the_first_signal_only_asks():
    process = started("obeys")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    assert output.splitlines()[-1] == "asked"
