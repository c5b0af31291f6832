"""What is left to `.ci/nightly`: marked tests, and more examples of properties."""

import pytest
from hypothesis import settings

# Examples of a property in every run.
MOST_EXAMPLES = 10


def param(*values, nightly=True, id=None):
    """A test's parameters, which the default run leaves out if ``nightly``."""
    return pytest.param(*values, marks=pytest.mark.nightly if nightly else (), id=id)


def examples(count):
    """Examples of a property that costs more than most; ten times as many in `.ci/nightly`."""
    return count * settings().max_examples // MOST_EXAMPLES
