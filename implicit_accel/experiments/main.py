"""The installed command: ``implicit-accel sweep`` is ``python -m experiments.sweep``."""

from __future__ import annotations

import difflib
import runpy
import sys

import implicit_accel

PROGRAMS = {
    "sweep": "train a model over a whole grid at once, and compare how fast it trains",
    "predict": "before any training: what theory says of a sweep, or a task's largest stable rates",
    "reproduce": "test the claims of the literature, each by an experiment that judges itself",
    "expand": "should a layer of a model of your own be over-parameterised?",
    "plot": "redraw the figures of a finished run",
    "article": "write a replication article (PDF) from the findings of a reproduction",
    "list": "list finished runs with their settings and answers",
    "compare": "put several finished runs side by side",
    "selftest": "check that this installation computes what it should",
}

COMMAND = "implicit-accel"


def usage() -> str:
    """What there is to run."""
    width = max(map(len, PROGRAMS))
    lines = [f"  {name:{width}}  {what}" for name, what in PROGRAMS.items()]
    return "\n".join(
        [
            f"{COMMAND} {implicit_accel.__version__}: {COMMAND} PROGRAM --flags, one of",
            *lines,
            f"{COMMAND} PROGRAM --help explains a program's flags.",
        ]
    )


def main() -> None:
    """Runs the program that is named first, as its module would be run. Exit codes as there."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "-help", "help"):
        print(usage())
        sys.exit(0)
    if arguments[0] in ("--version", "-V"):
        print(implicit_accel.__version__)
        sys.exit(0)
    program = arguments[0]
    if program not in PROGRAMS:
        known = ", ".join(PROGRAMS)
        close = difflib.get_close_matches(program[:100], PROGRAMS, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        print(
            f"error: there is no program {program[:100]!r}: choose from {known}{meant}",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.argv = [f"{COMMAND} {program}", *arguments[1:]]
    runpy.run_module(f"implicit_accel.experiments.{program}", run_name="__main__")


if __name__ == "__main__":
    main()
