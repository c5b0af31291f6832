"""Feeds every reader and parser inputs that nobody meant it to get.

    python -m tests.fuzz --inputs 100000 --seed 0
    python -m tests.fuzz --seed 0 --target csv --only 4711    # that input again

A reader must accept an input, with a valid result, or refuse it with a `UserError`. All else is a
failure: another exception, a warning, a wrong result, more than 10 seconds or 1 GiB, the end of the
process. Inputs are made from (seed, target, number) alone, so that each can be had again.

The inputs are tried in a process of their own: its end is a failure like others, and a new one goes
on behind it. To fuzz another reader, add a `FuzzTarget` to `TARGETS`. Unix only.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import gzip
import importlib
import io
import json
import math
import mmap
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import h5py
import jax
import numpy as np
import optax
import xarray as xr
from absl import flags

import implicit_accel as ia
from implicit_accel import summary
from implicit_accel.data import download
from implicit_accel.data.mnist import read_idx, unpack_gzip
from implicit_accel.data.problems import Problem
from implicit_accel.data.sources.csv_file import load_csv
from implicit_accel.data.sources.gas import _parse_gas
from implicit_accel.engine.chunks import Chunk, ChunkState
from implicit_accel.engine.train import Trainer
from implicit_accel.errors import UserError
from implicit_accel.experiment import Identity, Plan, Round
from implicit_accel.experiments import cli
from implicit_accel.experiments.user_task import parse_axis
from implicit_accel.fields import each
from implicit_accel.files import seal
from implicit_accel.linear.config import (
    SweepConfig,
    Target,
    parse_hidden_widths,
    parse_learning_rates,
)
from implicit_accel.linear.initialisers import INITIALISERS, Initialiser
from implicit_accel.linear.losses import Loss
from implicit_accel.linear.results import MODEL_COORDINATES
from implicit_accel.linear.sweep import LinearSweep, axes_of
from implicit_accel.loading import load_run
from implicit_accel.optimizers import OPTIMIZERS, Optimizer, parse_settings
from implicit_accel.results import FORMAT, by_model, save_results
from implicit_accel.statistics import BEST_BY, summarise
from implicit_accel.store.chunks import ChunkFile
from implicit_accel.store.folder import LAYOUT, Manifest, RunFolder

SECONDS_PER_INPUT = 10.0
MEMORY_BYTES = 2**30


@dataclass(frozen=True)
class FuzzTarget:
    """A reader under test.

    Attributes:
        name: What the table calls it.
        make: Makes an input from a random source.
        read: Reads it and asserts that what comes out is valid; raises UserError to refuse it.
        weight: Its share of the inputs, relative to the others'.
        prepare: Called once before the bounds on time and memory are set.
    """

    name: str
    make: Callable[[Random], Any]
    read: Callable[[Any], None]
    weight: float = 1.0
    prepare: Callable[[], object] = lambda: None

    def input(self, seed: int, number: int) -> Any:
        """The input of this number."""
        return self.make(Random(f"{seed}/{self.name}/{number}"))

    def failure(self, value: Any) -> str | None:
        """Tries an input: why it failed, "" if it was refused as it should, None if accepted."""
        try:
            self.read(value)
        except UserError as error:
            return "" if str(error) else "refused without a word"
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            return f"{what} ({Path(place.filename).name}:{place.lineno})"
        return None


# --- making inputs ---

NUMBERS = [
    "0", "-0", "1", "-1", "2", "3", "7", "0.1", "1e-3", "1e-5", "0.5", ".5", "5.", "1e5", "1e308",
    "1.7976931348623157e308", "1e309", "-1e309", "5e-324", "1e-400", "nan", "inf", "-inf", "NaN",
    "Infinity", "1_0", "0x10", "1e", "e5", "+3", "--3", "\u0663", "\uff11", "1,5", "2147483648",
    "9223372036854775808", "1" * 400, "1" * 5000, "0." + "0" * 400 + "1", "True", "1+2j", "1/3",
]  # fmt: skip
ODD_TEXT = [
    "", " ", "\t", "\n", "\r", "\0", "\x0b", "\x1b[31m", "\u202e", "\ufeff", "\u2028", "é",
    "\U0001f600", "\udcff", "$", "$\\frac", "_", "&", "<script>", "%", "'", '"', '""', "\\",
    "/", "..", ",", ";", ":", "=",
]  # fmt: skip


def digits(rng: Random) -> str:
    """A number as text, most often a sane one."""
    if rng.random() < 0.5:
        return rng.choice(NUMBERS)
    return rng.choice(
        [
            lambda: str(rng.randint(-3, 12)),
            lambda: str(rng.getrandbits(rng.choice([4, 31, 64, 200]))),
            lambda: f"{rng.uniform(0, 1):.{rng.randint(1, 17)}g}",
            lambda: repr(struct.unpack("<d", rng.randbytes(8))[0]),
        ]
    )()


def text(*tokens: str) -> Callable[[Random], str]:
    """Text put together from a grammar's tokens, numbers, odd characters and anything at all."""

    def make(rng: Random) -> str:
        parts = []
        for _ in range(rng.randint(1, rng.choice([2, 4, 12]))):
            kind = rng.random()
            if kind < 0.45 and tokens:
                parts.append(rng.choice(tokens))
            elif kind < 0.85:
                parts.append(digits(rng))
            elif kind < 0.95:
                parts.append(rng.choice(ODD_TEXT))
            else:
                parts.append("".join(chr(rng.randrange(0xD800)) for _ in range(rng.randint(1, 5))))
        return "".join(parts)

    return make


def listed(*forms: str) -> Callable[[Random], list[str]]:
    """Lists of items; ``#`` in a form stands for a number."""

    def make(rng: Random) -> list[str]:
        items = []
        for _ in range(rng.randint(0, rng.choice([1, 3, 6]))):
            item = rng.choice(forms)
            while "#" in item:
                item = item.replace("#", digits(rng), 1)
            items.append(text(item)(rng) if rng.random() < 0.2 else item)
        return items

    return make


