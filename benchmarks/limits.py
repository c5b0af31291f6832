"""What the machine can do at the workloads' shapes: the denominators of "how far from the limit".

Everything is measured by the smallest JAX program that does only that, on all devices, with the
blocking that this project uses; for matrix products PyTorch is measured too and the faster counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

NUM_CORES = len(os.sched_getaffinity(0))


def _best(run: Callable[[], Any], repeats: int = 5) -> float:
    run()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def num_devices() -> int:
    """Devices that the limits are measured on: one for each core, or the accelerators."""
    import jax

    jax.config.update("jax_num_cpu_devices", NUM_CORES)
    return jax.local_device_count()


def _on_all_devices(step: Callable[[Any], Any], state: Any, length: int) -> Callable[[], Any]:
    """A scan of ``step`` over each device's own state, (devices, …)."""
    import jax
    from jax.sharding import AxisType, PartitionSpec

    mesh = jax.make_mesh((num_devices(),), ("d",), axis_types=(AxisType.Auto,))

    def run(state: Any) -> Any:
        def body(carry: Any, _: None) -> tuple[Any, None]:
            return step(carry), None

        local = jax.tree.map(lambda a: a[0], state)
        out = jax.lax.scan(body, local, None, length=length)[0]
        return jax.tree.map(lambda a: a[None], out)

    spread = PartitionSpec("d")
    compiled = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=(spread,), out_specs=spread))
    return lambda: jax.block_until_ready(compiled(state))


def gemm_rate(rows: int, d: int, block: int, length: int = 40) -> float:
    """FLOP/s of a step's two products, (block, d) × (d, rows) and (block, rows) × (rows, d)."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, d)).astype(np.float32) / np.sqrt(rows, dtype=np.float32)
    W = rng.standard_normal((num_devices(), block, d)).astype(np.float32)
    from implicit_accel.linear.networks import matmul  # the precision that training has

    seconds = _best(_on_all_devices(lambda W: matmul(matmul(W, X.T), X), W, length))
    return 4 * rows * d * block * len(W) * length / seconds


def torch_gemm_rate(rows: int, d: int, count: int) -> float:
    """The same two products in PyTorch, for all configurations at once."""
    import torch

    torch.set_num_threads(NUM_CORES)
    X, W = torch.randn(rows, d), torch.randn(count, d)
    seconds = _best(lambda: (W @ X.T) @ X, 9)
    return 4 * rows * d * count / seconds


def cache_bandwidth(numbers: int, length: int = 2000) -> float:
    """Bytes/s read and written by ``w ← a w + b`` on an array that stays in each core's cache."""
    w = np.ones((num_devices(), numbers), np.float32)
    seconds = _best(_on_all_devices(lambda w: 0.999 * w + 0.001, w, length))
    return 2 * 4 * numbers * len(w) * length / seconds


def memory_bandwidth(numbers: int = 2**26) -> float:
    """Bytes/s read and written by the same on an array far larger than any cache."""
    w = np.ones((num_devices(), numbers // num_devices()), np.float32)
    seconds = _best(_on_all_devices(lambda w: 0.999 * w + 0.001, w, 4))
    return 2 * 4 * numbers * 4 / seconds


def adam_rate(numbers: int, length: int = 500) -> float:
    """Parameters/s through Adam's formula alone, in cache: two moments, a root and a division."""
    import jax.numpy as jnp

    def step(state: Any) -> Any:
        w, m, v = state
        g = w  # the gradient of ‖w‖²/2: no work of its own
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        return w - 1e-3 * m / (jnp.sqrt(v) + 1e-8), m, v

    state = tuple(np.ones((num_devices(), numbers), np.float32) for _ in range(3))
    seconds = _best(_on_all_devices(step, state, length))
    return numbers * num_devices() * length / seconds


def loop_rate(length: int = 20_000) -> float:
    """Steps/s of a scan that does next to nothing: what launching (or looping) alone allows."""
    w = np.ones((num_devices(), 8), np.float32)
    return length / _best(_on_all_devices(lambda w: 0.999 * w + 0.001, w, length))
