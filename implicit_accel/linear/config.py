"""The grid of configurations: what can be asked for, validated when it is made."""

from __future__ import annotations

import itertools
import math
import numbers
import sys
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from implicit_accel.engine.layout import spaced_steps
from implicit_accel.engine.train import PRECISIONS
from implicit_accel.errors import UserError
from implicit_accel.linear.initialisers import Initialiser
from implicit_accel.linear.losses import Loss, shortest
from implicit_accel.linear.networks import ACTIVATIONS
from implicit_accel.optimizers import Optimizer

# Recorded losses of a grid, which are held in memory: 8 GiB in float32.
_MOST_RECORDS = 2**31

# Combinations of all fields but learning rate and seed.
_MOST_MODELS = 10_000
_MOST_RATES = 100_000


@dataclass(frozen=True)
class Target:
    """The excess loss at which a run has arrived.

    Attributes:
        value: The excess loss L − L*, or, if relative, its share of the zero map's excess loss
            (the loss of predicting 0, which near-zero initialisation starts from).
        relative: Which of the two.

    Raises:
        UserError: If the value is not a number above 0, or a share not below 1.
    """

    value: float
    relative: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0):
            raise UserError(f"target {self.value:g}: the target excess loss must be above 0")
        if self.relative and self.value >= 1:
            raise UserError(f"target {100 * self.value:g}%: a relative target must be below 100%")

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads ``1e-5`` (an excess loss) or ``10%`` (of the zero map's).

        Raises:
            UserError: If the text is neither.
        """
        relative = text.endswith("%")
        try:
            number = Decimal(text.removesuffix("%"))
            value = float(number / 100 if relative else number)
        except (ArithmeticError, ValueError):
            raise UserError(
                f"target {text!r}: write an excess loss like 1e-5, or a share like 10%"
            ) from None
        return cls(value, relative)

    def absolute(self, zero_excess: float) -> float:
        """The target as an excess loss, for a problem whose zero map has this excess loss."""
        return self.value * zero_excess if self.relative else self.value

    def __str__(self) -> str:
        """As `parse` reads it."""
        text = shortest(self.value)
        if not self.relative:
            return text
        # In decimals: 100 times the binary number would be rounded.
        percent = (Decimal(text) * 100).normalize()
        return (f"{percent:f}" if percent > Decimal("1e-4") else str(percent).lower()) + "%"


def parse_learning_rates(items: Sequence[str]) -> tuple[float, ...]:
    """Reads numbers and log ranges, e.g. ``["log:1e-5:0.5:24"]`` or ``["0.1", "0.2"]``.

    ``log:low:high:count`` is ``count`` rates from low to high in equal ratios.

    Returns:
        The rates, in the order given.

    Raises:
        UserError: If an item has another form.
    """
    rates: list[float] = []
    for item in items:
        try:
            if item.startswith("log:"):
                low_text, high_text, count_text = item.removeprefix("log:").split(":")
                low, high, count = float(low_text), float(high_text), int(count_text)
                if not (0 < low < high < math.inf and 2 <= count <= _MOST_RATES):
                    raise ValueError
                # Six digits are ample for a learning rate, and read well in tables and labels.
                with np.errstate(over="ignore"):  # at the largest number; the ends are set exactly
                    rates += [float(f"{rate:.6g}") for rate in np.geomspace(low, high, count)]
            else:
                rates.append(float(item))
        except ValueError:
            raise UserError(
                f"learning rate {item!r}: write numbers above 0, or log:low:high:count with "
                "0 < low < high and count >= 2"
            ) from None
        if len(rates) > _MOST_RATES:
            raise UserError(f"more than {_MOST_RATES:,} learning rates: give fewer")
    return tuple(rates)


HiddenWidths = int | tuple[int, ...]


def parse_hidden_widths(item: str) -> HiddenWidths:
    """Reads ``10`` (every hidden layer, at every depth) or ``64x32`` (a depth-3 network's).

    Raises:
        UserError: If the item has another form.
    """
    try:
        widths = tuple(int(part) for part in item.split("x"))
    except ValueError:
        raise UserError(
            f"hidden width {item!r}: write a whole number like 10, or one per hidden layer "
            "like 64x32"
        ) from None
    return widths[0] if len(widths) == 1 else widths


@dataclass(frozen=True)
class Model:
    """One row of the summary: everything of a configuration but learning rate and seed.

    Attributes:
        hidden_widths: Widths of the hidden layers; empty for a single layer.
        initialiser: How the weights start.
        loss: What is minimised.
        optimizer: By what.
        weight_decay: λ.
    """

    hidden_widths: tuple[int, ...]
    initialiser: Initialiser
    loss: Loss
    optimizer: Optimizer
    weight_decay: float = 0.0

    @property
    def depth(self) -> int:
        """Number of weight matrices N."""
        return len(self.hidden_widths) + 1

    @property
    def hidden(self) -> str:
        """The hidden widths as text, ``10x10``; ``-`` for a single layer."""
        return "x".join(map(str, self.hidden_widths)) or "-"

    @property
    def text(self) -> str:
        """All of it as text: equal for models that train alike, and for no others."""
        init, std = self.initialiser.key
        optimizer = [self.optimizer.name, *(f"{k}={v}" for k, v in self.optimizer.settings)]
        return " ".join(
            [
                self.loss.name,
                self.loss.convention,
                ":".join(optimizer),
                f"decay={shortest(self.weight_decay)}",
                init if std is None else f"{init}:{shortest(std)}",
                f"hidden={self.hidden}",
            ]
        )

    @property
    def key(self) -> Hashable:
        """Equal for models that train alike."""
        return (
            self.hidden_widths, self.initialiser.key, self.loss, self.optimizer, self.weight_decay
        )  # fmt: skip


@dataclass(frozen=True)
class SweepConfig:
    """A grid: the product of its fields, without repetitions.

    A single layer has no hidden width, and some initialisers have no standard deviation: such
    combinations that are the same model are trained once.

    Attributes:
        depths: Numbers of weight matrices.
        hidden_widths: A width for all hidden layers, or a tuple of one network's own.
        inits: Names of initialisers.
        init_stds: Their standard deviations.
        losses: Losses.
        optimizers: Optimizers with their settings.
        weight_decays: λ's.
        learning_rates: η's.
        num_seeds: How many seeds.
        first_seed: The least of them; the others follow it.
        num_steps: Updates per run.
        target: Excess loss at which a run has arrived.
        records_per_decade: How many steps' losses are kept, evenly spaced on a log axis.
        precision: ``float32`` or ``float64``.
        bias: Whether layers have biases.
        activation: Between layers.

    Raises:
        UserError: If a field is empty, repeats itself or holds a value that is not allowed.
    """

    depths: tuple[int, ...] = (1, 2, 3)
    hidden_widths: tuple[HiddenWidths, ...] = (1,)
    inits: tuple[str, ...] = ("near_zero",)
    init_stds: tuple[float, ...] = (0.01,)
    losses: tuple[Loss, ...] = (Loss(2), Loss(4))
    optimizers: tuple[Optimizer, ...] = (Optimizer("sgd"),)
    weight_decays: tuple[float, ...] = (0.0,)
    learning_rates: tuple[float, ...] = field(
        default_factory=lambda: parse_learning_rates(["log:1e-3:3:29"])
    )
    num_seeds: int = 5
    first_seed: int = 0
    num_steps: int = 20_000
    target: Target = Target(0.1, relative=True)
    records_per_decade: int = 150
    precision: str = "float32"
    bias: bool = False
    activation: str = "identity"

    def __post_init__(self) -> None:
        lists = {
            "depths": self.depths,
            "hidden widths": self.hidden_widths,
            "inits": self.inits,
            "init stds": self.init_stds,
            "losses": self.losses,
            "optimizers": self.optimizers,
            "weight decays": self.weight_decays,
            "learning rates": self.learning_rates,
        }
        for name, values in lists.items():
            if not isinstance(values, tuple):
                raise UserError(f"{name}: must be a tuple, not {values!r}")
            if not values:
                raise UserError(f"{name}: the list is empty, give at least one")
        whole, real = numbers.Integral, numbers.Real
        widths = itertools.chain(*(w if isinstance(w, tuple) else (w,) for w in self.hidden_widths))
        for name, values, kind, allowed, what in (
            ("depth", self.depths, whole, (1, 1000), "a whole number >= 1, at most 1000"),
            ("hidden width", widths, whole, (1, 10**6), "a whole number >= 1, at most 10^6"),
            ("init", self.inits, str, None, "a name"),
            ("init std", self.init_stds, real, (-_LARGEST, _LARGEST), "a finite number"),
            ("loss", self.losses, Loss, None, "a Loss"),
            ("optimizer", self.optimizers, Optimizer, None, "an Optimizer"),
            ("learning rate", self.learning_rates, real, (_LEAST, _LARGEST), "a number above 0"),
            ("weight decay", self.weight_decays, real, (0, _LARGEST), "a number >= 0"),
            (
                "number of seeds",
                [self.num_seeds],
                whole,
                (1, 10**6),
                "a whole number >= 1, at most 10^6",
            ),
            (
                "number of steps",
                [self.num_steps],
                whole,
                (1, 2**31 - 2**20),
                "a whole number from 1 to about 2e9",
            ),
            ("first seed", [self.first_seed], whole, (0, 10**9), "from 0 to 10^9"),
            (
                "records per decade",
                [self.records_per_decade],
                whole,
                (1, 100_000),
                "from 1 to 100 000",
            ),
            ("target", [self.target], Target, None, "a Target"),
            ("bias", [self.bias], bool, None, "true or false"),
        ):
            _check_all(name, values, kind, allowed, what)
        for name, values in lists.items():
            seen = set()
            for value in values:
                if value in seen:
                    raise UserError(f"{name}: {getattr(value, 'name', value)} is given twice")
                seen.add(value)
        for name, value, allowed in (
            ("precision", self.precision, PRECISIONS),
            ("activation", self.activation, ACTIVATIONS),
        ):
            if value not in allowed:
                raise UserError(f"{name} {value!r}: choose from {', '.join(allowed)}")
        for widths in self.hidden_widths:
            if isinstance(widths, tuple) and len(widths) + 1 not in self.depths:
                text = "x".join(map(str, widths))
                raise UserError(
                    f"hidden widths {text} make a network of depth {len(widths) + 1}, "
                    f"which is not among the depths {', '.join(map(str, self.depths))}"
                )
        combinations = math.prod(len(v) for name, v in lists.items() if name != "learning rates")
        if combinations > _MOST_MODELS:
            raise UserError(
                f"{combinations:,} combinations of models are more than {_MOST_MODELS:,}: shorten "
                "the lists"
            )
        fitting = {m.depth for m in self.models}  # making the models validates initialisers
        for depth in self.depths:
            if depth not in fitting:
                raise UserError(
                    f"depth {depth}: none of the hidden widths fits it; give a whole number, which "
                    "fits every depth, or leave the depth out"
                )

        runs = len(self.models) * len(self.learning_rates) * self.num_seeds
        if runs * len(self.record_steps) > _MOST_RECORDS:
            raise UserError(
                f"{runs:,} runs with {len(self.record_steps):,} recorded steps each are more than "
                f"{_MOST_RECORDS:,} numbers to keep: ask for fewer records, seeds or learning rates"
            )

    @property
    def seeds(self) -> range:
        """The seeds of the initial weights."""
        return range(self.first_seed, self.first_seed + self.num_seeds)

    @property
    def models(self) -> tuple[Model, ...]:
        """The distinct models, in the order in which the fields list them."""
        models: dict[Hashable, Model] = {}
        for loss, optimizer, decay, init, std, depth, widths in itertools.product(
            self.losses,
            self.optimizers,
            self.weight_decays,
            self.inits,
            self.init_stds,
            self.depths,
            self.hidden_widths,
        ):
            if depth == 1:
                hidden = ()
            elif not isinstance(widths, tuple):
                hidden = (widths,) * (depth - 1)
            elif len(widths) == depth - 1:
                hidden = widths
            else:
                continue
            model = Model(hidden, Initialiser(init, std), loss, optimizer, decay)
            models.setdefault(model.key, model)
        return tuple(models.values())

    def settings(self) -> dict[str, Any]:
        """What results depend on beside models, learning rates, seeds and steps, for JSON."""
        return {
            "target": str(self.target),
            "records_per_decade": self.records_per_decade,
            "precision": self.precision,
            "bias": self.bias,
            "activation": self.activation,
        }

    @property
    def record_steps(self) -> np.ndarray:
        """Increasing step numbers whose losses are kept: 0, …, num_steps."""
        return spaced_steps(self.num_steps, self.records_per_decade)


_LEAST, _LARGEST = math.nextafter(0, 1), sys.float_info.max


def _check_all(
    name: str,
    values: Iterable[object],
    kind: type,
    bounds: tuple[float, float] | None,
    what: str,
) -> None:
    for value in values:
        right = isinstance(value, kind) and isinstance(value, bool) <= (kind is bool)
        # NaN is in no range
        if not right or (bounds and not bounds[0] <= value <= bounds[1]):  # pyright: ignore
            raise UserError(f"{name} {value}: must be {what}")
