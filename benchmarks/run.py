"""Times this project beside what a user would otherwise run, and beside the machine's limits.

    python -m benchmarks.run
    python -m benchmarks.run --workloads W3,W4 --repeats 3

The contenders of a workload run alternately, each in a process of its own that stays idle while
the others run; medians over the repeats, with their quartiles, and ratios within this run. Needs
PyTorch: pip install -e ".[torch]".
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks import limits
from benchmarks.contenders import CONTENDERS
from benchmarks.forms import FORMS
from benchmarks.own_models import CASES
from benchmarks.workloads import WORKLOADS, Workload
from implicit_accel.data.problems import make_problem
from implicit_accel.engine.layout import largest_block
from implicit_accel.errors import DataError, UserError
from implicit_accel.experiments import cli
from implicit_accel.files import atomic_path, save_json
from implicit_accel.linear import gas_like, load_abalone, load_gas

_COLD = {"W1": 1, "W2": 30}
_EMPTY, _WARM = "e, empty cache", "e, warm cache"
_NAMES = (*_COLD, *WORKLOADS, "W6", "W7", "W8")

_GROUPS = cli.FlagGroups()
_WORKLOADS = flags.DEFINE_list("workloads", list(_NAMES), f"From {', '.join(_NAMES)}.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timings of each contender.", lower_bound=1)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder with the real data; the embedded stand-in is timed without it."
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "outputs/benchmarks", "Where the results go.")
_GROUPS.add("Flags", _WORKLOADS, _REPEATS, _DATA_DIR, _OUTPUT_DIR)


def prepare_data(folder: Path) -> tuple[list[Path], str]:
    """Writes both datasets' standardised arrays; returns their paths and what they are."""
    try:
        gas, abalone, what = (
            load_gas(data_dir=_DATA_DIR.value),
            load_abalone(data_dir=_DATA_DIR.value),
            "Ethanol and Abalone",
        )
        pairs = [(p.features, p.targets[:, 0]) for p in (make_problem(gas), make_problem(abalone))]
    except DataError:
        what = "the Ethanol stand-in, and random numbers in Abalone's shape"
        rng = np.random.default_rng(0)
        problem = make_problem(gas_like())
        pairs = [
            (problem.features, problem.targets[:, 0]),
            (rng.standard_normal((4177, 10)), rng.standard_normal(4177)),
        ]
    paths = [folder / "gas.npz", folder / "abalone.npz"]
    for path, (features, targets) in zip(paths, pairs, strict=True):
        np.savez(path, features=features, targets=targets)
    return paths, what


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, high = np.quantile(values, [0.25, 0.75])
    return {"median": statistics.median(values), "q25": float(low), "q75": float(high)}


