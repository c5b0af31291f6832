"""The grid of configurations and its settings, which are validated when it is made."""

from __future__ import annotations

import itertools
import math
import numbers
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from implicit_accel.engine.chunks import PRECISIONS
from implicit_accel.engine.layout import spaced_steps
from implicit_accel.errors import UserError
from implicit_accel.fields import (
    MAX_ITEMS,
    Allowed,
    Field,
    check,
    each,
    fields_of,
    finite,
    setting,
    shown,
    write,
)
from implicit_accel.linear.initialisers import INITIALISERS, Initialiser
from implicit_accel.linear.losses import CONVENTIONS, Loss, shortest
from implicit_accel.linear.networks import ACTIVATIONS
from implicit_accel.linear.observables import OBSERVABLES
from implicit_accel.observables import parse
from implicit_accel.optimizers import OPTIMIZERS, Optimizer, Setting, parse_settings

# Recorded losses of a grid, which are held in memory: 8 GiB in float32.
_MOST_RECORDS = 2**31

# Combinations of all fields but learning rate and seed.
_MOST_MODELS = 10_000


@dataclass(frozen=True)
class Target:
    """The excess loss at which a run has reached the target.

    Attributes:
        value: The excess loss L − L*, or, if relative, its share of the zero predictor's excess
            loss (the loss of predicting 0, which near-zero initialisation starts from).
        relative: Which of the two.

    Raises:
        UserError: If the value is not a number above 0, or a share not below 1.
    """

    value: float
    relative: bool = False

    def __post_init__(self) -> None:
        value = finite(self.value)
        if value is None or value <= 0:
            text = shown(self.value) if value is None else f"{value:g}"
            raise UserError(f"target {text}: the target excess loss must be a number above 0")
        if self.relative and value >= 1:
            raise UserError(f"target {100 * value:g}%: a relative target must be below 100%")
        object.__setattr__(self, "value", float(value))
        object.__setattr__(self, "relative", bool(self.relative))

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads ``1e-5`` (an excess loss) or ``10%`` (of the zero predictor's).

        Raises:
            UserError: If the text is neither.
        """
        text = text.strip()
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
        """The target as an excess loss, for a problem whose zero predictor has this excess loss."""
        return self.value * zero_excess if self.relative else self.value

    def __str__(self) -> str:
        """As `parse` reads it."""
        text = shortest(self.value)
        if not self.relative:
            return text
        # In decimals: 100 times the binary number would be rounded.
        percent = (Decimal(text) * 100).normalize()
        return (f"{percent:f}" if percent > Decimal("1e-4") else str(percent).lower()) + "%"


def parse_learning_rates(items: Sequence[str], *, one: str = "learning rate") -> tuple[float, ...]:
    """Reads numbers and log ranges, e.g. ``["log:1e-5:0.5:24"]`` or ``["0.1", "0.2"]``.

    ``log:low:high:count`` is ``count`` rates from low to high in equal ratios.

    Args:
        items: A number or a log range each.
        one: What errors call an item.

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
                if not (0 < low < high < math.inf and 2 <= count <= MAX_ITEMS):
                    raise ValueError
                # Six digits are enough for a learning rate, and short in tables and labels.
                with np.errstate(over="ignore"):  # at the largest number; the ends are set exactly
                    rates += [float(f"{rate:.6g}") for rate in np.geomspace(low, high, count)]
            else:
                rates.append(float(item))
        except ValueError:
            raise UserError(
                f"{one} {item!r}: write numbers above 0, or log:low:high:count with "
                "0 < low < high and count >= 2"
            ) from None
        if len(rates) > MAX_ITEMS:
            raise UserError(f"more than {MAX_ITEMS:,} {one}s: give fewer")
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
    """All settings of a configuration but learning rate and seed: one row of the summary.

    Attributes:
        hidden_widths: Widths of the hidden layers; empty for a single layer.
        initialiser: The distribution of the initial weights.
        loss: The training loss.
        optimizer: The optimizer.
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
        """All settings as text, equal for models that train alike and only for these."""
        init, std = self.initialiser.key
        optimizer = filter(None, [self.optimizer.name, self.optimizer.settings_text])
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


_LEAST, _LARGEST = math.nextafter(0, 1), sys.float_info.max


def _whole(least: int, most: int, what: str) -> Allowed:
    return Allowed(what, numbers.Integral, (least, most))


def _real(least: float, what: str) -> Allowed:
    return Allowed(what, numbers.Real, (least, _LARGEST))


def _parse_optimizers(
    names: Sequence[str], settings: Mapping[str, tuple[tuple[str, Setting], ...]]
) -> tuple[Optimizer, ...]:
    optimizers = each(lambda name: Optimizer(name, settings.get(name, ())))(names)
    unused = [name for name in settings if name not in {o.name for o in optimizers}]
    if unused:
        raise UserError(f"--optimizer_settings: {unused[0]} is not among --optimizers")
    return optimizers


@dataclass(frozen=True)
class SweepConfig:
    """A grid: the product of its fields, without repetitions.

    A single layer has no hidden width, and some initialisers have no standard deviation:
    combinations that are the same model are trained once. Each field is declared below with its
    default, as on a command line, and its description.

    A field may be given as on the command line (``losses="l2,l4"``, ``target="1%"``,
    ``learning_rates="log:1e-3:1:5"``), as any list or array, or as a single value. It is stored in
    the form of its annotation: configurations with the same meaning are equal.

    Raises:
        UserError: If a field is empty, repeats itself or holds a value that is not allowed.
    """

    depths: tuple[int, ...] = setting(
        ("1", "2", "3"),
        "Numbers of weight matrices.",
        heading="Models",
        one="depth",
        parse=each(int),
        allowed=_whole(1, 1000, "a whole number >= 1, at most 1000"),
        may_grow=True,
    )
    hidden_widths: tuple[HiddenWidths, ...] = setting(
        ("1",),
        "Width of all hidden layers (10), or one network's own widths (64x32).",
        heading="Models",
        one="hidden width",
        parse=each(parse_hidden_widths),
        allowed=_whole(1, 10**6, "a whole number >= 1, at most 10^6"),
        may_grow=True,
        may_nest=True,
    )
    bias: bool = setting(
        False,
        "Whether layers have biases.",
        heading="Models",
        allowed=Allowed("true or false", bool),
    )
    activation: str = setting(
        "identity",
        "Activation function between layers.",
        heading="Models",
        choices=tuple(ACTIVATIONS),
    )
    inits: tuple[str, ...] = setting(
        ("near_zero",),
        f"Initialisers: {', '.join(INITIALISERS)}. near_zero: Gaussian; identity: Gaussian plus "
        "the rectangular identity; orthogonal: semi-orthogonal; pytorch: torch.nn.Linear's "
        "default; balanced: an end-to-end Gaussian split evenly over the layers.",
        heading="Models",
        one="init",
        parse=each(str),
        allowed=Allowed("a name", str),
        may_grow=True,
    )
    init_stds: tuple[float, ...] = setting(
        ("0.01",),
        "Standard deviations of near_zero, identity and balanced.",
        heading="Models",
        one="init std",
        parse=each(float),
        allowed=_real(-_LARGEST, "a finite number"),
        may_grow=True,
    )
    losses: tuple[Loss, ...] = setting(
        ("l2", "l4"),
        "l and an exponent p >= 2: l2, l4, l2.5.",
        heading="Training",
        one="loss",
        parse=each(Loss.parse),
        write=lambda losses: [loss.name for loss in losses],
        allowed=Allowed("a Loss, or a text like 'l4'", Loss),
        details={
            "loss_convention": Field(
                "paper",
                "paper: mean |r|^p / p (Arora et al. 2018); plain: mean |r|^p (PyTorch's MSE, "
                "Levy & Wang).",
                choices=CONVENTIONS,
                write=lambda losses: losses[0].convention,
            )
        },
        may_grow=True,
    )
    optimizers: tuple[Optimizer, ...] = setting(
        ("sgd",),
        f"From {', '.join(OPTIMIZERS)}.",
        heading="Training",
        one="optimizer",
        parse=_parse_optimizers,
        write=lambda optimizers: [o.name for o in optimizers],
        allowed=Allowed("an Optimizer, or a text like 'adam'", Optimizer),
        details={
            "optimizer_settings": Field(
                (),
                "Other settings, optimizer:setting=value: momentum:momentum=0.8.",
                parse=parse_settings,
                write=lambda optimizers: [[o.name, *s] for o in optimizers for s in o.settings],
            )
        },
        may_grow=True,
    )
    weight_decays: tuple[float, ...] = setting(
        ("0",),
        "L2 penalties lambda/2 |W|^2; decoupled for adamw.",
        heading="Training",
        one="weight decay",
        parse=each(float),
        allowed=_real(0, "a number >= 0"),
        may_grow=True,
    )
    learning_rates: tuple[float, ...] = setting(
        ("log:1e-3:3:29",),
        "Numbers, or log:low:high:count for equal ratios.",
        heading="Training",
        one="learning rate",
        parse=parse_learning_rates,
        allowed=_real(_LEAST, "a number above 0"),
        may_grow=True,
    )
    num_seeds: int = setting(
        5,
        "How many seeds of the initial weights.",
        heading="Training",
        one="number of seeds",
        allowed=_whole(1, 10**6, "a whole number >= 1, at most 10^6"),
        may_grow=True,
    )
    first_seed: int = setting(
        0,
        "First seed; seeds are consecutive.",
        heading="Training",
        allowed=_whole(0, 10**9, "from 0 to 10^9"),
        may_grow=True,
    )
    num_steps: int = setting(
        20_000,
        "Updates per run (full-batch epochs).",
        heading="Training",
        one="number of steps",
        allowed=_whole(1, 2**31 - 2**20, "a whole number from 1 to about 2e9"),
        may_grow=True,
    )
    target: Target = setting(
        "10%",
        "Excess loss (above the optimum) that a run is to reach: a number like 1e-5, or a "
        "share like 10% of the excess loss of predicting zero, the mean label. A task of your own "
        "has none unless it is given, and takes no share.",
        heading="Results",
        parse=Target.parse,
        write=str,
        allowed=Allowed("an excess loss like 1e-5, a share like '10%', or a Target", Target),
    )
    records_per_decade: int = setting(
        150,
        "How many steps' losses are kept, evenly spaced on a log axis: so many from a step to ten "
        "times it.",
        heading="Results",
        allowed=_whole(1, 100_000, "from 1 to 100 000"),
    )
    record: tuple[str, ...] = setting(
        (),
        "Observables to record along the way: "
        + "; ".join(f"{name}: {entry.description}" for name, entry in OBSERVABLES.items())
        + ".",
        heading="Results",
        one="observable",
        parse=each(str),
        allowed=Allowed(f"one of {', '.join(OBSERVABLES)}", str),
        may_be_empty=True,
    )
    observations_per_decade: int = setting(
        30,
        "How many steps' observables are recorded, evenly spaced on a log axis.",
        heading="Results",
        allowed=_whole(1, 100_000, "from 1 to 100 000"),
    )
    precision: str = setting(
        "float32",
        "Floating-point precision used in training.",
        heading="Machine",
        choices=PRECISIONS,
    )

    def __post_init__(self) -> None:
        check(self)
        parse(self.record, OBSERVABLES)
        self._check_widths_fit()
        combinations = math.prod(
            len(getattr(self, name))
            for name, field in fields_of(SweepConfig).items()
            if field.is_list and name not in ("learning_rates", "record")
        )
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
        records = len(self.record_steps) + len(self.record) * len(self.observation_steps)
        if runs * records > _MOST_RECORDS:
            raise UserError(
                f"{runs:,} runs with {records:,} recorded steps each are more than "
                f"{_MOST_RECORDS:,} numbers to keep: ask for fewer records, seeds or learning rates"
            )

    def settings(self) -> dict[str, Any]:
        """The settings which identify a run beside its axes and its number of steps, for JSON."""
        fields = fields_of(SweepConfig).items()
        return write({name: f for name, f in fields if not f.may_grow}, vars(self))

    def _check_widths_fit(self) -> None:
        for widths in self.hidden_widths:
            if isinstance(widths, tuple) and len(widths) + 1 not in self.depths:
                text = "x".join(map(str, widths))
                raise UserError(
                    f"hidden widths {text} make a network of depth {len(widths) + 1}, "
                    f"which is not among the depths {', '.join(map(str, self.depths))}"
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

    @property
    def record_steps(self) -> np.ndarray:
        """Step numbers whose losses are kept, increasing from 0 to ``num_steps``."""
        return spaced_steps(self.num_steps, self.records_per_decade)

    @property
    def observation_steps(self) -> np.ndarray:
        """Step numbers whose observables are kept, increasing from 0 to ``num_steps``."""
        return spaced_steps(self.num_steps, self.observations_per_decade)