def mutated(
    valid: Callable[[], Sequence[bytes]], tokens: Sequence[bytes] = ()
) -> Callable[[Random], bytes]:
    """Valid files with pieces flipped, overwritten, cut, doubled, spliced; now and then any bytes.

    Args:
        valid: Gives valid files.
        tokens: Pieces that mean something in the format.
    """
    words = [
        *tokens, *(n.encode() for n in NUMBERS), *(t.encode("utf-8", "replace") for t in ODD_TEXT),
        b"\xff" * 4, b"\0" * 8, b"\xff" * 8,
    ]  # fmt: skip

    def make(rng: Random) -> bytes:
        if rng.random() < 0.05:
            return rng.randbytes(rng.choice([0, 1, 30, 300, 3000]))
        files = valid()
        content, other = bytearray(rng.choice(files)), rng.choice(files)
        for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 8])):
            start = rng.randint(0, len(content))
            stop = start + min(rng.choice([0, 1, 1, 4, 16, 200]), len(content) - start)
            match rng.randrange(7):
                case 0 if start < len(content):
                    content[start] ^= 1 << rng.randrange(8)
                case 1:
                    content[start:stop] = rng.randbytes(stop - start)
                case 2 | 3:
                    content[start:stop] = rng.choice(words)
                case 4:
                    content[start:start] = content[start:stop] * rng.choice([1, 2, 50])
                case 5:
                    begin = rng.randint(0, len(other))
                    content[start:stop] = other[begin : begin + rng.choice([1, 8, 64, 1000])]
                case _:
                    del content[start : len(content) if rng.random() < 0.3 else stop]
        return bytes(content)

    return make


def sweep_program() -> Any:
    """The module with the sweep's flags: where other programs' flags are, it cannot be imported."""
    return importlib.import_module("implicit_accel.experiments.sweep")


@functools.cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-")


def folder() -> Path:
    """A folder of this process's own."""
    return Path(_own_folder().name)


def on_disk(name: str, content: bytes) -> Path:
    """Writes an input where a reader takes a path."""
    path = folder() / name
    path.write_bytes(content)
    return path


# --- data files ---


@functools.cache
def gas_files() -> list[bytes]:
    rng = np.random.default_rng(0)

    def line(gas_class: int) -> str:
        fields = " ".join(f"{i}:{v:.6f}" for i, v in enumerate(rng.normal(size=128), start=1))
        return f"{gas_class};{gas_class * 10.0:.6f} {fields} "

    files = ["".join(line(c) + "\n" for c in classes) for classes in ((1,), (1, 6), (2, 3, 1))]
    return [f.encode() for f in (*files, files[1].replace("\n", "\r\n"))]


def read_gas(content: bytes) -> None:
    table = _parse_gas(content, "batch1.dat")
    assert table.shape == (len(table), 130)
    assert len(table) >= 1
    assert np.isfinite(table).all()
    assert set(table[:, 0]) <= {1, 2, 3, 4, 5, 6}


CSV_FILES = [
    b"a,y,b\n1,2.5,3\n4,5e1,-6\n7,8,9\n",
    b'"a","y"\r\n"1","2"\r\n3,4\r\n',
    b"\xef\xbb\xbfa, y\n1, 2\n3, 4\n",
    b"y,x\n" + b"".join(b"%d,%d.25\n" % (i, i * i) for i in range(40)),
    b",".join([b"y", *(b"c%d" % i for i in range(300))]) + b"\n" + (b"1," * 300 + b"2\n") * 2,
]
CSV_TOKENS = [
    b",", b"\n", b"\r\n", b'"', b'""', b"y", b"NA", b"null", b"2020-01-01", b"#", b"'", b",,,,",
    b"\n\n", b'"\n"', b",y", b"Unnamed: 0", b"y.1",
]  # fmt: skip


MESSY_CELLS = [
    "1", "-2.5", "3e4", " 4", "5 ", "1,234.5", "1.234,5", "$5", "5%", "1'000", "1 000", "\u22125",
    "", "NA", "N/A", "nan", "inf", "-Infinity", "true", "2020-01-01", "12:30", '"7"', '"8', "'9'",
    '"a ""b"" c"', '"line\nbreak"', "=1+1", "\0", "9" * 400, "x" * 200_000, "é", "1e999", "0x1F",
]  # fmt: skip
MESSY_HEADERS = [
    "y", "a", "a", "", " y", "Y", '"y"', "y.1", "\ufeffy", "1", "x" * 70_000, "é,ü", "\0",
]  # fmt: skip


def make_messy_csv(rng: Random) -> bytes:
    """A table as spreadsheets and people write them: odd in a few ways, numbers otherwise."""
    separator = rng.choice([",", ",", ",", ";", "\t", ", "])
    width = rng.choice([1, 2, 3, 5])
    odd = rng.choice([0, 0, 0.02, 0.2])
    lines = [
        [rng.choice(MESSY_HEADERS) if rng.random() < odd else "abcd"[i % 4] for i in range(width)]
    ]
    lines[0][rng.randrange(width)] = "y"
    for _ in range(rng.choice([0, 1, 2, 9, 40])):
        count = width + (rng.choice([-1, 1, 3]) if rng.random() < odd / 4 else 0)
        lines.append(
            [
                rng.choice(MESSY_CELLS) if rng.random() < odd / 2 else f"{rng.gauss(0, 9):.3g}"
                for _ in range(max(count, 0))
            ]
        )
    ending = rng.choice(["\n", "\n", "\r\n", "\r", "\n\n"])
    table = ending.join(map(separator.join, lines)) + rng.choice(["", ending, ending * 3])
    encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252"])
    return table.encode(encoding, "replace")


def read_csv(content: bytes) -> None:
    table = load_csv(on_disk("table.csv", content), "y")
    assert len(table.features) == len(table.targets) >= 2
    assert table.features.shape[1] == len(table.feature_names) >= 1
    assert np.isfinite(table.features).all()
    assert np.isfinite(table.targets).all()
    assert table.title.isprintable()