class Worker:
    """A contender's process."""

    def __init__(
        self, letter: str, workload: Workload, path: Path, checkout: Path | None = None
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", letter, workload.name, str(path)],
            cwd=checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._expect("ready")

    def _expect(self, start: str) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith(start):
            raise RuntimeError(f"a contender ended early: {' '.join(self.process.args)}")  # pyright: ignore[reportArgumentType,reportCallIssue]
        return line

    def run(self) -> float:
        """Runs once; configuration-steps per second."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        result = json.loads(self._expect("{"))
        return result["steps"] / result["seconds"]

    def peak_memory(self) -> int:
        """The most memory that the process has held so far, in bytes; Linux only."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def steady(workload: Workload, path: Path, repeats: int, log: Console) -> dict[str, Any]:
    """Configuration-steps per second of every contender, alternating."""
    log.print(f"{workload.name}: {workload.title}; preparing {len(CONTENDERS)} contenders")
    workers = {letter: Worker(letter, workload, path) for letter in CONTENDERS}
    rates: dict[str, list[float]] = {letter: [] for letter in workers}
    for repeat in range(repeats):
        for letter, worker in workers.items():
            rates[letter].append(worker.run())
        log.print(f"  {repeat + 1} of {repeats}")
    for worker in workers.values():
        worker.close()
    return {
        "title": workload.title,
        "configurations": workload.num_configurations,
        "configuration_steps_per_second": {letter: spread(v) for letter, v in rates.items()},
        "ratio_to": {
            letter: spread([e / v for e, v in zip(rates["e"], values, strict=True)])
            for letter, values in rates.items()
            if letter != "e"
        },
    }


def cold(name: str, paths: list[Path], repeats: int, log: Console) -> dict[str, Any]:
    """Seconds from process start to results on disk, for the loop and for this project.

    This project three times: without a cache of compiled programs, with an empty one, and with
    what the process before has put there.
    """
    seconds: dict[str, list[float]] = {"a": [], "e": [], _EMPTY: [], _WARM: []}
    for repeat in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:
            for kind in seconds:
                folder = Path(scratch, str(len(list(Path(scratch).iterdir()))))
                folder.mkdir()
                programs = str(Path(scratch, "programs")) if kind in (_EMPTY, _WARM) else "-"
                command = [
                    sys.executable, "-m", "benchmarks.cold", kind[0], str(_COLD[name]),
                    str(folder), programs, *map(str, paths),
                ]  # fmt: skip
                began = time.perf_counter()
                subprocess.run(command, check=True)
                seconds[kind].append(time.perf_counter() - began)
        log.print(f"{name}: {repeat + 1} of {repeats}")
    return {
        "title": f"student project's grid, cold, {_COLD[name]} seeds, both datasets",
        "seconds": {kind: spread(v) for kind, v in seconds.items()},
        "ratio_to": {"a": spread([a / e for a, e in zip(seconds["a"], seconds["e"], strict=True)])},
        "ratio_to_with_warm_cache": {
            "a": spread([a / e for a, e in zip(seconds["a"], seconds[_WARM], strict=True)])
        },
    }


GROWTH: dict[str, list[dict[str, Any]]] = {
    "configurations, ℓ4 width 1": [
        {"p": 4, "rows": 2565, "configurations": c, "steps": s, "hidden": [1]}
        for c, s in ((10, 20_000), (100, 3000), (1000, 1000), (10_000, 300))
    ],
    "configurations, ℓ2 width 1": [
        {"p": 2, "rows": 2565, "configurations": c, "steps": s, "hidden": [1]}
        for c, s in ((10, 200_000), (100, 100_000), (1000, 40_000), (10_000, 8000))
    ],
    "steps, ℓ2 width 1": [
        {"p": 2, "rows": 2565, "configurations": 1000, "steps": s, "hidden": [1]}
        for s in (1000, 10_000, 100_000)
    ],
    "rows, ℓ4 width 1": [
        {"p": 4, "rows": n, "configurations": 1000, "steps": 600, "hidden": [1]}
        for n in (500, 1500, 5000)
    ],
    "10 000 configurations × 100 000 steps, ℓ2 width 1": [
        {
            "p": 2, "rows": 2565, "configurations": 10_000, "steps": 100_000, "hidden": [1],
            "records_per_decade": 90, "memory_limit": 2**30,
        }
    ],
}  # fmt: skip


def growth(log: Console) -> dict[str, Any]:
    """W6: time per configuration-step and peak memory of this project alone."""
    found = {}
    for title, cases in GROWTH.items():
        found[title] = []
        for case in cases:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.growth", json.dumps(case)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            found[title].append(case | json.loads(done.stdout))
            log.print(f"W6, {title}: {case['configurations']} × {case['steps']}")
    return found


def alternate(commands: dict[str, list[str]], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """What each contender prints, as JSON, run in turn in processes of their own."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, words in commands.items():
            command = [sys.executable, "-m", *words]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def own_models(repeats: int, log: Console) -> dict[str, Any]:
    """W7: seconds of `implicit_accel.sweep` over those of a hand-written ``jit(vmap(scan))``.

    Raises:
        RuntimeError: If the two do not train the same.
    """
    ratios: dict[str, Any] = {}
    for title, words in CASES.items():
        commands = {
            by: ["benchmarks.own_models", *words, "--by", by] for by in ("sweep", "hand")
        }  # fmt: skip
        found = alternate(commands, repeats)
        last = [np.array(runs[-1]["losses"]) for runs in found.values()]
        # At the largest rates rounding grows.
        if np.median(np.abs(last[0] / last[1] - 1)) > 1e-3:
            raise RuntimeError(f"W7, {title}: the contenders do not train the same")
        ratios[title] = {
            kind: {by: spread([run[kind] for run in runs]) for by, runs in found.items()}
            | {"ratio": spread([a[kind] / b[kind] for a, b in zip(*found.values(), strict=True)])}
            for kind in ("cold", "warm")
        }
        log.print(f"W7: {title}")
    return ratios


def forms(path: Path, repeats: int, log: Console) -> dict[str, Any]:
    """W8: how many times faster ℓ4 is as a form in monomials than on the rows.

    Raises:
        RuntimeError: If not as many runs reach the target.
    """
    found = alternate(
        {form: ["benchmarks.forms", form, str(path)] for form in FORMS}, repeats
    )  # fmt: skip
    moments, rows = found.values()
    if not np.allclose(moments[-1]["reached"], rows[-1]["reached"], atol=0.01):
        raise RuntimeError("W8: the two forms do not train the same")
    log.print("W8: ℓ4 on few features")
    return {form: spread([run["warm"] for run in runs]) for form, runs in found.items()} | {
        "ratio": spread([b["warm"] / a["warm"] for a, b in zip(moments, rows, strict=True)])
    }


def fit_cost(found: dict[str, Any]) -> dict[str, float]:
    """The cost model ``seconds = configurations · steps · (α + β rows)`` of the ℓ4 objective.

    α and β come from the cases of different row counts; the prediction is held against a case of
    another row count and number of steps that they were not fitted on.
    """
    cases = found["rows, ℓ4 width 1"]
    beta, alpha = np.polyfit(
        [c["rows"] for c in cases], [c["per_configuration_step"] for c in cases], 1
    )
    check = next(c for c in found["configurations, ℓ4 width 1"] if c["configurations"] == 1000)
    predicted = check["configurations"] * check["steps"] * (alpha + beta * check["rows"])
    return {
        "alpha_seconds": float(alpha),
        "beta_seconds_per_row": float(beta),
        "predicted_seconds": float(predicted),
        "measured_seconds": check["seconds"],
    }


def measure_limits(log: Console) -> dict[str, float]:
    """The machine's own rates, see `benchmarks.limits`."""
    log.print("measuring the machine's limits")
    blocks = (32, 64, 96, 128)
    wide = largest_block(num_parameters=12_352, num_rows=128, platform="cpu", itemsize=4) or 8
    return {
        "gemm_w3": max(limits.gemm_rate(2565, 128, b) for b in blocks),
        "gemm_w3_torch": limits.torch_gemm_rate(2565, 128, 1152),
        "gemm_w4": max(limits.gemm_rate(128, 128, b, 400) for b in blocks),
        "cache_bandwidth_thin": limits.cache_bandwidth(256 * 130),
        "cache_bandwidth_wide": limits.cache_bandwidth(wide * 12_352),
        "memory_bandwidth": limits.memory_bandwidth(),
        "adam_rate": limits.adam_rate(wide * 12_352),
    }


def against_limits(results: dict[str, Any], machine: dict[str, float]) -> dict[str, Any]:
    """Each workload's limit in configuration-steps per second, and the share reached.

    Counted for n = 2565 rows, d = 128 features, P = 12 352 parameters of the wide network:

    * W3: two n × d products, 4 n d operations, at the matrix rate.
    * W4: one d × d product, 2 d² operations, at the matrix rate: the fewest for a gradient in the
      features' own basis. In their eigenbasis a step reads and writes d + 2 numbers.
    * W5-SGD: each weight is read for the product of the layers, read for its derivative, read and
      written for the update: 16 P bytes at the cache's rate.
    * W5-Adam: the first two of those, Adam's formula alone at its measured rate, and two d × d
      products (features in their own basis).
    """
    n, d, P = 2565, 128, 12_352
    matrix_w3 = max(machine["gemm_w3"], machine["gemm_w3_torch"])
    wide = machine["cache_bandwidth_wide"]
    floor = {
        "W3": 4 * n * d / matrix_w3,
        "W4": 2 * d * d / machine["gemm_w4"],
        "W4 in the eigenbasis": 2 * 4 * (d + 2) / machine["cache_bandwidth_thin"],
        "W5-SGD": 16 * P / wide,
        "W5-Adam": 8 * P / wide + P / machine["adam_rate"] + 4 * d * d / machine["gemm_w4"],
    }
    shares = {}
    for name, seconds in floor.items():
        workload = name.split()[0]
        if workload in results:
            rate = results[workload]["configuration_steps_per_second"]["e"]["median"]
            shares[name] = {"limit_per_second": 1 / seconds, "share": rate * seconds}
    return shares


def plot_ratios(results: dict[str, Any]) -> Figure:
    """How many times faster this project is than each contender, by workload."""
    shown = {name: r["ratio_to"] for name, r in results.items() if "ratio_to" in r}
    figure = Figure(figsize=(7, 0.9 + 0.75 * max(len(shown), 1)), layout="constrained")
    ax = figure.subplots()
    colours = {"a": "#0072B2", "b": "#D55E00", "c": "#009E73", "d": "#CC79A7"}
    for letter, colour in colours.items():
        rows = [(i, r[letter]) for i, r in enumerate(shown.values()) if letter in r]
        places = [i + 0.18 * ("abcd".index(letter) - 1.5) for i, _ in rows]
        medians = [r["median"] for _, r in rows]
        ax.barh(places, medians, 0.16, color=colour, label=CONTENDERS[letter][0])
        for place, (_, r) in zip(places, rows, strict=True):
            ax.plot([r["q25"], r["q75"]], [place, place], color="black", linewidth=0.8)
            # Three digits, and thousands in full.
            text = f"{r['median']:,.0f}×" if r["median"] >= 1000 else f"{r['median']:.3g}×"
            ax.annotate(text, (r["q75"], place), xytext=(4, 0),
                        textcoords="offset points", va="center", fontsize=7)  # fmt: skip
    titles = [textwrap.fill(results[name].get("title", name), 30) for name in shown]
    ax.set_yticks(range(len(shown)), titles, fontsize=7.5)
    ax.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    ax.set_xscale("log")
    ax.axvline(1, color="0.4", linewidth=0.8)
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, 0.9), high * 3)
    ax.set_xlabel("times faster")
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=7.5, frameon=False)
    return figure


