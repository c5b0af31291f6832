"""Annotations are checked in the tests: types and shapes of arrays, by jaxtyping and beartype."""

from collections.abc import Callable

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# Without those that a gradient flow calls a million times (theory.flow, stabilised and surface):
# its tests would take 2.5 times as long. Of these test_typechecking checks short flows.
CHECKED = (
    "implicit_accel.data.problems",
    "implicit_accel.eigenvalues",
    "implicit_accel.intervals",
    "implicit_accel.linear.end_to_end",
    "implicit_accel.linear.initialisers",
    "implicit_accel.linear.losses",
    "implicit_accel.linear.networks",
    "implicit_accel.linear.objectives",
    "implicit_accel.linear.observables",
    "implicit_accel.linear.sweep",
    "implicit_accel.linear.task",
    "implicit_accel.observables",
    "implicit_accel.statistics",
    "implicit_accel.theory.balance",
    "implicit_accel.theory.central",
    "implicit_accel.theory.decay",
    "implicit_accel.theory.edge",
    "implicit_accel.theory.induced",
    "implicit_accel.theory.laws",
    "implicit_accel.theory.oracle",
    "implicit_accel.theory.plateau",
    "implicit_accel.theory.regulariser",
)

# As for static type checkers, a whole number is a float.
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable) -> Callable:
    """Checks the arrays that a function is given and returns; it checks other things itself."""
    hints = function.__annotations__
    function.__annotations__ = {n: hint for n, hint in hints.items() if "jaxtyping" in repr(hint)}
    checked = _check(function)
    function.__annotations__ = hints
    return checked


def install() -> None:
    """Checks every call of these modules' functions; they must not have been imported yet."""
    install_import_hook(CHECKED, f"{__name__}.check")
