"""A short version of ``python tests/chaos.py``: every kind of damage once or twice.

Every test run includes damaged checkpoints: their runs are terminated and resumed as well.
"""

import pytest
from chaos import Chaos


@pytest.fixture(scope="module")
def chaos(tmp_path_factory):
    return Chaos(tmp_path_factory.mktemp("chaos"), seed=1, num_steps=4_000, formats="none")


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    """Runs that end with figures and a page, which may be hit as well."""
    return Chaos(tmp_path_factory.mktemp("drawing"), seed=1, num_steps=4_000, formats="png")


@pytest.mark.nightly
def test_killed_runs_go_on(drawing):
    drawing.killed(3)
    assert drawing.counts["SIGKILL: runs ended"] == 3
    assert drawing.counts["SIGKILL: runs finished, identical"] >= 1


@pytest.mark.nightly
def test_terminated_runs_go_on(chaos):
    chaos.terminated(1)
    chaos.ended_twice(1)


@pytest.mark.nightly
def test_what_cannot_be_written_is_said_and_costs_nothing(drawing):
    drawing.file_limits(2)
    drawing.full_disks(1)
    drawing.deleted()


@pytest.mark.nightly
def test_runs_of_a_model_of_ones_own_go_on(tmp_path):
    user = Chaos(tmp_path, seed=1, task="user", num_steps=3_000, formats="none")
    user.killed(2)
    user.terminated(1)
    user.damaged(1)
    assert user.counts["SIGKILL: runs finished, identical"] >= 1


@pytest.mark.nightly
def test_one_process_to_a_folder(chaos):
    chaos.rivals(1)


def test_damaged_checkpoints_are_not_believed(chaos):
    chaos.damaged(1)
