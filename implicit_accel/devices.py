"""Devices of this machine, before JAX computes."""

from __future__ import annotations

import os

import jax

from implicit_accel.errors import UserError

# XLA compiles a program for one device along another path than for several, which rounds otherwise:
# with two devices at least, results have the same bits on any number of cores and workers.
FEWEST_CPU_DEVICES = 2


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_cpu_devices(n: int | None = None) -> int:
    """Makes a CPU several of JAX's devices, so that a sweep's runs are spread over its cores.

    To be called before anything is computed: JAX counts its devices once. The programs do this for
    themselves; in a notebook or a script it is one of the first lines. An accelerator's devices
    are what they are.

    Args:
        n: How many; as many as this process may use cores unless given, and two at least, so that
            results have the same bits on machines with other numbers of cores.

    Returns:
        How many there are.

    Raises:
        UserError: If ``n`` is below 1, or JAX has counted other devices already; the message says
            what to do.
    """
    if n is None:
        n = max(FEWEST_CPU_DEVICES, num_cores())
    if n < 1:
        raise UserError(f"{n} devices: at least 1 is needed; without a number it is one per core")
    try:
        jax.config.update("jax_num_cpu_devices", n)
    except RuntimeError:  # it has computed before
        there = jax.local_device_count("cpu")
        if there != n:
            raise UserError(
                f"too late for {n} CPU devices: JAX has computed before, on {there}. Restart the "
                "process (in a notebook: the kernel) and call use_cpu_devices before any other "
                "cell computes"
            ) from None
    return n