@functools.cache
def archives() -> list[bytes]:
    files = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as file:
            for name in ("a.dat", "b.dat", "../c.dat"):
                file.writestr(name, f"contents of {name}\n" * 20)
        files.append(buffer.getvalue())
    return files


def read_archive(content: bytes) -> None:
    names = ("a.dat", "b.dat")
    # A mutated name or checksum can make other contents right, but never more files or bytes.
    found = download._read_members(io.BytesIO(content), names)
    assert tuple(found) == names
    assert all(len(data) <= download.MAX_RATIO * len(content) for data in found.values())


# --- flags ---


def read_rates(items: list[str]) -> None:
    rates = parse_learning_rates(items)
    config = SweepConfig(depths=(1,), learning_rates=rates, num_seeds=1)
    assert all(0 < rate < math.inf for rate in config.learning_rates)


def read_widths(item: str) -> None:
    widths = parse_hidden_widths(item)
    depth = 2 if isinstance(widths, int) else len(widths) + 1
    SweepConfig(depths=(depth,), hidden_widths=(widths,))
    assert min(widths if isinstance(widths, tuple) else (widths,)) >= 1


def read_items(items: list[str]) -> None:
    for convert in (int, float, Loss.parse, parse_hidden_widths):
        with contextlib.suppress(UserError):
            assert len(each(convert)(items)) == len(items)


def read_bytes(item: str) -> None:
    assert cli.parse_bytes(item) > 0


def read_target(item: str) -> None:
    target = Target.parse(item)
    assert 0 < target.absolute(1.0) < math.inf
    assert Target.parse(str(target)) == target


def read_loss(item: str) -> None:
    loss = Loss.parse(item)
    assert 2 <= loss.p < math.inf
    assert Loss.parse(loss.name) == loss


def read_settings(items: list[str]) -> None:
    for name, settings in parse_settings(items).items():
        optimizer = Optimizer(name, settings)
        assert all(math.isfinite(value) for _, value in optimizer.settings)


def make_initialiser(rng: Random) -> tuple[Any, Any]:
    name = rng.choice([*INITIALISERS, text(*INITIALISERS)(rng)])
    return name, number(rng)


def read_initialiser(arguments: tuple[Any, Any]) -> None:
    initialiser = Initialiser(*arguments)
    layers = initialiser.draw(3, (2,), 1, bias=True, seed=0)
    assert [w.shape for w in layers.weights] == [(2, 3), (1, 2)]


def number(rng: Random) -> float:
    if rng.random() < 0.5:
        return rng.choice([0.0, 0.01, 0.1, 1.0, -1.0, 1e300, 5e-324, math.nan, math.inf, -math.inf])
    return rng.choice([rng.uniform(0, 1), struct.unpack("<d", rng.randbytes(8))[0]])


def make_config(rng: Random) -> dict[str, Any]:
    """Keyword arguments of `SweepConfig`, most of them good."""

    def whole() -> Any:
        return rng.choice(
            [1, 2, 3, 4, 10, 64, 1000, 0, -1, 10**6, 10**20, 10**400, True, np.int64(2)]
        )

    def anything() -> Any:
        return rng.choice([None, "x", b"", 1.5, True, (), (1,), [1], {}, math.nan, Loss(2), 1j])

    def some(make: Callable[[], Any]) -> Any:
        values = tuple(make() for _ in range(rng.choice([0, 1, 1, 1, 2, 3])))
        form = rng.random()
        if form < 0.1:
            return list(values)
        if form < 0.15 and values and len({type(v) for v in values}) == 1:
            return values[0] if form < 0.12 else np.array([*values, None], object)[:-1]
        if form > 0.95 and all(isinstance(v, str | float) for v in values):
            return ",".join(map(str, values))
        return values

    def widths() -> Any:
        return whole() if rng.random() < 0.7 else tuple(whole() for _ in range(rng.randint(0, 3)))

    fields: dict[str, Callable[[], Any]] = {
        "depths": lambda: some(lambda: rng.choice([1, 2, 3, 4, whole()])),
        "hidden_widths": lambda: some(widths),
        "inits": lambda: some(lambda: rng.choice([*INITIALISERS, "zeros", ""])),
        "init_stds": lambda: some(lambda: number(rng)),
        "losses": lambda: some(
            lambda: rng.choice(["l4", "l3", "4", Loss(rng.choice([2, 4, 2.5, 2.0000001, 1e300]))])
        ),
        "optimizers": lambda: some(
            lambda: rng.choice([Optimizer(rng.choice(OPTIMIZERS)), rng.choice(OPTIMIZERS), "x"])
        ),
        "weight_decays": lambda: some(lambda: number(rng)),
        "learning_rates": lambda: rng.choice(
            [some(lambda: number(rng)), tuple(map(float, range(1, 100_001)))]
            if rng.random() < 0.01 else [some(lambda: abs(number(rng)))]
        ),
        "num_seeds": whole,
        "num_steps": whole,
        "target": lambda: rng.choice(
            [Target(rng.choice([1e-300, 0.1, 1e300])), number(rng), f"{digits(rng)}%", digits(rng)]
        ),
        "records_per_decade": whole,
        "precision": lambda: rng.choice(["float32", "float64", "float16", ""]),
        "bias": lambda: rng.random() < 0.5,
        "activation": lambda: rng.choice(["identity", "relu", "tanh"]),
    }  # fmt: skip
    chosen = rng.sample(sorted(fields), rng.randint(1, 5))
    made = {name: fields[name]() for name in chosen}
    if rng.random() < 0.1:
        made[rng.choice(chosen)] = anything()
    return made


def read_config(arguments: dict[str, Any]) -> None:
    config = SweepConfig(**arguments)
    assert config.models
    steps = config.record_steps
    assert (steps[0], steps[-1]) == (0, config.num_steps)
    assert (np.diff(steps) > 0).all()
    assert SweepConfig(**vars(config)) == config


