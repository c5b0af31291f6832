"""A loss of one's own as a task.

    task = from_loss(loss, init=init, data=(X, y))
    runs = sweep(task, axes={"learning_rate": rates, "seed": range(5)}, optimizer=..., num_steps=9)

Parameters are any pytree: dictionaries of arrays, Flax variables, Equinox modules. Its floating
arrays are trained; everything else in it (functions, masks, counters) is fixed. Running averages
and the like are a state, which the loss returns beside its value, see `from_loss`.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from implicit_accel.engine.step import Evaluation, Task, Values
from implicit_accel.errors import UserError
from implicit_accel.observables import Point
from implicit_accel.tasks.state import (
    check_returned_state,
    is_array,
    is_floating,
    is_same_leaf,
    join_state,
    split_state,
    traced_without_mesh,
)

# A stream of random numbers each, all of the run's seed. In JAX ``split(key, n)[i]`` is
# ``fold_in(key, i)``: numbers beyond any count keep the streams apart from each other and
# from what a user makes of ``jax.random.key(seed)``.
STREAMS = {"init": 0x696E6974, "loss": 0x6C6F7373, "optimizer": 0x6F707469}

# Entries of dictionaries, tuples and lists, in which every number is meant to be a parameter.
# Modules have fields of other kinds.
_IN_CONTAINERS = (jax.tree_util.DictKey, jax.tree_util.SequenceKey)

# JAX computes in 32 bits: whole numbers beyond would wrap.
_LARGEST_WHOLE = 2**31 - 1


def run_key(seed: Any, stream: str) -> jax.Array:
    """The JAX key from which a run draws.

    Args:
        seed: The run's; a whole number below 2³², also traced.
        stream: ``init`` for the key that a task's ``init`` is given, ``loss`` for the one into
            which the step is folded (``jax.random.fold_in``) to make the loss's key, ``optimizer``
            for the one that a function which makes an optimizer is given.

    Raises:
        KeyError: If there is no such stream.
    """
    seed = jnp.asarray(seed, jnp.uint32)
    return jax.random.fold_in(jax.random.key(seed), STREAMS[stream])


def from_loss(
    loss: Callable[..., Any],
    *,
    init: Callable[..., Any],
    data: Any,
    held_out: Any = None,
    optimum: float | None = None,
    reference_loss: float | None = None,
    trainable: Any = None,
    has_aux: bool = False,
    has_state: bool = False,
    name: str = "task",
) -> LossTask:
    """A task from a loss of one's own.

    Args:
        loss: ``loss(params, batch)``, a scalar to minimise, in JAX. Further arguments are given to
            it if it has them: ``hp``, the hyper-parameters by name; ``key``, a JAX key for
            randomness (dropout, noise), a function of the run's seed and the step alone; and
            ``train``, a Python bool, True in steps of training and False where the loss is
            evaluated: on held-out data, on all rows at the ends of epochs, for observables. In
            evaluations the key is None: then the loss should be without randomness.
        init: Makes a run's initial parameters, in single precision whatever training's is, so that
            a seed starts alike in both. It may take ``key``, a JAX key made of the run's
            seed (`run_key`), and ``hp``; then it is traced into the program. If it takes ``seed``,
            a whole number, it is called on the host instead, with ``hp`` as plain numbers if it has
            it.
        data: A pytree of arrays whose first axis is the rows, handed to the loss as ``batch``,
            whole or in mini-batches.
        held_out: The same, not trained on: its loss is recorded as ``held_out_loss``.
        optimum: L*, the smallest loss there is; excess losses are above it. Where it is not known
            the excess loss is the loss itself, which may be negative (a likelihood's).
        reference_loss: Scale of the loss, above 0, such as that of the zero predictor; 1 unless
            given. A run diverges above 10⁶ times the larger of this and the size of its first
            loss.
        trainable: Booleans in the shape of the parameters (or of a prefix of them), False for
            what stays as it is initialised; all by default.
        has_aux: Whether the loss returns (loss, dictionary of scalars); these are recorded too.
        has_state: Whether runs carry a state beside the parameters: batch statistics, an average of
            the parameters, hidden units. Then ``init`` returns (params, state), and the loss is
            ``loss(params, state, batch)``, which returns (loss, state), or with ``has_aux`` (loss,
            (state, dictionary)). The state is any pytree. Its arrays are carried from step to step
            and not differentiated, and no optimizer sees them; the rest of it is fixed. Structure,
            shapes and types must stay. Floating arrays are in the precision of training.
        name: What to call it.

    Returns:
        The task, for `implicit_accel.sweep`.

    With mini-batches, or a loss that takes a key, the loss of a step is one draw of many. The run's
    ``loss``, its final loss and its steps to the target are then those of all rows without
    randomness, evaluated at the ends of epochs; what training saw is recorded as ``batch_loss``.
    Otherwise ``loss`` is what training saw, also if the loss depends on ``train``. Evaluations use
    the state that the run has at that step, and what they return of it is dropped. A step that does
    not move the parameters (the last, or a diverged run's) keeps the state too.

    Raises:
        UserError: If the functions take something else, the data are no rows, or whole numbers
            among them do not fit 32 bits.
    """
    return LossTask(
        loss=loss,
        init=init,
        data=jax.tree.map(np.asarray, data),
        held_out=None if held_out is None else jax.tree.map(np.asarray, held_out),
        optimum=None if optimum is None else float(optimum),
        reference_loss=None if reference_loss is None else float(reference_loss),
        trainable=trainable,
        has_aux=has_aux,
        has_state=has_state,
        name=name,
    )


@dataclass(frozen=True, eq=False)
class LossTask:
    """What `from_loss` makes; its arguments say what the fields are."""

    loss: Callable[..., Any]
    init: Callable[..., Any]
    data: Any
    held_out: Any
    optimum: float | None
    reference_loss: float | None
    trainable: Any
    has_aux: bool
    name: str
    has_state: bool = False

    def __post_init__(self) -> None:
        first = ("params", "state", "batch") if self.has_state else ("params", "batch")
        _check_arguments("loss", self.loss, first=first, allowed=("hp", "key", "train"))
        _check_arguments("init", self.init, first=(), allowed=("key", "hp", "seed"))
        if {"key", "seed"} <= arguments_of(self.init).keys():
            raise UserError("init takes both key and seed: take key, to be traced, or seed")
        for what, arrays in (("data", self.data), ("held_out", self.held_out)):
            leaves = jax.tree.leaves(arrays)
            rows = {a.shape[0] if a.ndim else None for a in leaves}
            if leaves and (len(rows) > 1 or not next(iter(rows))):
                raise UserError(
                    f"{what}: arrays of shapes {[a.shape for a in leaves]} are no rows; the first "
                    "axis of each must be the rows, and there must be some (make arrays of lists)"
                )
            for a in leaves:
                if a.dtype.kind not in "fiub":
                    raise UserError(f"{what}: an array of type {a.dtype}; give numbers")
                if a.dtype.kind == "f" and not np.isfinite(a).all():
                    raise UserError(f"{what}: an array holds numbers that are not finite")
                if a.dtype.kind in "iu" and a.size and not (
                    a.min() >= -_LARGEST_WHOLE - 1 and a.max() <= _LARGEST_WHOLE
                ):  # fmt: skip
                    raise UserError(
                        f"{what}: an array holds whole numbers that do not fit 32 bits; make them "
                        "floating (astype(float)) or subtract an offset"
                    )
        for what in ("optimum", "reference_loss"):
            value = getattr(self, what)
            if value is not None and not math.isfinite(value):
                raise UserError(f"{what} {value}: it must be a finite number")
        if self.reference_loss is not None and not self.reference_loss >= 0:
            raise UserError(f"reference_loss {self.reference_loss}: it must not be negative")

    @property
    def scale(self) -> float:
        """The reference loss, or 1 if it is not known or zero."""
        return self.reference_loss or 1.0

    @property
    def is_random(self) -> bool:
        """Whether the loss takes a key."""
        return "key" in arguments_of(self.loss)

    def check_precision(self, precision: str) -> None:
        """Makes sure that the numbers of the data and of the losses fit a precision.

        Raises:
            UserError: If one overflows.
        """
        largest = float(np.finfo(precision).max)
        leaves = [a for a in jax.tree.leaves(self.arrays()) if a.dtype.kind == "f" and a.size]
        numbers = [*(float(np.abs(a).max()) for a in leaves), self.optimum or 0, self.scale]
        if any(abs(number) > largest for number in numbers):
            raise UserError(
                f"data, optimum or reference_loss: a number is too large for {precision}; rescale "
                "it" + (", or use precision float64" if precision == "float32" else "")
            )

    @property
    def num_rows(self) -> int:
        """Rows that are trained on."""
        leaves = jax.tree.leaves(self.data)
        return len(leaves[0]) if leaves else 0

    @property
    def initialises_on_host(self) -> bool:
        """Whether ``init`` wants a seed."""
        return "seed" in arguments_of(self.init)

    def arrays(self) -> dict[str, Any]:
        """What goes to the devices."""
        return {"train": self.data, "held_out": self.held_out}

    def fingerprint(self) -> str:
        """Of the data's contents."""
        digest = hashlib.sha256(str(jax.tree.structure(self.arrays())).encode())
        for a in jax.tree.leaves(self.arrays()):
            digest.update(f"{a.dtype.str}{a.shape}".encode())
            digest.update(np.ascontiguousarray(a).data)
        return digest.hexdigest()


def arguments_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """A function's arguments by name.

    Raises:
        UserError: If they cannot be read.
    """
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise UserError(f"{function!r}: not a function whose arguments can be read") from None


def _check_arguments(
    what: str, function: Callable[..., Any], *, first: tuple[str, ...], allowed: tuple[str, ...]
) -> None:
    """Makes sure that a function can be called with what there is."""
    if not callable(function):
        raise UserError(f"{what}: give a function, not {type(function).__name__}")
    parameters = list(arguments_of(function).values())
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken, others = parameters[: len(first)], parameters[len(first) :]
    needed = f"({', '.join(first)})"
    # The name says that an argument for the state is missing.
    lacks_state = "state" in first and any(p.name in allowed for p in taken)
    if len(taken) < len(first) or lacks_state or any(p.kind not in plain for p in taken):
        raise UserError(f"{what}: it must take {needed} first, not {_names(parameters)}")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise UserError(
            f"{what} takes * or ** arguments, which do not say what it needs: name those of "
            f"{', '.join(allowed)} that it takes, or wrap it by functools.wraps"
        )
    for p in others:
        if p.name not in allowed and p.default is p.empty:
            advice = "; with has_state=True also a state" if first == ("params", "batch") else ""
            raise UserError(
                f"{what} takes {p.name!r}, which nothing gives it: beside "
                f"{needed if first else 'nothing'} it may take {', '.join(allowed)}{advice}"
            )


def _names(parameters: Sequence[inspect.Parameter]) -> str:
    return f"({', '.join(p.name for p in parameters)})"


@dataclass(frozen=True, eq=False)
class _Held:
    """A value in the structure of a pytree, which JAX compares and hashes, whatever it is."""

    value: Any

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Held) or type(self.value) is not type(other.value):
            return False
        try:
            return self.value is other.value or bool(self.value == other.value)
        except (TypeError, ValueError):  # arrays in a dictionary
            return False

    def __hash__(self) -> int:
        return hash(type(self.value))


@jax.tree_util.register_pytree_node_class
class Named(Mapping[str, Any]):
    """Hyper-parameters by name; it notes which are read, and says what a missing one needs.

    Args:
        values: By name.
        reads: Where the names that are read are noted.
    """

    def __init__(self, values: Mapping[str, Any], reads: set[str] | None = None) -> None:
        self._values, self._reads = dict(values), set() if reads is None else reads

    def __getitem__(self, name: str) -> Any:
        """The value of a hyper-parameter."""
        if name not in self._values:
            axes = ", ".join(self._values) or "none"
            raise UserError(
                f"the task asks for the hyper-parameter {name!r}, which is no axis of the grid "
                f"(these are: {axes}); give one, from the shell by --axes {name}=value:value"
            )
        self._reads.add(name)
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is one of this name."""
        return name in self._values

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a hyper-parameter, or the default."""
        return self[name] if name in self._values else default

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._values)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._values)

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """For functions that JAX compiles: arrays, and all else; all of them count as read."""
        traced = {name: self[name] for name in self._values if is_array(self[name])}
        fixed = tuple((n, _Held(v)) for n, v in self._values.items() if n not in traced)
        return tuple(traced.values()), (tuple(traced), fixed)

    @classmethod
    def tree_unflatten(cls, names: tuple[Any, ...], values: Sequence[Any]) -> Named:
        """The inverse of `tree_flatten`."""
        traced, fixed = names
        return cls(dict(zip(traced, values, strict=True)) | {n: held.value for n, held in fixed})