def print_tables(report: dict[str, Any], console: Console) -> None:
    """The report as tables."""
    results = report["results"]
    table = Table(title="Configuration-steps per second, medians [quartiles]", title_justify="left")
    letters = list(CONTENDERS)
    table.add_column("")
    for letter in letters:
        table.add_column(f"({letter}) {CONTENDERS[letter][0]}", justify="right")
    for name in WORKLOADS:
        if name in results:
            rates = results[name]["configuration_steps_per_second"]
            table.add_row(
                name,
                *(f"{rates[x]['median']:,.0f}\n[{rates[x]['q25']:,.0f}, {rates[x]['q75']:,.0f}]"
                  for x in letters),
            )  # fmt: skip
    if table.row_count:
        console.print(table)
    ratios = Table(title="How many times faster (e) is, medians [quartiles]", title_justify="left")
    ratios.add_column("")
    for letter in letters[:-1]:
        ratios.add_column(f"than ({letter})", justify="right")
    for name, result in results.items():
        if "ratio_to" in result:
            found = [result["ratio_to"].get(x) for x in letters[:-1]]
            form = "{median:,.3g} [{q25:,.3g}, {q75:,.3g}]".format
            ratios.add_row(name, *(form(**f) if f else "" for f in found))
    if ratios.row_count:
        console.print(ratios)
    _print_starts(results, console)
    if report["limits"]:
        shares = Table(title="Against the machine's limits", title_justify="left")
        for column in ("", "limit, configuration-steps/s", "share reached"):
            shares.add_column(column, justify="right")
        for name, value in report["limits"].items():
            shares.add_row(name, f"{value['limit_per_second']:,.0f}", f"{value['share']:.0%}")
        console.print(shares)
    if "cost" in report:
        cost = report["cost"]
        console.print(
            "Cost model of ℓ4, width 1, d = 128: seconds = configurations x steps x "
            f"({cost['alpha_seconds']:.3g} + {cost['beta_seconds_per_row']:.3g} x rows); a case "
            f"that it was not fitted on took {cost['measured_seconds']:.3g} s, predicted "
            f"{cost['predicted_seconds']:.3g} s."
        )
    _print_pairs(results, console)
    for title, cases in results.get("W6", {}).items():
        grown = Table(title=f"W6: {title}", title_justify="left")
        for column in ("runs", "steps", "rows", "ns per run-step", "peak MiB", "chunks"):
            grown.add_column(column, justify="right")
        for c in cases:
            grown.add_row(
                f"{c['configurations']:,}", f"{c['steps']:,}", f"{c['rows']:,}",
                f"{1e9 * c['per_configuration_step']:,.1f}", f"{c['peak_bytes'] / 2**20:,.0f}",
                str(c["chunks"]),
            )  # fmt: skip
        console.print(grown)


