"""The installed command, beside ``python -m experiments.…``."""

import re
import sys
from importlib.metadata import entry_points

import pytest
from programs import forked

import implicit_accel
from implicit_accel.experiments.main import PROGRAMS, main


def command(*arguments):
    sys.argv = ["implicit-accel", *arguments]
    main()


def run(*arguments):
    return forked(command, *arguments)


def test_the_command_is_installed_as_declared():
    (found,) = entry_points(group="console_scripts", name="implicit-accel")
    assert found.value == "implicit_accel.experiments.main:main"


def test_without_a_program_it_lists_them_and_tells_its_version():
    for arguments in ([], ["--help"]):
        result = run(*arguments)
        assert result.returncode == 0
        assert all(re.search(rf"^  {name} ", result.stdout, re.MULTILINE) for name in PROGRAMS)
    assert run("--version").stdout.strip() == implicit_accel.__version__


def test_an_unknown_program_is_a_usage_error():
    result = run("train")
    assert result.returncode == 2
    assert result.stderr.startswith("error: there is no program 'train'")
    assert all(name in result.stderr for name in PROGRAMS)
    assert "did you mean" not in result.stderr
    assert run("swep").stderr.endswith("; did you mean sweep?\n")


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_has_its_help_and_its_errors(program):
    assert run(program, "--help").returncode == 0
    result = run(program, "--no_such_flag=1")
    assert result.returncode == 2
    assert "no_such_flag" in result.stderr
