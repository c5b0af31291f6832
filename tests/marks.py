"""Marks of tests: what is left to `.ci/nightly`."""

import pytest


def param(*values, nightly=True, id=None):
    """A test's parameters, which the default run leaves out if ``nightly``."""
    return pytest.param(*values, marks=pytest.mark.nightly if nightly else (), id=id)
