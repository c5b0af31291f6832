"""The contenders, each as its users would write it. Every one runs in a process of its own.

(a) a PyTorch loop, one model at a time; (b) PyTorch, ``torch.func`` vmapped over the grid with
the layers collapsed first; (c) JAX, one run at a time, a jitted scan; (d) JAX, vmapped over the
grid, layer by layer; (e) this project.

A contender is a function that takes a workload and the data's path, prepares (imports, arrays,
compilation), and returns a function that runs once and returns (configuration-steps, seconds).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import Workload, initial_weights, load_arrays

Timed = Callable[[], tuple[int, float]]

NUM_CORES = len(os.sched_getaffinity(0))


def _timed(work: Callable[[], Any], run_steps: int) -> Timed:
    def run() -> tuple[int, float]:
        began = time.perf_counter()
        work()
        return run_steps, time.perf_counter() - began

    return run


def torch_loop(workload: Workload, path: Path) -> Timed:
    """(a): models, optimizers and losses as in a tutorial."""
    import torch

    torch.set_num_threads(NUM_CORES)
    features, targets = load_arrays(path)
    X, y = torch.from_numpy(features), torch.from_numpy(targets)[:, None]
    steps, rates = workload.steps["a"], workload.rates
    optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}

    def train_all() -> None:
        for hidden in workload.hidden:
            for i in range(workload.sample):
                widths = (X.shape[1], *hidden, 1)
                model = torch.nn.Sequential(
                    *(
                        torch.nn.Linear(widths[j], widths[j + 1], bias=False)
                        for j in range(len(widths) - 1)
                    )
                )
                optimizer = optimizers[workload.optimizer](model.parameters(), lr=float(rates[i]))
                losses = []
                for _ in range(steps):
                    optimizer.zero_grad()
                    loss = ((model(X) - y) ** workload.p).mean() / workload.p
                    loss.backward()
                    optimizer.step()
                    losses.append(loss.item())

    return _timed(train_all, steps * workload.sample * len(workload.hidden))


def torch_vmap(workload: Workload, path: Path) -> Timed:
    """(b): one batch for each architecture, collapsed forward, functional updates."""
    import torch
    from torch.func import grad_and_value, vmap

    torch.set_num_threads(NUM_CORES)
    features, targets = load_arrays(path)
    X, y = torch.from_numpy(features), torch.from_numpy(targets)
    steps = workload.steps["b"]
    per_shape = workload.num_rates * workload.num_seeds
    rates = torch.from_numpy(np.repeat(workload.rates, workload.num_seeds).astype(np.float32))

    def loss(weights: list[torch.Tensor]) -> torch.Tensor:
        product = weights[-1]
        for W in reversed(weights[:-1]):
            product = product @ W
        return ((X @ product[0] - y) ** workload.p).mean() / workload.p

    step = vmap(grad_and_value(loss))
    starts = [
        [torch.from_numpy(W) for W in initial_weights(X.shape[1], hidden, per_shape)]
        for hidden in workload.hidden
    ]

    def train_all() -> None:
        for start in starts:
            weights = [W.clone() for W in start]
            moments = [(torch.zeros_like(W), torch.zeros_like(W)) for W in weights]
            losses = []
            for t in range(1, steps + 1):
                gradients, values = step(weights)
                losses.append(values)
                for W, G, (m, v) in zip(weights, gradients, moments, strict=True):
                    if workload.optimizer == "sgd":
                        W.sub_(rates[:, None, None] * G)
                    else:
                        m.lerp_(G, 0.1)
                        v.mul_(0.999).addcmul_(G, G, value=0.001)
                        denominator = (v / (1 - 0.999**t)).sqrt_().add_(1e-8)
                        W.sub_(rates[:, None, None] * (m / (1 - 0.9**t)) / denominator)

    train_all()
    return _timed(train_all, steps * workload.num_configurations)


def _jax_step(workload: Workload, X: Any, y: Any, *, collapsed: bool) -> Callable[..., Any]:
    """Loss and update of one run, in plain JAX and optax."""
    import jax
    import jax.numpy as jnp
    import optax

    def loss(weights: list[Any]) -> Any:
        if collapsed:
            product = weights[-1]
            for W in reversed(weights[:-1]):
                product = product @ W
            outputs = X @ product[0]
        else:
            h = X
            for W in weights:
                h = h @ W.T
            outputs = h[:, 0]
        return jnp.mean((outputs - y) ** workload.p) / workload.p

    def train(weights: list[Any], rate: Any, steps: int) -> Any:
        optimizer = getattr(optax, workload.optimizer)(rate)

        def body(carry: Any, _: None) -> Any:
            weights, state = carry
            value, gradients = jax.value_and_grad(loss)(weights)
            updates, state = optimizer.update(gradients, state, weights)
            return (optax.apply_updates(weights, updates), state), value

        return jax.lax.scan(body, (weights, optimizer.init(weights)), None, length=steps)

    return train


def jax_single(workload: Workload, path: Path) -> Timed:
    """(c): a jitted scan, compiled once for each architecture, called for one run after another."""
    import jax

    X, y = load_arrays(path)
    steps = workload.steps["c"]
    train = jax.jit(_jax_step(workload, X, y, collapsed=True), static_argnums=2)
    starts = [initial_weights(X.shape[1], h, workload.sample) for h in workload.hidden]

    def train_all() -> None:
        for start in starts:
            for i in range(workload.sample):
                weights = [W[i] for W in start]
                jax.block_until_ready(train(weights, np.float32(workload.rates[i]), steps))

    train_all()
    return _timed(train_all, steps * workload.sample * len(workload.hidden))


def jax_vmap(workload: Workload, path: Path) -> Timed:
    """(d): the textbook vmap over rates and seeds, layer by layer."""
    import jax

    X, y = load_arrays(path)
    steps = workload.steps["d"]
    per_shape = workload.num_rates * workload.num_seeds
    rates = np.repeat(workload.rates, workload.num_seeds).astype(np.float32)
    step = _jax_step(workload, X, y, collapsed=False)
    train = jax.jit(jax.vmap(lambda weights, rate: step(weights, rate, steps)))
    starts = [initial_weights(X.shape[1], h, per_shape) for h in workload.hidden]

    def train_all() -> None:
        for start in starts:
            jax.block_until_ready(train(start, rates))

    train_all()
    return _timed(train_all, steps * workload.num_configurations)


def ours(workload: Workload, path: Path) -> Timed:
    """(e): a whole sweep, all but compilation: initial weights, training, records on the host."""
    import jax

    jax.config.update("jax_num_cpu_devices", NUM_CORES)
    from implicit_accel import Optimizer
    from implicit_accel.linear import Loss, Problem, SweepConfig, run_sweep

    problem = Problem.from_arrays(*load_arrays(path))
    config = SweepConfig(
        depths=tuple(len(h) + 1 for h in workload.hidden),
        hidden_widths=tuple(dict.fromkeys(h[0] for h in workload.hidden if h)),
        inits=("pytorch",),
        losses=(Loss(workload.p),),
        optimizers=(Optimizer(workload.optimizer),),
        learning_rates=tuple(workload.rates),
        num_seeds=workload.num_seeds,
        num_steps=workload.steps["e"],
    )

    def run() -> tuple[int, float]:
        timing = run_sweep(problem, config).ia.timing
        return timing.run_steps, timing.train_seconds

    return run


CONTENDERS: dict[str, tuple[str, Callable[[Workload, Path], Timed]]] = {
    "a": ("PyTorch loop", torch_loop),
    "b": ("PyTorch vmap, collapsed", torch_vmap),
    "c": ("JAX scan, one run at a time", jax_single),
    "d": ("JAX vmap, layer by layer", jax_vmap),
    "e": ("implicit_accel", ours),
}
