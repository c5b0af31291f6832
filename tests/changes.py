"""Changes one constant anywhere in a user's functions and repeats the call in the same folder.

    python -m tests.changes --changes 500 --seed 0

A stored result must never be returned for other functions: every change is refused, and the message
names what has changed. The same functions, made anew, return what is stored.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import implicit_accel as ia

X = np.linspace(-1, 1, 12).reshape(6, 2)
Y = X @ [1.0, -0.5]


@dataclass
class Holder:
    """An object of a user's, with a constant and a method."""

    value: float

    def scaled(self, x: Any) -> Any:
        return self.value * x


def helper_source(value: float) -> Callable[[Any], Any]:
    """A helper function with the constant written into its body."""
    scope: dict[str, Any] = {"jnp": jnp}
    exec(f"def helper(x):\n    return jnp.tanh({value!r} * x)\n", scope)
    return scope["helper"]


def base_loss(params: Any, batch: Any) -> Any:
    return jnp.mean((batch[0] @ params["w"] - batch[1]) ** 2)


@dataclass(frozen=True)
class Place:
    """Where a constant stands.

    Attributes:
        name: For people.
        part: What of the run it decides, as the message names it.
        make: From the constant to arguments of `sweep` and of `from_loss` which replace the usual.
    """

    name: str
    part: str
    make: Callable[[float], dict[str, Any]]


def _loss(function: Callable[[Any], Any]) -> dict[str, Any]:
    """A loss to which a function of the weights is added."""
    return {"loss": lambda p, b: base_loss(p, b) + jnp.sum(function(p["w"]))}


def _literal(c: float) -> dict[str, Any]:
    return _loss(helper_source(c))


def _closure(c: float) -> dict[str, Any]:
    return _loss(lambda w: c * w)


def _default(c: float) -> dict[str, Any]:
    def add(w: Any, factor: float = c) -> Any:
        return factor * w

    return _loss(add)


def _keyword_default(c: float) -> dict[str, Any]:
    def add(w: Any, *, factor: float = c) -> Any:
        return factor * w

    return _loss(add)


def _inner_jit_array(c: float) -> dict[str, Any]:
    target = np.full(2, c)

    @jax.jit
    def inner(w: Any) -> Any:
        return (w - target) ** 2

    return _loss(inner)


def _twice_inner_jit(c: float) -> dict[str, Any]:
    table = jnp.linspace(0, c, 300)

    @jax.jit
    def lookup(w: Any) -> Any:
        return jnp.interp(w, jnp.linspace(-9, 9, 300), table)

    @jax.jit
    def outer(w: Any) -> Any:
        return jax.lax.fori_loop(0, 2, lambda _, v: lookup(v), w)

    return _loss(outer)


def _custom_gradient(c: float) -> dict[str, Any]:
    @jax.custom_vjp
    def f(w: Any) -> Any:
        return w

    f.defvjp(lambda w: (w, None), lambda _, g: (c * g,))
    return _loss(f)


def _custom_tangent(c: float) -> dict[str, Any]:
    @jax.custom_jvp
    def f(w: Any) -> Any:
        return w

    @f.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        return primals[0], c * tangents[0]

    return _loss(f)


def _branch(c: float) -> dict[str, Any]:
    return _loss(lambda w: jax.lax.cond(w[0] > 0, lambda: c * w, lambda: w))


def _scan(c: float) -> dict[str, Any]:
    def add(w: Any) -> Any:
        return jax.lax.scan(lambda carry, x: (carry + x * w, None), w, jnp.array([1.0, c]))[0]

    return _loss(add)


def _callback(c: float) -> dict[str, Any]:
    factors = [c]

    def on_host(w: np.ndarray) -> np.ndarray:
        return np.asarray(w * factors[0], w.dtype)

    def add(w: Any) -> Any:
        shape = jax.ShapeDtypeStruct((2,), jnp.float32)
        w = jax.lax.stop_gradient(w)
        return jax.pure_callback(on_host, shape, w, vmap_method="expand_dims")

    return _loss(add)


def _host(value: Callable[[float], Callable[[int], Any]]) -> Callable[[float], dict[str, Any]]:
    def make(c: float) -> dict[str, Any]:
        draw = value(c)
        return {"init": lambda seed: {"w": draw(seed)}}

    return make


def _drawn(seed: int, c: float) -> np.ndarray:
    return c * np.random.default_rng(seed).standard_normal(2)


def _host_helper(c: float) -> Callable[[int], Any]:
    def helper(seed: int) -> np.ndarray:
        return _drawn(seed, 1.0) + c

    def draw(seed: int) -> Any:
        return helper(seed)

    return draw


def _host_partial(c: float) -> dict[str, Any]:
    return {"init": functools.partial(lambda scale, seed: {"w": _drawn(seed, scale)}, c)}


def _host_array(c: float) -> Callable[[int], Any]:
    loaded = np.array([c, 2.0])
    return lambda seed: _drawn(seed, 1.0) * loaded