def call(function: Callable[..., Any], *first: Any, **offered: Any) -> Any:
    """Calls a function with those of the offered arguments that it has."""
    has = arguments_of(function)
    return function(*first, **{name: value for name, value in offered.items() if name in has})


def is_held(leaf: Any) -> bool:
    """Whether a leaf of a model is an array that is not trained: a mask, a counter."""
    return is_array(leaf) and not is_floating(leaf)


def split(tree: Any) -> tuple[Any, Any]:
    """A pytree's floating arrays, and all else; None in the place of the other's leaves.

    Raises:
        UserError: If there is nothing to train, or an array is of a type that is not supported.
    """
    trained = jax.tree.map(lambda a: a if is_floating(a) else None, tree)
    fixed = jax.tree.map(lambda a: None if is_floating(a) else a, tree)
    leaves: Any = jax.tree_util.tree_leaves_with_path(tree)
    for path, leaf in leaves:
        where = jax.tree_util.keystr(path) or "the top"
        if is_floating(leaf) and leaf.dtype.itemsize < 4:
            raise UserError(
                f"init: the array at {where} has type {leaf.dtype}; parameters are trained in "
                "float32 or float64: return one of these, and cast in the loss"
            )
        is_bare = bool(path) and isinstance(path[-1], _IN_CONTAINERS)
        kind = type(leaf)
        if kind is float and is_bare:
            raise UserError(
                f"init: the number at {where} is no array and would not be trained; write "
                "jnp.array(…) to train it, or keep it out of the parameters"
            )
        if is_held(leaf) and is_bare and jnp.issubdtype(leaf.dtype, jnp.integer):
            raise UserError(
                f"init: the array at {where} has type {leaf.dtype} and would not be trained; make "
                "it floating, or keep it in the loss, the data or a module"
            )
        if is_held(leaf) and not (
            jnp.issubdtype(leaf.dtype, jnp.integer) or jnp.issubdtype(leaf.dtype, jnp.bool)
        ):
            raise UserError(
                f"init: the array at {where} has type {leaf.dtype}; floating arrays are trained, "
                "whole numbers and booleans are kept as they are, others are not supported"
            )
    if not jax.tree.leaves(trained):
        raise UserError("init: it returns no floating arrays, so there is nothing to train")
    return trained, fixed


