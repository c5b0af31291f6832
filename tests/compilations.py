"""Counts what JAX compiles."""

import jax

from implicit_accel.engine.compiled import forget_compiled


def count_compilations(function, *, forget=True):
    """Programs that are compiled while a function runs.

    Args:
        function: Called without arguments.
        forget: Whether programs of earlier calls are forgotten first.
    """
    compiled = []

    def count(event: str, duration_secs: float, **_: object) -> None:  # noqa: ARG001
        compiled.append(event == "/jax/core/compile/backend_compile_duration")

    if forget:
        forget_compiled()
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        function()
    finally:
        jax.monitoring.clear_event_listeners()
    return sum(compiled)
