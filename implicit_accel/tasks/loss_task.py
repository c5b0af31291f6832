"""A loss of one's own as a task.

    task = from_loss(loss, init=init, data=(X, y))
    runs = sweep(task, axes={"learning_rate": rates, "seed": range(5)}, optimizer=..., num_steps=9)

Parameters are any pytree: dictionaries of arrays, Flax variables, Equinox modules. Its floating
arrays are trained; everything else in it is fixed.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from implicit_accel.engine.step import Evaluation, Task, Values
from implicit_accel.errors import UserError


def from_loss(
    loss: Callable[..., Any],
    *,
    init: Callable[..., Any],
    data: Any,
    held_out: Any = None,
    optimum: float = 0.0,
    reference_loss: float = 0.0,
    trainable: Any = None,
    has_aux: bool = False,
    name: str = "task",
) -> LossTask:
    """A task from a loss of one's own.

    Args:
        loss: ``loss(params, batch)``, a scalar to minimise, in JAX. Further arguments are given to
            it if it has them: ``hp``, the hyper-parameters by name, and ``key``, a JAX key for
            randomness, a function of the run's seed and the step alone (None where the loss is
            evaluated for an observable: then it should be without randomness).
        init: Makes a run's initial parameters. It may take ``key``, a JAX key made of the run's
            seed, and ``hp``; then it is traced into the program. If it takes ``seed``, a whole
            number, it is called on the host instead, with ``hp`` as plain numbers if it has it.
        data: A pytree of arrays whose first axis is the rows, handed to the loss as ``batch``,
            whole or in mini-batches.
        held_out: The same, not trained on: its loss is recorded as ``held_out_loss``.
        optimum: L*, the smallest loss there is, where it is known: excess losses are above it.
        reference_loss: The loss of knowing nothing. A run diverges above 10⁶ times the larger of
            this and its first loss.
        trainable: Booleans in the shape of the parameters (or of a prefix of them), False for
            what stays as it is initialised; all by default.
        has_aux: Whether the loss returns (loss, dictionary of scalars); these are recorded too.
        name: What to call it.

    Returns:
        The task, for `implicit_accel.sweep`.

    Raises:
        UserError: If the functions take something else, or the data are no rows.
    """
    return LossTask(
        loss=loss,
        init=init,
        data=jax.tree.map(np.asarray, data),
        held_out=None if held_out is None else jax.tree.map(np.asarray, held_out),
        optimum=float(optimum),
        reference_loss=float(reference_loss),
        trainable=trainable,
        has_aux=has_aux,
        name=name,
    )


@dataclass(frozen=True, eq=False)
class LossTask:
    """What `from_loss` makes; its arguments say what the fields are."""

    loss: Callable[..., Any]
    init: Callable[..., Any]
    data: Any
    held_out: Any
    optimum: float
    reference_loss: float
    trainable: Any
    has_aux: bool
    name: str

    def __post_init__(self) -> None:
        _check_arguments("loss", self.loss, first=2, allowed=("hp", "key"))
        _check_arguments("init", self.init, first=0, allowed=("key", "hp", "seed"))
        if {"key", "seed"} <= _arguments(self.init).keys():
            raise UserError("init takes both key and seed: take key, to be traced, or seed")
        for what, arrays in (("data", self.data), ("held_out", self.held_out)):
            leaves = jax.tree.leaves(arrays)
            rows = {a.shape[0] if a.ndim else None for a in leaves}
            if leaves and (len(rows) > 1 or not next(iter(rows))):
                raise UserError(
                    f"{what}: arrays of shapes {[a.shape for a in leaves]} are no rows; the first "
                    "axis of each must be the rows, and there must be some"
                )
            for a in leaves:
                if a.dtype.kind not in "fiub":
                    raise UserError(f"{what}: an array of type {a.dtype}; give numbers")
                if a.dtype.kind == "f" and not np.isfinite(a).all():
                    raise UserError(f"{what}: an array holds numbers that are not finite")
        for what in ("optimum", "reference_loss"):
            if not math.isfinite(getattr(self, what)):
                raise UserError(f"{what} {getattr(self, what)}: it must be a finite number")

    @property
    def num_rows(self) -> int:
        """Rows that are trained on."""
        leaves = jax.tree.leaves(self.data)
        return len(leaves[0]) if leaves else 0

    @property
    def initialises_on_host(self) -> bool:
        """Whether ``init`` wants a seed."""
        return "seed" in _arguments(self.init)

    def arrays(self) -> dict[str, Any]:
        """What goes to the devices."""
        return {"train": self.data, "held_out": self.held_out}

    def fingerprint(self) -> str:
        """Of the data's contents, and of the numbers that results depend on."""
        digest = hashlib.sha256(repr((self.optimum, self.reference_loss)).encode())
        for a in jax.tree.leaves(self.arrays()):
            digest.update(f"{a.dtype.str}{a.shape}".encode())
            digest.update(np.ascontiguousarray(a).data)
        return digest.hexdigest()