def _distance(params: Any, batch: Any) -> Any:
    """A loss of one's own."""
    return ((batch @ params["w"] - 1) ** 2).mean()


def _parameters(point: ia.observables.Point) -> Any:
    """An observable of one's own that is no number."""
    return point.parameters


def _one(point: ia.observables.Point) -> float:  # noqa: ARG001
    """And one that is."""
    return 1.0


def make_user_sweep(rng: Random) -> dict[str, Any]:
    """Arguments of `implicit_accel.sweep` for a model of one's own, most of them good."""

    def value() -> Any:
        return rng.choice(["relu", "", True, None, [1], {}, 1j, math.nan, math.inf, 10**30, 0])

    def values() -> Any:
        some = rng.sample([1, 2, 0.5, 1e-3, np.float32(0.1), np.int64(3), np.array(4.0)],
                          rng.choice([1, 1, 2, 2, 3]))  # fmt: skip
        if rng.random() < 0.1:
            some.append(value())
        odd = [5, "abc", None, [], {1: 2}, (1, 2), range(3), np.arange(3.0), np.ones((2, 2))]
        return rng.choice(odd) if rng.random() < 0.1 else ia.static(*some) if (
            rng.random() < 0.1) else some  # fmt: skip

    names = ["learning_rate", "width_scale", "activation", "x1"]
    odd_names = ["", "step", "model", "a b", "1", "loss", 3, None, "target", "é"]
    made: dict[str, Any] = {
        "axes": {
            rng.choice(odd_names if rng.random() < 0.05 else names): values()
            for _ in range(rng.randint(1, 2))
        }
        | rng.choice([{}, {}, {"seed": range(2)}, {"seed": [0, -1]}]),
        "num_steps": rng.choice(
            [0, -1, 2**40, 1.5, True, "3"] if rng.random() < 0.1 else [1, 2, 3]
        ),
    }
    others: dict[str, list[Any]] = {
        "batch_size": [None, 1, 2, 8, 9, 0, 2.0],
        "target": [None, 0.1, 1e-300, 0.0, -1.0, math.nan],
        "record": [(), ["gradient_norm"], "sharpness", ["nothing"], {"w": _parameters},
                   {"step": _one}, {"n": _one}, ["held_out_loss"]],
        "precision": ["float32", "float64", "float16"],
        "records_per_decade": [1, 3, 150, 0, 10**20],
        "largest_block": [None, 1, 3, 0],
    }  # fmt: skip
    for name in rng.sample(sorted(others), rng.randint(0, 3)):
        made[name] = rng.choice(others[name])
    return made


def read_user_sweep(arguments: dict[str, Any]) -> None:

    def init(key: Any, hp: Any) -> Any:  # noqa: ARG001
        scale: Any = hp.get("width_scale", 1.0)
        hp.get("activation")
        is_number = isinstance(scale, int | float) and abs(scale) < 1e9
        factor: Any = scale if is_number or isinstance(scale, jax.Array) else 1.0
        return {"w": factor * np.ones(2, np.float32)}

    def optimizer(hp: Any) -> Any:
        hp.get("x1")
        return optax.sgd(0.1 * hp.get("learning_rate", 1.0))

    data = np.arange(16, dtype=np.float32).reshape(8, 2) / 16
    task = ia.from_loss(_distance, init=init, data=data)
    runs = ia.sweep(task, optimizer=optimizer, **arguments)
    axes = arguments["axes"]
    assert json.loads(runs.attrs["axes"]) == list(axes)
    assert runs["excess_loss"].dims == (*axes, "step")
    assert math.prod(runs["steps_to_target"].shape) >= 1
    assert not np.isnan(runs["loss"]).any()
    summarise(runs)
    jax.clear_caches()  # programs are many, and memory is bounded


def make_axis(rng: Random) -> str:
    name = rng.choice(["", "width_scale=", "seed=", "x1 = ", "a b="])
    form = rng.choice(
        ["#:#", "log:#:#:#", "log:1e-3:1:#", "true:False", "tanh:relu", "log:linear", "static:#:#"]
    )
    while "#" in form and rng.random() < 0.9:
        form = form.replace("#", digits(rng), 1)
    return name + (
        form if name and rng.random() < 0.5 else text("=", ":", "log", "uniform:", "x", form)(rng)
    )


def read_axis_flag(item: str) -> None:
    name, found = parse_axis(item)
    assert name.isidentifier()
    parts = item.partition("=")[2].split(":")
    if isinstance(found, ia.uniform | ia.log_uniform):
        assert found.low < found.high
        return
    if isinstance(found, ia.static):
        found, parts = found.values, parts[1:]
    is_range = parts[0].strip() == "log" and isinstance(found[0], float)
    assert len(found) == (int(parts[-1]) if is_range else len(parts))
    kinds = {"word" if type(v) is str else "truth" if type(v) is bool else "number" for v in found}
    assert len(kinds) == 1
    assert all(math.isfinite(v) for v in found if not isinstance(v, str))


_FORMS = {
    "depths": ["#"], "hidden_widths": ["#", "#x#"], "inits": list(INITIALISERS),
    "init_stds": ["#"], "losses": ["l2", "l4", "l#"], "optimizers": list(OPTIMIZERS),
    "optimizer_settings": ["momentum:momentum=#", "adam:b1=#", "sgd:x=#", "adam:nesterov=true"],
    "weight_decays": ["#"], "learning_rates": ["#", "log:#:#:#", "log:1e-3:1:#"],
    "num_seeds": ["#"], "num_steps": ["#"], "target": ["#", "#%"], "records_per_decade": ["#"],
    "precision": ["float32", "float64"], "bias": ["true", "#"], "activation": ["relu", "x"],
    "loss_convention": ["paper", "plain"], "dataset": ["gas", "abalone", "#"], "nonsense": ["#"],
}  # fmt: skip