def _print_pairs(results: dict[str, Any], console: Console) -> None:
    form = "{median:.3g} [{q25:.3g}, {q75:.3g}]".format
    if "W7" in results:
        table = Table(title="W7: seconds, medians [quartiles]", title_justify="left")
        for column in ("", "call", "ia.sweep", "jit(vmap(scan))", "ratio"):
            table.add_column(column, justify="right")
        for title, kinds in results["W7"].items():
            for kind, found in kinds.items():
                table.add_row(title, kind, *(form(**value) for value in found.values()))
        console.print(table)
    if "W8" in results:
        moments, rows, ratio = (form(**value) for value in results["W8"].values())
        console.print(
            f"W8: ℓ4 on Abalone's shape, depths 1 to 3: {moments} s in monomials, {rows} s on the "
            f"rows, {ratio} times as fast"
        )


def _print_starts(results: dict[str, Any], console: Console) -> None:
    seconds = {name: results[name]["seconds"] for name in _COLD if name in results}
    if not seconds:
        return
    table = Table(title="Seconds from process start, medians [quartiles]", title_justify="left")
    table.add_column("")
    for kind in next(iter(seconds.values())):
        table.add_column(f"({kind})", justify="right")
    form = "{median:.3g} [{q25:.3g}, {q75:.3g}]".format
    for name, found in seconds.items():
        table.add_row(name, *(form(**value) for value in found.values()))
    console.print(table)