def _schedule(c: float) -> dict[str, Any]:
    schedule = optax.exponential_decay(1.0, 7, c)
    return {"optimizer": lambda hp: optax.sgd(lambda step: hp["learning_rate"] * schedule(step))}


def _boundaries(c: float) -> dict[str, Any]:
    schedule = optax.piecewise_constant_schedule(1.0, {3: c})
    return {"optimizer": lambda hp: optax.sgd(lambda step: hp["learning_rate"] * schedule(step))}


def _data(c: float) -> dict[str, Any]:
    changed = Y.copy()
    changed[3] = c
    return {"data": (X, changed)}


def _held_out(c: float) -> dict[str, Any]:
    return {"held_out": (X, np.full(6, c))}


PLACES = (
    Place("literal in a helper's body", "loss", _literal),
    Place("closure", "loss", _closure),
    Place("default argument", "loss", _default),
    Place("keyword default", "loss", _keyword_default),
    Place("partial", "loss", lambda c: _loss(functools.partial(lambda f, w: f * w, c))),
    Place("method of an object", "loss", lambda c: _loss(Holder(c).scaled)),
    Place("array of an inner jit", "loss", _inner_jit_array),
    Place("array of a jit in a jit in a loop", "loss", _twice_inner_jit),
    Place("custom gradient", "loss", _custom_gradient),
    Place("custom tangent", "loss", _custom_tangent),
    Place("branch", "loss", _branch),
    Place("array scanned over", "loss", _scan),
    Place("behind a callback", "loss", _callback),
    Place("init with a key", "init",
          lambda c: {"init": lambda key: {"w": c * jax.random.normal(key, (2,))}}),
    Place("host init: closure", "init", _host(lambda c: lambda seed: _drawn(seed, c))),
    Place("host init: helper", "init", _host(_host_helper)),
    Place("host init: loaded array", "init", _host(_host_array)),
    Place("host init: partial", "init", _host_partial),
    Place("optimizer's argument", "optimizer",
          lambda c: {"optimizer": lambda hp: optax.sgd(hp["learning_rate"], momentum=c / 10)}),
    Place("schedule's decay", "optimizer", _schedule),
    Place("schedule's boundary", "optimizer", _boundaries),
    Place("observable", "record a",
          lambda c: {"record": {"a": lambda point: c * jnp.sum(point.parameters["w"])}}),
    Place("data", "data", _data),
    Place("held-out data", "data", _held_out),
)  # fmt: skip


def train(changes: dict[str, Any], folder: Path) -> Any:
    """The usual small run with some of its parts replaced."""
    task = {
        "loss": base_loss,
        "data": (X, Y),
        "init": lambda key: {"w": jax.random.normal(key, (2,))},
    }
    given: dict[str, Any] = {"optimizer": lambda hp: optax.sgd(hp["learning_rate"])}
    for name, value in changes.items():
        (given if name in ("optimizer", "record") else task)[name] = value
    return ia.sweep(
        ia.from_loss(**task), axes={"learning_rate": [0.01, 0.1], "seed": [0, 1]}, num_steps=3,
        folder=folder, **given,
    )  # fmt: skip


def first_constant(place: Place) -> float:
    """The constant that a place has at first."""
    return 0.5 if place.part == "optimizer" else 1.25


def change(place: Place, number: int, seed: int) -> float:
    """Another constant, near or far."""
    rng = Random(f"{seed} {place.name} {number}")
    near = 1 + rng.choice((-1, 1)) * 10 ** rng.uniform(-5, -0.5)
    return first_constant(place) * near


def problems(place: Place, numbers: range, seed: int, folder: Path) -> list[str]:
    """What goes wrong with some changes at a place; nothing if all is well."""
    begun = train(place.make(first_constant(place)), folder)
    found = []
    if not train(place.make(first_constant(place)), folder).identical(begun):
        found.append(f"{place.name}: the same functions do not return what is stored")
    for number in numbers:
        constant = change(place, number, seed)
        try:
            train(place.make(constant), folder)
            found.append(f"{place.name}: {constant!r} returns a stored result")
        except ia.UserError as error:
            if f"{place.part}: " not in str(error) or "overwrite=True" not in str(error):
                found.append(f"{place.name}: refused as {error}")
    return found


def main() -> None:
    """Tries many changes and prints what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    each = -(-options.changes // len(PLACES))
    failures = 0
    for place in PLACES:
        with tempfile.TemporaryDirectory() as folder:
            found = problems(place, range(each), options.seed, Path(folder) / "run")
        failures += len(found)
        print(f"{place.name}: {each} changes, {len(found)} wrong", *found, sep="\n  ", flush=True)
    print(f"{each * len(PLACES)} changes at {len(PLACES)} places, {failures} wrong")
    raise SystemExit(failures > 0)


if __name__ == "__main__":
    main()