def make_flags(rng: Random) -> list[str]:
    names = rng.sample(sorted(_FORMS), rng.randint(1, 4))
    return [f"--{n}={','.join(listed(*_FORMS[n])(rng))}" for n in names]


def read_flags(arguments: list[str]) -> None:
    sweep = sweep_program()
    for name in _FORMS:
        if name in flags.FLAGS:
            flags.FLAGS[name].unparse()
    try:
        flags.FLAGS(["sweep", *arguments])
    except flags.Error as error:
        raise UserError(str(error)) from None
    asked = sweep.build(cli.make_console(stderr=True))
    identity = asked.experiment().identity
    assert Identity.of(json.loads(json.dumps(identity.as_json()))) == identity
    assert sweep.choose_folder(asked).path.parent == Path("outputs")


# --- results ---


@functools.cache
def small_results() -> xr.Dataset:
    """A run of two models, without training."""
    rng = np.random.default_rng(0)
    curve, run = ("model", "learning_rate", "seed", "step"), ("model", "learning_rate", "seed")
    excess = rng.uniform(0.01, 1, (2, 2, 3, 4)).astype(np.float32)
    steps = rng.integers(1, 100, (2, 2, 3)).astype(float)
    steps[1, 1, 2] = np.inf
    diverged = np.full((2, 2, 3), np.nan)
    diverged[1, 1, 2] = 50
    excess[1, 1, 2, 2:] = np.inf
    return xr.Dataset(
        {
            "loss": (curve, excess + 1), "excess_loss": (curve, excess),
            "steps_to_target": (run, steps), "divergence_step": (run, diverged),
            "optimum": ("model", [1.0, 1.0]), "zero_loss": ("model", [2.0, 2.0]),
            "target": ("model", [0.1, 0.1]),
            "resolution": ("model", [1e-7, 1e-7]),
        },
        {
            "learning_rate": [0.1, 0.2], "seed": [0, 1, 2], "step": [0, 1, 10, 100],
            "loss_name": ("model", ["l2", "l2"]), "depth": ("model", [1, 3]),
            "hidden_widths": ("model", ["-", "4x4"]), "init": ("model", ["near_zero"] * 2),
            "init_std": ("model", [0.01, 0.01]), "optimizer": ("model", ["sgd", "sgd"]),
            "weight_decay": ("model", [0.0, 0.0]), "dataset": "made",
        },
        {"format": FORMAT, "title": "made", "num_steps": 100},
    )  # fmt: skip


@functools.cache
def small_general_results() -> xr.Dataset:
    """Runs over other axes, without training."""
    kept = (
        small_results()
        .drop_vars(list(MODEL_COORDINATES), errors="ignore")
        .rename_dims(model="width_scale")
    )
    sharpness = (*kept["steps_to_target"].dims, "observation_step")
    scalars = dict.fromkeys(("optimum", "zero_loss", "resolution"), ((), 1e-07))
    kept = kept.assign({**scalars, "sharpness": (sharpness, np.ones((2, 2, 3, 2)))})
    kept = kept.assign_coords(width_scale=["a", "b"], observation_step=[0, 100])
    return kept.assign_attrs(axes=json.dumps(["width_scale", "learning_rate", "seed"]))


@functools.cache
def results_files() -> list[bytes]:
    one = small_results().isel(seed=[0])
    made = (small_results(), one, small_general_results())
    contents = []
    for results in made:
        save_results(results, folder())
        contents.append((folder() / "results.nc").read_bytes())
    return contents


def read_damaged_results(content: bytes) -> None:
    load_run(on_disk("results.nc", content))
    assert content in results_files()  # nothing else has the right checksum


def make_forged(rng: Random) -> bytes:
    """A netCDF-4 file with a checksum that fits, but not with what a sweep writes."""
    results = rng.choice([small_results, small_general_results])().copy(deep=True)
    for _ in range(rng.choice([1, 1, 2, 3])):
        name = rng.choice(sorted(map(str, results.variables)))
        values = results[name].values
        with contextlib.suppress(Exception):  # what xarray cannot make is no input
            match rng.randrange(7):
                case 0:
                    results = results.drop_vars(name)
                case 1:
                    results = results.isel(
                        {rng.choice(sorted(map(str, results.dims))): slice(0, rng.randint(0, 1))}
                    )
                case 2 if values.dtype.kind in "iuf":
                    values = values.copy()
                    values.flat[rng.randrange(values.size)] = rng.choice(
                        [-1, 0, 2**62] if values.dtype.kind in "iu"
                        else [-1, 0, np.nan, np.inf, -np.inf, 1e308, 5e-324]
                    )  # fmt: skip
                    results[name] = (results[name].dims, values)
                case 2 | 3:
                    odd = text("l2", "l", "-", "4x4", "x", *INITIALISERS, *OPTIMIZERS)(rng)
                    results[name] = (results[name].dims, np.full(values.shape, odd, dtype=object))
                case 4:
                    kind = rng.choice(
                        ["int8", "uint64", "float32", "complex128", "bool", "S4", "U9"]
                    )
                    results[name] = (results[name].dims, values.astype(kind))
                case 5:
                    results[name] = (results[name].dims[::-1], values.T)
                case _:
                    results.attrs[rng.choice(["format", "title", "num_steps", "axes"])] = (
                        rng.choice(
                            [
                                '["width_scale", "seed"]',
                                '["seed"]',
                                "[[",
                                "{}",
                                "[]",
                                "[1]",
                                text("made")(rng),
                                1,
                                -1,
                                0,
                                100,
                                1.5,
                                [1, 2],
                                "",
                                FORMAT,
                                2**62,
                            ]
                        )
                    )
    path = folder() / "forged.nc"
    try:
        results.to_netcdf(path, engine="h5netcdf")
    except Exception:
        return b""
    seal(path)
    return path.read_bytes()


def read_forged(content: bytes) -> None:
    results = load_run(on_disk("results.nc", content))
    for best_by in BEST_BY:
        table = summarise(results, best_by=best_by)
        assert len(table) == by_model(results).sizes["model"]
        summary.answers(table)
        cli.print_summary(table, results.attrs["title"], cli.Console(file=io.StringIO()))


