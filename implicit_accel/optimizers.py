"""Optimizers by name, with a learning rate and weight decay that may be traced.

They are optax's own, schedules and adaptive steps for gradient descent
(`implicit_accel.schedules`), and the end-to-end rule (`implicit_accel.linear.end_to_end`).

A traced learning rate lets one compiled program train every rate of a grid. The optimizer is
built inside the mapped function: this gives the same bits as a Python float would, which
``optax.inject_hyperparams`` does not for every optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optax

from implicit_accel.errors import UserError
from implicit_accel.fields import finite, is_real, plain, shown
from implicit_accel.linear.end_to_end import scale_by_end_to_end
from implicit_accel.schedules import (
    scale_by_excess_loss,
    scale_by_line_search,
    scale_by_normalized,
    scale_by_polyak_step,
    scale_by_silver_steps,
    scale_by_warmup,
)

Setting = float | bool

_LARGEST_DEPTH = 1000


@dataclass(frozen=True)
class _Kind:
    build: Callable[..., optax.GradientTransformation]
    settings: dict[str, Setting]
    fixed: dict[str, Setting] = field(default_factory=dict)
    # Whether it commutes with rotations of the features, W_1 → W_1 V (see reductions.py): linear
    # functions of the gradients with scalar coefficients do, the end-to-end rule as well.
    is_equivariant: bool = False
    # Whether it applies weight decay itself, apart from the gradient (AdamW).
    decouples_decay: bool = False
    # Whether every entry moves by that entry's own gradients, see `Optimizer.is_entrywise`.
    is_entrywise: bool = True


def _end_to_end(
    learning_rate: Any, depth: Setting = 2, weight_decay: Any = 0.0, **parts: bool
) -> optax.GradientTransformation:
    rule = scale_by_end_to_end(int(depth), weight_decay, **parts)
    return optax.chain(rule, optax.scale_by_learning_rate(learning_rate))


def _scaled(
    scale: Callable[..., optax.GradientTransformation],
) -> Callable[..., optax.GradientTransformation]:
    """Gradient descent with a factor of `implicit_accel.schedules`."""

    def build(learning_rate: Any, **settings: Setting) -> optax.GradientTransformation:
        return optax.chain(scale(**settings), optax.scale_by_learning_rate(learning_rate))

    return build


_ADAM: dict[str, Setting] = {
    "b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0, "nesterov": False
}  # fmt: skip

# The defaults of optax's optimizers are its own; a test holds them to it.
# Schedules multiply the gradient by a scalar that rotations do not change.
_KINDS: dict[str, _Kind] = {
    "sgd": _Kind(optax.sgd, {}, is_equivariant=True),
    "momentum": _Kind(optax.sgd, {"momentum": 0.9}, is_equivariant=True),
    "nesterov": _Kind(optax.sgd, {"momentum": 0.9}, fixed={"nesterov": True}, is_equivariant=True),
    "adagrad": _Kind(optax.adagrad, {"initial_accumulator_value": 0.1, "eps": 1e-7}),
    "adadelta": _Kind(optax.adadelta, {"rho": 0.9, "eps": 1e-6}),
    "rmsprop": _Kind(
        optax.rmsprop,
        {"decay": 0.9, "eps": 1e-8, "initial_scale": 0.0, "eps_in_sqrt": True, "centered": False},
    ),
    "adam": _Kind(optax.adam, _ADAM),
    "adamw": _Kind(optax.adamw, _ADAM, decouples_decay=True),
    "warmup": _Kind(_scaled(scale_by_warmup), {"steps": 300.0}, is_equivariant=True),
    "silver": _Kind(_scaled(scale_by_silver_steps), {}, is_equivariant=True),
    "excess_loss": _Kind(_scaled(scale_by_excess_loss), {"power": 0.5}, is_equivariant=True),
    "normalized": _Kind(
        _scaled(scale_by_normalized), {"power": 0.5}, is_equivariant=True, is_entrywise=False
    ),
    "polyak": _Kind(_scaled(scale_by_polyak_step), {}, is_equivariant=True, is_entrywise=False),
    "line_search": _Kind(
        _scaled(scale_by_line_search), {}, is_equivariant=True, is_entrywise=False
    ),
    "end_to_end": _Kind(
        _end_to_end,
        {"depth": 2, "rate": True, "projection": True},
        is_equivariant=True,
        decouples_decay=True,
    ),
}

OPTIMIZERS = tuple(_KINDS)


@dataclass(frozen=True)
class Optimizer:
    """An optimizer and its settings, all but the learning rate and the weight decay.

    Attributes:
        name: One of `OPTIMIZERS`; ``sgd`` is full-batch gradient descent, ``end_to_end`` the rule
            by which a deep linear network's end-to-end matrix moves, applied to every weight
            matrix (`scale_by_end_to_end`; its ``depth`` is the emulated network's, ``rate`` and
            ``projection`` may be switched off). Gradient descent with a factor on the learning
            rate (`implicit_accel.schedules`): ``warmup`` (linear, over ``steps``), ``silver``,
            ``excess_loss`` (a rate that grows as the loss falls, to a ``power``), ``normalized``,
            ``polyak`` and ``line_search``; of the last two the learning rate is a share of the
            step, near 1.
        settings: (name, value) pairs that replace defaults, e.g. ``(("momentum", 0.8),)``; a
            dictionary may be given, and is stored as pairs.

    Raises:
        UserError: If the name or a setting is unknown, or a value is out of range.
    """

    name: str = "sgd"
    settings: tuple[tuple[str, Setting], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in _KINDS:
            raise UserError(
                f"optimizer {shown(self.name, repr)}: choose from {', '.join(OPTIMIZERS)}"
            )
        object.__setattr__(self, "settings", self._pairs())
        allowed = _KINDS[self.name].settings
        for key, value in self.settings:
            if not isinstance(key, str) or key not in allowed:
                names = ", ".join(allowed) or "none: it has no settings but the learning rate"
                raise UserError(
                    f"optimizer {self.name} has no setting {shown(key, repr)}: it has {names}"
                )
            if isinstance(allowed[key], bool):
                if not isinstance(value, bool):
                    raise UserError(f"optimizer setting {self.name}:{key} must be true or false")
                continue
            if not is_real(value):
                raise UserError(f"optimizer setting {self.name}:{key} must be a number")
            if finite(value) is None or value < 0 or (key == "eps" and value == 0):
                bound = "> 0" if key == "eps" else ">= 0"
                raise UserError(
                    f"optimizer setting {self.name}:{key}={shown(value)}: must be {bound}"
                )
            if key in ("b1", "b2", "momentum", "rho", "decay") and value >= 1:
                raise UserError(f"optimizer setting {self.name}:{key}={value}: must be below 1")
            if key == "steps" and value < 1:
                raise UserError(f"optimizer setting {self.name}:{key}={value:g}: must be >= 1 step")
            if key == "depth" and not (1 <= value <= _LARGEST_DEPTH and value == int(value)):
                raise UserError(
                    f"optimizer setting {self.name}:{key}={value:g}: must be a whole number >= 1, "
                    f"at most {_LARGEST_DEPTH}"
                )
        if len({key for key, _ in self.settings}) < len(self.settings):
            raise UserError(f"optimizer {self.name}: a setting is given twice")

    def _pairs(self) -> tuple[tuple[Any, Any], ...]:
        """The settings as pairs, numbers as the ``float`` that `parse_settings` makes of them."""
        given: Any = self.settings
        try:
            pairs = [
                (key, plain(value))
                for key, value in (given.items() if isinstance(given, Mapping) else given)
            ]
        except (TypeError, ValueError):
            raise UserError(
                f"optimizer {self.name}: its settings must be pairs or a dictionary, like "
                f"{{'momentum': 0.8}}, not {shown(given)}"
            ) from None
        return tuple(
            (key, value if (number := finite(value)) is None else float(number))
            for key, value in pairs
        )

    @property
    def settings_text(self) -> str:
        """The settings as the command line has them, ``momentum=0.8``; empty for the defaults."""
        return ":".join(f"{key}={value}" for key, value in self.settings)

    @property
    def is_equivariant(self) -> bool:
        """Whether updates commute with rotations of the features, so that these may be rotated."""
        return _KINDS[self.name].is_equivariant

    @property
    def is_entrywise(self) -> bool:
        """Whether frozen padding may be seen by it, see `engine.step.Program`.

        Those are which scale entry by entry. So is the end-to-end rule, which works on one matrix
        at a time, frozen whole or filled up with zeros. Steps that depend on the gradient's norm or
        on the loss along it are not.
        """
        return _KINDS[self.name].is_entrywise

    def build(self, learning_rate: Any, weight_decay: Any = None) -> optax.GradientTransformation:
        """The optax transformation.

        Args:
            learning_rate: η, a number or a traced scalar of the parameters' type.
            weight_decay: λ, likewise, or None for none. It is the gradient of ``λ/2 ‖θ‖²`` added
                to the loss's gradient, so that gradient descent gives
                ``W_j ← (1 − ηλ) W_j − η ∂L/∂W_j``; for ``adamw`` it is the decoupled decay of
                Loshchilov & Hutter (2019), ``θ ← θ − η (Adam's update + λ θ)``; for ``end_to_end``
                it is that of each of the emulated network's N layers, ``− η λ N W``.

        Returns:
            A pair of pure functions, see optax.
        """
        kind = _KINDS[self.name]
        settings = {**kind.settings, **dict(self.settings), **kind.fixed}
        if kind.decouples_decay:
            decay = 0.0 if weight_decay is None else weight_decay
            return kind.build(learning_rate, weight_decay=decay, **settings)
        transformation = kind.build(learning_rate, **settings)
        if weight_decay is None:
            return transformation
        return optax.chain(optax.add_decayed_weights(weight_decay), transformation)


def parse_settings(texts: Iterable[str]) -> dict[str, tuple[tuple[str, Setting], ...]]:
    """Reads ``optimizer:setting=value`` items, e.g. ``momentum:momentum=0.8``.

    Returns:
        Settings by optimizer name, for `Optimizer`.

    Raises:
        UserError: If an item has another form or names an unknown optimizer.
    """
    settings: dict[str, tuple[tuple[str, Setting], ...]] = {}
    for text in texts:
        name, colon, rest = text.partition(":")
        key, equals, value_text = rest.partition("=")
        if not (colon and equals):
            raise UserError(f"optimizer setting {text!r}: write optimizer:setting=value")
        if name not in _KINDS:
            raise UserError(f"optimizer {name!r}: choose from {', '.join(OPTIMIZERS)}")
        lowered = value_text.lower()
        if lowered in ("true", "false"):
            value: Setting = lowered == "true"
        else:
            try:
                value = float(value_text)
            except ValueError:
                raise UserError(
                    f"optimizer setting {text!r}: {value_text!r} is not a number, true or false"
                ) from None
        settings[name] = (*settings.get(name, ()), (key, value))
    return settings