def main() -> None:
    """Times, prints, writes benchmarks.json."""
    unknown = [w for w in _WORKLOADS.value if w not in _NAMES]
    if unknown or not _WORKLOADS.value:
        raise UserError(f"--workloads: {unknown or 'empty'}: choose from {', '.join(_NAMES)}")
    console, log = cli.make_console(), cli.make_console(stderr=True)
    folder = Path(_OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        paths, what = prepare_data(Path(scratch))
        for name in _WORKLOADS.value:
            if name in _COLD:
                results[name] = cold(name, paths, _REPEATS.value, log)
            elif name in WORKLOADS:
                results[name] = steady(WORKLOADS[name], paths[0], _REPEATS.value, log)
            elif name == "W6":
                results[name] = growth(log)
            elif name == "W7":
                results[name] = own_models(_REPEATS.value, log)
            else:
                results[name] = forms(paths[1], _REPEATS.value, log)
    machine = measure_limits(log) if set(results) & set(WORKLOADS) else {}
    report = {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": cli.host_memory(),
            "system": platform.platform(),
            "versions": {name: _version(name) for name in ("jax", "torch", "numpy", "optax")},
            "data": what,
        },
        "rates": machine,
        "results": results,
        "limits": against_limits(results, machine) if machine else {},
    }
    if "W6" in results:
        report["cost"] = fit_cost(results["W6"])
    save_json(report, folder / "benchmarks.json")
    with atomic_path(folder / "benchmarks.png") as temporary:
        plot_ratios(results).savefig(temporary, dpi=160, format="png")
    print_tables(report, console)
    console.print(f"{folder / 'benchmarks.json'}", soft_wrap=True)


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    cli.run(main, _GROUPS, __doc__ or "")
