"""Placeholder until the observables branch lands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Point:
    parameters: Any
    value_and_grad: Callable[[Any], tuple[jax.Array, Any]]
    held_out_loss: Callable[[Any], Any] | None
    trainable: Any
    opt_state: Any
    hyper: Mapping[str, Any]
    data: Any
    loss_optimum: Any
    step: Any


Observable = Callable[[Point], Any]


def held_out_loss(point: Point) -> Any:
    assert point.held_out_loss is not None
    return point.held_out_loss(point.parameters)


OBSERVABLES: dict[str, Observable] = {"held_out_loss": held_out_loss}


def parse(names: Any, table: Any) -> dict[str, Observable]:
    return {name: table[name] for name in names}