SECRET = b"what no file but this one holds"


def make_forged_storage(rng: Random) -> bytes:
    """A sweep's results with a dataset that lies elsewhere, or is not as long as it says."""
    secret, path = on_disk("secret", SECRET * 99), on_disk("forged.nc", results_files()[0])
    with h5py.File(secret.with_name("other.h5"), "w") as other:
        other["x"] = np.frombuffer(SECRET * 9, np.uint8)
    with h5py.File(path, "r+") as file:
        for _ in range(rng.choice([0, 1, 1, 2])):
            name = rng.choice([*file, "x"])
            shape = getattr(file.get(name), "shape", ()) or (2,)
            if name in file:
                del file[name]
            kind = rng.choice(["f8", "u1", "i4", "S9", "c16"])
            match rng.randrange(7):
                case 0:
                    size = math.prod(shape) * np.dtype(kind).itemsize
                    file.create_dataset(name, shape, kind, external=[(str(secret), 0, size)])
                case 1:
                    file[name] = h5py.ExternalLink(str(secret.with_name("other.h5")), "x")
                case 2:
                    layout = h5py.VirtualLayout((3,), "u1")
                    place = str(secret.with_name("other.h5"))
                    layout[:] = h5py.VirtualSource(place, "x", (3,))
                    file.create_virtual_dataset(name, layout)
                case 3:
                    file[name] = h5py.SoftLink(rng.choice(["/", "/loss", "/x", "/none"]))
                case 4:
                    file.create_group(name)["loss"] = 1
                case 5:
                    most = [2 ** rng.randrange(50) for _ in shape]
                    chunks = tuple(min(n, 2**12) for n in most)[:2] + (1,) * (len(most) - 2)
                    file.create_dataset(name, most, kind, chunks=chunks, compression="gzip")
                case _:
                    filters: Any = rng.choice(["lzf", "gzip"])
                    file.create_dataset(name, shape, kind, compression=filters, fletcher32=True)
    seal(path)
    return path.read_bytes()


def read_forged_storage(content: bytes) -> None:
    results = load_run(on_disk("results.nc", content))
    for variable in results.variables.values():
        assert SECRET[:8] not in variable.values.tobytes()


def make_resealed(rng: Random) -> bytes:
    """A sweep's results with some bytes changed, and the right checksum."""
    path = on_disk("resealed.nc", rng.choice(results_files())[:-_SEAL_BYTES])
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)
    seal(path)
    return path.read_bytes()


# Of the checksum at a file's end.
_SEAL_BYTES = len("\nsha256:\n") + 64


@functools.cache
def wanted() -> Identity:
    config = SweepConfig()
    return Identity(config.settings(), axes_of(config), config.num_steps, "0" * 64)


def config_files() -> list[bytes]:
    """A run's config.json and manifest.json in one: each reader takes its own."""
    added = Round(wanted().axes, wanted().num_steps)
    manifest = dataclasses.asdict(Manifest(wanted(), (added,), ((2,),), "a machine"))
    about = {"format": FORMAT, "layout": LAYOUT, "timing": {"chunks": 1}}
    return [json.dumps(about | manifest).encode()]


def make_config_file(rng: Random) -> bytes:
    if rng.random() < 0.5:
        tokens = [b"{", b"}", b"[", b"[" * 5000, b'"', b"null", b"NaN", b"\\ud800", b":", b","]
        return mutated(config_files, tokens)(rng)
    stored = json.loads(config_files()[0])
    node = stored
    while True:
        key = rng.choice(sorted(node))
        if isinstance(node[key], dict) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        odd = [
            None,
            True,
            0,
            -1.5,
            1e999,
            "",
            text()(rng),
            [],
            [[]],
            [1, [2]],
            ["ab"],
            {},
            {"": {}},
        ]
        node[key] = rng.choice(odd)
        return json.dumps(stored).encode()


def read_config_file(content: bytes) -> None:
    (folder() / "run" / "checkpoints").mkdir(parents=True, exist_ok=True)
    on_disk("run/results.nc", b"")
    on_disk("run/config.json", content)
    on_disk("run/checkpoints/manifest.json", content)
    run = RunFolder(folder() / "run")
    finished, manifest = run.finished(), run.manifest()
    for found in (finished, manifest and manifest.identity):
        if found is not None:
            assert found.differences(found) == []
            run.check(found, overwrite=False)
            found.differences(wanted())
            wanted().differences(found)
    if manifest is not None:
        for added in manifest.rounds:
            assert added.covers(manifest.identity.axes).any()
    if finished is None:
        raise UserError("no finished run")


IDX_FILES = [
    b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 3) + bytes(range(18)),
    b"\0\0\x08\x01" + struct.pack(">I", 4) + bytes(4),
]


def idx_files() -> list[bytes]:
    return IDX_FILES + [gzip.compress(content, mtime=0) for content in IDX_FILES]


def read_idx_file(content: bytes) -> None:
    if content.startswith(b"\x1f\x8b"):
        content = unpack_gzip(content, 10_000)
    array = read_idx(content)
    assert array.dtype == np.uint8
    assert content.endswith(array.tobytes())
    assert len(content) == 4 + 4 * array.ndim + array.size


@functools.cache
def small_sweep() -> tuple[LinearSweep, Plan]:
    rng = np.random.default_rng(0)
    problem = Problem.from_arrays(rng.standard_normal((9, 2)), rng.standard_normal(9))
    config = SweepConfig(
        losses=(Loss(2),), depths=(2,), learning_rates=(0.1,), num_seeds=1, num_steps=3
    )
    sweep = LinearSweep(problem, config)
    return sweep, sweep.plan(sweep.axes)


CHUNK = Chunk(0, 0, 1)


def chunk_file() -> ChunkFile:
    return ChunkFile(folder() / "checkpoints", "0-0-0", "whose")