def _arguments(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise UserError(f"{function!r}: not a function whose arguments can be read") from None


def _check_arguments(
    what: str, function: Callable[..., Any], *, first: int, allowed: tuple[str, ...]
) -> None:
    """Makes sure that a function can be called with what there is."""
    if not callable(function):
        raise UserError(f"{what}: give a function, not {type(function).__name__}")
    parameters = list(_arguments(function).values())
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) < first or any(p.kind not in plain for p in parameters[:first]):
        raise UserError(f"{what}: it must take (params, batch) first, not {_names(parameters)}")
    for p in parameters[first:]:
        if p.name not in allowed and p.default is p.empty and p.kind not in (
            p.VAR_POSITIONAL, p.VAR_KEYWORD
        ):  # fmt: skip
            raise UserError(
                f"{what} takes {p.name!r}, which nothing gives it: beside "
                f"{'(params, batch)' if first else 'nothing'} it may take {', '.join(allowed)}"
            )


def _names(parameters: Sequence[inspect.Parameter]) -> str:
    return f"({', '.join(p.name for p in parameters)})"


class Named(dict[str, Any]):
    """Hyper-parameters by name, which say what a missing one needs."""

    def __missing__(self, name: str) -> Any:
        """There is none of this name."""
        axes = ", ".join(self) or "none"
        raise UserError(
            f"the task asks for the hyper-parameter {name!r}, which is no axis of the grid "
            f"(these are: {axes}); give one, from the shell by --axes {name}=value:value"
        )


def call(function: Callable[..., Any], *first: Any, **offered: Any) -> Any:
    """Calls a function with those of the offered arguments that it has."""
    has = _arguments(function)
    if "hp" in offered:
        offered["hp"] = Named(offered["hp"])
    return function(*first, **{name: value for name, value in offered.items() if name in has})


def _is_trained(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic) and jnp.issubdtype(
        leaf.dtype, jnp.floating
    )


def split(tree: Any) -> tuple[Any, Any]:
    """A pytree's floating arrays, and all else; None in the place of the other's leaves."""
    trained = jax.tree.map(lambda a: a if _is_trained(a) else None, tree)
    fixed = jax.tree.map(lambda a: None if _is_trained(a) else a, tree)
    for path, leaf in jax.tree_util.tree_leaves_with_path(fixed):
        if isinstance(leaf, jax.Array | np.ndarray):
            where = jax.tree_util.keystr(path)
            raise UserError(
                f"init: the array at {where or 'the top'} has type {leaf.dtype}; parameters are "
                "floating arrays, keep others in the loss or the data"
            )
    if not jax.tree.leaves(trained):
        raise UserError("init: it returns no floating arrays, so there is nothing to train")
    return trained, fixed


def join(trained: Any, fixed: Any) -> Any:
    """The inverse of `split`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, trained, fixed, is_leaf=lambda a: a is None
    )


@dataclass(frozen=True, eq=False)
class BoundTask(Task):
    """A `LossTask` with those hyper-parameters that are fixed in a program.

    Attributes:
        task: The task.
        fixed: What of the parameters is no floating array.
        mask: Booleans in the parameters' structure, or None.
    """

    task: LossTask
    fixed: Any
    mask: Any

    @property
    def is_random(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the loss takes a key."""
        return "key" in _arguments(self.task.loss)

    @property
    def has_held_out(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the task has held-out data."""
        return self.task.held_out is not None

    def init(self, hp: Values) -> Any:
        """See `Task.init`."""
        return split(initial(self.task, hp))[0]

    def take(self, data: Any, rows: jax.Array | None) -> Any:
        """See `Task.take`."""
        train = data["train"]
        return train if rows is None else jax.tree.map(lambda a: a[rows], train)

    def _value(self, params: Any, batch: Any, hp: Values, key: Any) -> tuple[Any, dict[str, Any]]:
        model = join(params, self.fixed)
        found = call(self.task.loss, model, batch, hp=hp, key=key)
        value, aux = found if self.task.has_aux else (found, {})
        value = jnp.asarray(value)
        if value.shape != ():
            raise UserError(f"loss: it must return one number, not an array of {value.shape}")
        return value, dict(aux)

    def evaluate(self, params: Any, batch: Any, hp: Values, key: Any) -> Evaluation:
        """See `Task.evaluate`."""
        (value, aux), gradient = jax.value_and_grad(
            lambda p: self._value(p, batch, hp, key), has_aux=True
        )(params)
        return Evaluation(value, gradient, value - self.task.optimum, aux)

    def reference_loss(self, data: Any) -> Any:  # noqa: ARG002
        """See `Task.reference_loss`."""
        return self.task.reference_loss

    def optimum(self, data: Any) -> Any:  # noqa: ARG002
        """See `Task.optimum`."""
        return self.task.optimum

    def trainable(self, hp: Values) -> Any | None:  # noqa: ARG002
        """See `Task.trainable`."""
        return self.mask

    def held_out_loss(self, params: Any, data: Any, hp: Values) -> Any:
        """See `Task.held_out_loss`."""
        return self._value(params, data["held_out"], hp, None)[0]


def initial(task: LossTask, hp: Values) -> Any:
    """What a task's traced ``init`` gives: the parameters and all else of their pytree."""
    # In single precision whatever training's is: the same seed starts alike in both.
    single = {
        name: value.astype(np.float32) if _is_trained(value) else value
        for name, value in hp.items()
    }
    with jax.enable_x64(False):
        return call(task.init, key=jax.random.key(single["seed"]), hp=single)