def check_same_fixed(fixed: Any, other: Any) -> None:
    """Makes sure that what is fixed in the models of two runs is the same.

    Raises:
        UserError: If it is not: a program has one of it.
    """
    structures = jax.tree.structure(fixed), jax.tree.structure(other)
    leaves = zip(jax.tree.leaves(fixed), jax.tree.leaves(other), strict=False)
    if structures[0] != structures[1] or not all(is_same_leaf(a, b) for a, b in leaves):
        raise UserError(
            "init: what is not trained (masks, counters, functions) differs between runs; it must "
            "be the same for all, or be made in the loss, or be a static axis"
        )


def join(trained: Any, fixed: Any) -> Any:
    """The inverse of `split`."""
    # Held arrays as JAX's own, as the loss would have them from ``init``.
    return jax.tree.map(
        lambda a, b: (jnp.asarray(b) if is_held(b) else b) if a is None else a,
        trained, fixed, is_leaf=lambda a: a is None,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class BoundTask(Task):
    """A `LossTask` with those hyper-parameters that are fixed in a program.

    Attributes:
        task: The task.
        fixed: What of the parameters is no floating array.
        mask: Booleans in the parameters' structure, or None.
        reads: Where the names of the hyper-parameters that are read are noted.
        state_fixed: What of the state is no array.
        model_state: The state's arrays, see `at`.
        train: Whether the loss is trained on, or evaluated.
    """

    task: LossTask
    fixed: Any
    mask: Any
    reads: set[str] = field(default_factory=set)
    state_fixed: Any = None
    model_state: Any = ()
    train: bool = True

    @property
    @override
    def is_random(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the loss takes a key."""
        return self.task.is_random

    @property
    @override
    def has_held_out(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the task has held-out data."""
        return self.task.held_out is not None

    @property
    @override
    def has_state(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the task has a state."""
        return self.task.has_state

    @property
    @override
    def state(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The run's state, made anew: Equinox invalidates one in place once it has been set."""
        return join_state(self.model_state, self.state_fixed) if self.has_state else None

    @override
    def at(self, model_state: Any, *, train: bool) -> BoundTask:
        return replace(self, model_state=model_state, train=train)

    def whole(self, kept: Any) -> Any:
        """What ``init`` returns, with what is kept of runs: the parameters, or (params, state)."""
        if not self.has_state:
            return self.model(kept)
        params, model_state = kept
        return self.model(params), self.at(model_state, train=False).state

    def evaluated_at(self, point: Point) -> BoundTask:
        """The task in an evaluation, with the state of a run."""
        return self.at(split_state(point.state)[0] if self.has_state else (), train=False)

    @override
    def init(self, hp: Values) -> Any:
        return Initial.of(self.task, initial(self.task, hp, self.reads)).arrays

    @override
    def key(self, hp: Values, step: Any) -> Any:
        return jax.random.fold_in(run_key(hp["seed"], "loss"), step)

    @override
    def model(self, params: Any) -> Any:
        return join(params, self.fixed)

    @override
    def trained(self, model: Any) -> Any:
        return jax.tree.map(lambda a: a if is_floating(a) else None, model)

    @override
    def take(self, data: Any, rows: jax.Array | None) -> Any:
        train = data["train"]
        return train if rows is None else jax.tree.map(lambda a: a[rows], train)

    def _value(self, params: Any, batch: Any, hp: Values, key: Any) -> tuple[Any, Any]:
        """The loss, and what it returns beside it: (the state's arrays, scalars), or scalars."""
        if not self.has_state:
            return self._number(params, batch, hp, key)

        def value(params: Any, carried: Any, batch: Any, traced: Values, key: Any) -> Any:
            given = {n: traced.get(n, a) for n, a in hp.items()}
            return self.at(carried, train=self.train)._number(params, batch, given, key)

        traced = {n: a for n, a in hp.items() if is_array(a)}
        return traced_without_mesh(value, params, self.model_state, batch, traced, key)

    def _number(self, params: Any, batch: Any, hp: Values, key: Any) -> tuple[Any, Any]:
        """What `_value` returns, in the trace of the caller."""
        first = (join(params, self.fixed), *((self.state,) if self.has_state else ()), batch)
        found = call(self.task.loss, *first, hp=Named(hp, self.reads), key=key, train=self.train)
        value, state, aux = self._parts(found)
        # In training's precision, whatever the loss computes in.
        dtype = jax.tree.leaves(params)[0].dtype
        number = _scalar(value, "it must return one number", dtype)
        if not jnp.issubdtype(jnp.asarray(value).dtype, jnp.floating):
            raise UserError("loss: it must return a floating number, whose gradient there is")
        words = "it must return named numbers beside the loss: {!r} is one"
        scalars = {n: _scalar(a, words.format(n), dtype) for n, a in aux.items()}
        if not self.has_state:
            return number, scalars
        check_returned_state(self.state, state)
        arrays = jax.tree.map(jnp.asarray, split_state(state)[0])
        return number, (arrays, scalars)

    def _parts(self, found: Any) -> tuple[Any, Any, Mapping[str, Any]]:
        """The value, the state (None without) and the named numbers that the loss returned.

        Raises:
            UserError: If it returned something else.
        """

        def is_pair(value: Any) -> bool:
            return isinstance(value, tuple) and len(value) == 2

        has_state, has_aux = self.has_state, self.task.has_aux
        if not (has_state or has_aux):
            return found, None, {}
        words = {
            (True, False): ("has_state", "(loss, state)"),
            (False, True): ("has_aux", "(loss, dictionary)"),
            (True, True): ("has_state and has_aux", "(loss, (state, dictionary))"),
        }[has_state, has_aux]
        fits = is_pair(found) and (not (has_state and has_aux) or is_pair(found[1]))
        if fits:
            value, beside = found
            state, aux = beside if has_state and has_aux else (beside, beside)
            if not has_aux:
                return value, state, {}
            if isinstance(aux, Mapping):
                return value, state, aux
        raise UserError(f"loss: with {words[0]} it must return {words[1]}, not {_described(found)}")

    def value_and_gradient(self, params: Any, batch: Any, hp: Values, key: Any) -> Any:
        """((loss, what the loss returns beside it), gradient); arguments as in `Task.evaluate`."""
        return jax.value_and_grad(lambda p: self._value(p, batch, hp, key), has_aux=True)(params)

    @override
    def evaluate(self, params: Any, batch: Any, hp: Values, key: Any) -> Evaluation:
        (value, beside), gradient = self.value_and_gradient(params, batch, hp, key)
        state, aux = beside if self.has_state else ((), beside)
        return Evaluation(value, gradient, value - (self.task.optimum or 0.0), aux, state)

    @override
    def loss(self, params: Any, batch: Any, hp: Values, key: Any) -> Any:
        return self._value(params, batch, hp, key)[0]

    def evaluate_all(self, params: Any, data: Any, hp: Values) -> tuple[Any, dict[str, Any]]:
        """The excess loss of all rows without randomness, and what comes with it."""
        value, beside = self._value(params, data["train"], hp, None)
        return value - (self.task.optimum or 0.0), beside[1] if self.has_state else beside

    @override
    def reference_loss(self, data: Any) -> Any:
        return self.task.scale

    @override
    def optimum(self, data: Any) -> Any:
        return self.task.optimum or 0.0

    @override
    def trainable(self, hp: Values) -> Any | None:
        return self.mask

    @override
    def held_out_loss(self, params: Any, data: Any, hp: Values) -> Any:
        return self._value(params, data["held_out"], hp, None)[0]


def _described(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an array of {value.shape}" if hasattr(value, "shape") else type(value).__name__


def _scalar(value: Any, what: str, dtype: Any) -> jax.Array:
    """A number that a loss returns, in training's precision.

    Raises:
        UserError: If it is none.
    """
    is_number = isinstance(value, int | float) or hasattr(value, "dtype")
    if not is_number or jnp.shape(value) != () or jnp.iscomplexobj(value):
        advice = "; with (loss, dictionary) use has_aux=True" if isinstance(value, tuple) else ""
        raise UserError(f"loss: {what}, not {_described(value)}{advice}")
    return jnp.asarray(value).astype(dtype)


class Initial(NamedTuple):
    """What ``init`` returns, in parts.

    Attributes:
        trained: The parameters' floating arrays.
        fixed: All else of the parameters.
        model_state: The state's arrays; () without a state.
        state_fixed: All else of the state.
        has_state: Whether there is a state.
    """

    trained: Any
    fixed: Any
    model_state: Any = ()
    state_fixed: Any = None
    has_state: bool = False

    @classmethod
    def of(cls, task: LossTask, found: Any) -> Initial:
        """The parts of what a task's ``init`` has returned.

        Raises:
            UserError: If it is no pair although the task has a state, or not supported.
        """
        if not task.has_state:
            return cls(*split(found))
        if not (isinstance(found, tuple) and len(found) == 2):
            raise UserError(
                f"init: with has_state it must return (params, state), not {_described(found)}"
            )
        return cls(*split(found[0]), *split_state(found[1]), has_state=True)

    @property
    def arrays(self) -> Any:
        """What runs start from: the parameters, with a state the pair of both."""
        return (self.trained, self.model_state) if self.has_state else self.trained

    def with_arrays(self, arrays: Any) -> Initial:
        """The same with other arrays, of the structure of `arrays`."""
        trained, model_state = arrays if self.has_state else (arrays, ())
        return self._replace(trained=trained, model_state=model_state)


def initial(task: LossTask, hp: Values, reads: set[str]) -> Any:
    """What a task's traced ``init`` returns: the parameters and all else of their pytree."""
    # In single precision whatever training's is: the same seed starts alike in both.
    single = {
        name: value.astype(np.float32) if is_floating(value) else value
        for name, value in hp.items()
    }
    with jax.enable_x64(False):
        return call(task.init, key=run_key(single["seed"], "init"), hp=Named(single, reads))