def small_trainer() -> Trainer:
    sweep, plan = small_sweep()
    return Trainer(plan.groups, [1], [[CHUNK]], num_steps=3, recording=sweep.recording)


@functools.cache
def chunk_files() -> list[bytes]:
    chunk_file().folder.mkdir()
    for segment in small_trainer().train([CHUNK], {}):
        chunk_file().save(segment.states()[CHUNK])
    (path,) = chunk_file().paths()
    return [path.read_bytes()]


def load_chunk(content: bytes) -> ChunkState:
    chunk_files()
    chunk_file().paths()[0].write_bytes(content)
    (group,) = small_sweep()[1].groups
    loaded = chunk_file().newest(CHUNK, group, "float32")
    if loaded is None:
        raise UserError("not this run's")
    return loaded


def make_forged_chunk(rng: Random) -> bytes:
    """A chunk's file whose checksum fits, but not its contents."""
    with np.load(io.BytesIO(chunk_files()[0])) as stored:
        arrays = dict(stored)
    about = json.loads(str(arrays["about"]))
    odd_values = [None, True, -1, 0, 2, 2**62, 1.5, "", "..", [], {}, [None], [-1], [2**70], "é"]
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice(sorted(arrays))
        values = arrays[name]
        match rng.randrange(8):
            case 0:
                del arrays[name]
            case 1 if values.dtype.kind in "if":
                arrays[name] = values.astype(rng.choice(["int8", "float64", "S4", "complex64"]))
            case 2:
                arrays[name] = values[..., None] if rng.random() < 0.5 else values.reshape(-1)[:0]
            case 3:
                arrays[name] = np.array([os.getcwd, {"a": 1}], dtype=object)  # a pickle
            case 4 if values.dtype.kind in "if" and values.size:
                arrays[name] = values.copy()
                arrays[name].flat[0] = rng.choice([-1, 0, 127, -128])
            case 5:
                arrays[rng.choice(["../outside", "/etc/x", "leaf_99", "a" * 300])] = values
            case _:
                about[rng.choice(sorted(about))] = rng.choice(odd_values)
        if not arrays:
            break
    if "about" in arrays and arrays["about"].dtype.kind == "U":
        arrays["about"] = np.array(json.dumps(about))
    path = folder() / "forged.npz"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.savez(path, **arrays)
    seal(path)
    return path.read_bytes()


def read_forged_chunk(content: bytes) -> None:
    """What is accepted can be gone on from, or is refused before training."""
    state = load_chunk(content)
    chunk_file().is_finished(3)
    if state.is_finished and state.num_steps >= 3:
        return
    try:
        for _ in small_trainer().train([CHUNK], {CHUNK: state}):
            pass
    except ValueError as error:
        raise UserError(str(error)) from None


def read_chunk(content: bytes) -> None:
    expected = load_chunk(chunk_files()[0]).result
    for name, a in load_chunk(content).result.arrays.items():
        np.testing.assert_array_equal(a, expected.arrays[name])


TARGETS = [
    FuzzTarget("gas", mutated(gas_files, [b";", b" ", b":", b" 7:", b"\n"]), read_gas, 20),
    FuzzTarget("csv", mutated(lambda: CSV_FILES, CSV_TOKENS), read_csv, 15),
    FuzzTarget("messy csv", make_messy_csv, read_csv, 10),
    FuzzTarget("archive", mutated(archives, [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"]),
               read_archive, 10),
    FuzzTarget("learning rates", listed("#", "log:#:#:#", "log:1e-3:1:#", "log:#"), read_rates, 5),
    FuzzTarget("hidden widths", text("x", "1", "64", "X"), read_widths, 5),
    FuzzTarget("list items", listed("#", "l#", "#x#", ""), read_items, 5),
    FuzzTarget("bytes", text("GiB", "MiB", "k", "b", "g", "KiBiB", "e9"), read_bytes, 5),
    FuzzTarget("target", text("%", "1", "10", "e-5"), read_target, 5),
    FuzzTarget("loss", text("l", "l2", "l4", "L", "2.5"), read_loss, 5),
    FuzzTarget("optimizer settings",
               listed("momentum:momentum=#", "adam:b1=#", "adam:eps=#", "adagrad:eps=#",
                      "rmsprop:centered=true", "adam:nesterov=#", "#:#=#", "sgd:momentum=#"),
               read_settings, 5),
    FuzzTarget("initialiser", make_initialiser, read_initialiser, 3),
    FuzzTarget("sweep config", make_config, read_config, 5),
    FuzzTarget("flags", make_flags, read_flags, 5),
    FuzzTarget("user's axis", make_axis, read_axis_flag, 5),
    FuzzTarget("user's sweep", make_user_sweep, read_user_sweep, 0.3,
               prepare=lambda: read_user_sweep({"axes": {"seed": (0, 1)}, "num_steps": 3})),
    FuzzTarget("results", mutated(results_files, [b"\x89HDF", b"OHDR", b"TREE", b"sha256:"]),
               read_damaged_results, 10),
    FuzzTarget("forged results", make_forged, read_forged, 0.5),
    FuzzTarget("forged storage", make_forged_storage, read_forged_storage, 0.5),
    FuzzTarget("resealed results", make_resealed, read_forged, 1),
    FuzzTarget("config.json, manifest.json", make_config_file, read_config_file, 5),
    FuzzTarget("idx", mutated(idx_files, [b"\0\0\x08\x03", b"\x1f\x8b\x08", b"\xff" * 4]),
               read_idx_file, 10),
    FuzzTarget("checkpoint",
               mutated(chunk_files, [b"PK\x03\x04", b"\x93NUMPY", b"'shape': ", b"sha256:"]),
               read_chunk, 10, prepare=lambda: load_chunk(chunk_files()[0])),
    FuzzTarget("forged checkpoint", make_forged_chunk, read_forged_chunk, 1,
               prepare=lambda: load_chunk(chunk_files()[0])),
]  # fmt: skip


# --- trying inputs, in a process of their own ---


@dataclass
class Outcome:
    """What became of a target's inputs."""

    target: FuzzTarget
    planned: int
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    failures: list[tuple[int, str]] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """Inputs tried."""
        return self.accepted + self.refused + len(self.failures)


def work(targets: Sequence[FuzzTarget], seed: int, plan: dict[str, Any], board: Path) -> None:
    """The worker: tries inputs, prints failures, keeps where it is and what it has counted."""
    warnings.simplefilter("error")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, also inside a C library
    for index in {index for index, _, _ in plan["parts"]}:
        targets[index].prepare()
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        most = used + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with board.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        for index, first, stop in plan["parts"]:
            target, accepted, refused, start = targets[index], 0, 0, time.monotonic()
            for number in range(first, stop):
                signal.setitimer(signal.ITIMER_REAL, plan["limit"])
                spent = time.monotonic() - start
                _BOARD.pack_into(shared, 0, index, number, accepted, refused, spent)
                failure = target.failure(target.input(seed, number))
                if failure:
                    print(json.dumps([index, number, failure]), flush=True)
                accepted += failure is None
                refused += failure == ""
            signal.setitimer(signal.ITIMER_REAL, 0)
            spent = time.monotonic() - start
            _BOARD.pack_into(shared, 0, index, stop, accepted, refused, spent)
            print(json.dumps([index, accepted, refused, spent, "end"]), flush=True)


_BOARD = struct.Struct("<qqqqd")
_START = "import importlib, json, sys; import fuzz; from pathlib import Path; a = sys.argv; "
_START += (
    "fuzz.work(importlib.import_module(a[1]).TARGETS, int(a[2]), json.loads(a[3]), Path(a[4]))"
)


def fuzz(
    inputs: int,
    seed: int,
    *,
    module: str = "fuzz",
    names: Sequence[str] = (),
    limit: float = SECONDS_PER_INPUT,
) -> list[Outcome]:
    """Tries about this many inputs, split over the targets by weight.

    Args:
        inputs: How many in all; each target gets one at least.
        seed: Of all inputs.
        module: Holds ``TARGETS``; this one's unless given.
        names: Of the targets; all unless given.
        limit: Seconds for an input.
    """
    targets: list[FuzzTarget] = importlib.import_module(module).TARGETS
    chosen = [i for i, t in enumerate(targets) if not names or t.name in names]
    weights = sum(targets[i].weight for i in chosen)
    outcomes = {
        i: Outcome(targets[i], max(1, round(inputs * targets[i].weight / weights))) for i in chosen
    }
    here = Path(__file__).resolve().parent
    path = [str(here), str(here.parent), *filter(None, sys.path)]
    parts = [[i, 0, o.planned] for i, o in outcomes.items()]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        board = Path(temporary) / "board"
        while parts:
            board.write_bytes(_BOARD.pack(parts[0][0], parts[0][1], 0, 0, 0.0))
            plan = json.dumps({"parts": parts, "limit": limit})
            done = subprocess.run(
                [sys.executable, "-c", _START, module, str(seed), plan, str(board)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "TMPDIR": temporary},
                capture_output=True, text=True, errors="replace", check=False,
            )  # fmt: skip
            finished = set()
            for line in map(json.loads, done.stdout.splitlines()):
                if line[-1] == "end":
                    index, accepted, refused, seconds, _ = line
                    finished.add(index)
                    outcomes[index].accepted += accepted
                    outcomes[index].refused += refused
                    outcomes[index].seconds += seconds
                else:
                    outcomes[line[0]].failures.append((line[1], line[2]))
            parts = [p for p in parts if p[0] not in finished]
            if parts:  # the process ended before its work did
                index, number, accepted, refused, seconds = _BOARD.unpack(board.read_bytes())
                what = (
                    f"no end within {limit:g} s"
                    if done.returncode == -signal.SIGALRM
                    else f"the process ended: {done.returncode} {done.stderr[-300:]}"
                )
                outcome = outcomes[index]
                outcome.accepted += accepted
                outcome.refused += refused
                outcome.seconds += seconds
                outcome.failures.append((number, " ".join(what.split())))
                parts = [[i, number + 1 if i == index else a, b] for i, a, b in parts]
                parts = [p for p in parts if p[1] < p[2]]
    return list(outcomes.values())


def table(outcomes: Sequence[Outcome]) -> str:
    """The result in columns."""
    form = "{:20} {:>8} {:>9} {:>8} {:>9} {:>9}"
    lines = [form.format("target", "inputs", "accepted", "refused", "failures", "inputs/s")]
    for o in outcomes:
        rate = f"{o.tried / o.seconds:,.0f}" if o.seconds else "-"
        lines.append(
            form.format(o.target.name, o.tried, o.accepted, o.refused, len(o.failures), rate)
        )
    sums = [sum(getattr(o, n) for o in outcomes) for n in ("tried", "accepted", "refused")]
    lines.append(form.format("all", *sums, sum(len(o.failures) for o in outcomes), ""))
    return "\n".join(lines)


def main() -> int:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tests.fuzz", None, __doc__, formatter_class=layout)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", choices=[t.name for t in TARGETS], default=[])
    parser.add_argument("--only", type=int, help="try this one input of the target, here")
    asked = parser.parse_args()
    if asked.only is not None:
        (target,) = (t for t in TARGETS if [t.name] == asked.target)
        value = target.input(asked.seed, asked.only)
        print(repr(value)[:20_000])
        warnings.simplefilter("error")
        target.read(value)
        return 0
    outcomes = fuzz(asked.inputs, asked.seed, names=asked.target)
    print(table(outcomes))
    for outcome in outcomes:
        for number, what in outcome.failures[:10]:
            name = outcome.target.name
            value = outcome.target.input(asked.seed, number)
            print(f"\n{name} {number}: {what}\n  {repr(value)[:300]}")
            print(f"  python -m tests.fuzz --seed {asked.seed} --target {name!r} --only {number}")
    return int(any(o.failures for o in outcomes))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    sys.exit(main())
