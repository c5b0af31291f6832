r"""Tests the claims of the literature, each by an experiment that judges itself.

    python -m experiments.reproduce
    python -m experiments.reproduce --claims P3b,F2,S2
    python -m experiments.reproduce --scale smoke
    python -m experiments.reproduce --claims_from my_claims

The output folder gets a folder for every claim, REPORT.md and report.html, one page to read in a
browser. What has been trained is used again: a second call only redraws.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
import platform
import time
from pathlib import Path

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from implicit_accel.claims.api import Claim
from implicit_accel.claims.collection import Collection, load_collection
from implicit_accel.claims.context import Scale
from implicit_accel.claims.findings import (
    FINDINGS_FILE,
    Entry,
    load_finding,
    save_findings,
)
from implicit_accel.claims.outcomes import OUTCOMES_FILE, save_outcomes
from implicit_accel.claims.report.render import MARKDOWN_FILE, PAGE_FILE, write_report
from implicit_accel.claims.report.view import EFFECT, LAW, headline
from implicit_accel.devices import num_cores, use_cpu_devices
from implicit_accel.errors import UserError
from implicit_accel.executors.local import LocalExecutor
from implicit_accel.experiments import cli, compilation
from implicit_accel.experiments import executor as executors
from implicit_accel.experiments.claim_runner import Setup, find_data, run_claims
from implicit_accel.files import refuse_link, remove_partial
from implicit_accel.store.folder import RunFolder

_MOST_WORKERS = 4

_NO_VERDICTS = "smoke: no verdicts"

_GROUPS = cli.FlagGroups()
_CLAIMS = flags.DEFINE_list(
    "claims", ["all"], "Which claims: their ids, such as P0, P3b, F2, S7, T1; or all."
)
_CLAIMS_FROM = flags.DEFINE_string(
    "claims_from",
    None,
    "A folder of claims of your own, in place of the project's: a module for each, named after its "
    "id (a1.py holds claim A1). The modules are run: name only a folder that you trust.",
)
_SCALE = flags.DEFINE_enum_class(
    "scale",
    Scale.STANDARD,
    Scale,
    "smoke: minutes, shows that everything works, without verdicts; standard: about an "
    "hour and a half on 2 cores; paper: the papers' full lengths, for a GPU or a night.",
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Where results and report go; unless given outputs/reproduction, with the scale behind it if "
    "it is not standard.",
)
_ESTIMATE = flags.DEFINE_bool(
    "estimate", False, "Only print what the papers' full lengths would cost, and end."
)
_GROUPS.add("What", _CLAIMS, _CLAIMS_FROM, _SCALE, _OUTPUT_DIR, _ESTIMATE)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder with the data files; else $IMPLICIT_ACCEL_DATA_DIR and the cache."
)
_DOWNLOAD = flags.DEFINE_bool(
    "download", False, "Download what is missing. Without it, stand-ins take the place of data."
)
_GROUPS.add("Data", _DATA_DIR, _DOWNLOAD)
executors.add_flags(_GROUPS)
compilation.add_flags(_GROUPS)


def choose_claims(collection: Collection) -> list[Claim]:
    """The chosen claims, in the order of the report.

    Raises:
        UserError: If one is unknown.
    """
    asked = [name.strip() for name in _CLAIMS.value]
    if not asked:
        raise UserError("--claims: the list is empty; name some, or all")
    known = {"all", *(claim.id.lower() for claim in collection.claims)}
    for name in asked:
        if name.lower() not in known:
            ids = ", ".join(claim.id for claim in collection.claims)
            raise UserError(f"--claims: {name!r} is unknown; choose from {ids}, or all")
    wanted = {name.lower() for name in asked}
    return [c for c in collection.claims if "all" in wanted or c.id.lower() in wanted]


def print_estimate(claims: list[Claim], console: Console) -> None:
    """About what the scale ``paper`` will take."""
    table = Table(title="The papers' lengths, 2 CPU cores", title_justify="left")
    table.add_column("claim")
    table.add_column("hours", justify="right")
    for claim in claims:
        table.add_row(claim.id, f"{claim.paper_hours:.2g}")
    table.add_row("at most, all of these", f"{sum(claim.paper_hours for claim in claims):.2g}")
    console.print(table)
    console.print(
        "Estimated from the standard scale's times. Claims share what they train, so that some "
        "take their hours only if they are the first. What is finished is kept, and a sweep that "
        "was broken off goes on from its last checkpoint."
    )


_PLEDGE = (
    "Every claim has a criterion that was written down before its results were looked at; where "
    "one, a grid or a number of seeds was changed after a first look, the claim's caveats say so. "
)


def preamble(scale: Scale, entries: list[Entry], collection: Collection) -> list[str]:
    """What the report says of itself."""
    # Only this project's own practice is known.
    pledge = _PLEDGE if collection.folder is None else ""
    minutes = sum(entry.seconds for entry in entries) / 60
    judging = (
        f"{pledge}A claim has one primary effect. Its outcome is what holds over seeds and over "
        "the choices by which the effect is measured: precision, the rule for the learning rate, "
        "the target, the data, each half of the grid. Further effects that were checked stand "
        "below it, by intervals that hold together with 95 %; they are not counted. Intervals are "
        "not corrected for the number of claims. A law has an error and a range in which it holds, "
        "and no outcome."
        if scale.has_verdicts
        else f"{_NO_VERDICTS}. Such a run shows that everything works; it is far too short, and "
        "its seeds are far too few, to judge by."
    )
    return [
        f"{judging} Speed-ups are ratios "
        "of steps to a target excess loss, each model at its own best learning rate. Intervals are "
        "95 % over seeds; those of speed-ups are cross-fitted, and hold what the choice of the "
        "rate and the grid's resolution leave open. Fewer than six seeds have a range and no "
        "percentage.",
        f"Scale: {scale.value}. Written {datetime.date.today().isoformat()} with JAX "
        f"{jax.__version__} on {jax.default_backend()} ({platform.machine()}, "
        f"{num_cores()} cores); the experiments took {minutes:.0f} min in all, those "
        "that ran side by side counted each by itself.",
    ]


def print_overview(entries: list[Entry], scale: Scale, console: Console) -> None:
    """What ran with its primary effects, and the outcomes if the scale has any."""
    table = Table(title="Outcomes" if scale.has_verdicts else "Effects", title_justify="left")
    names = ("claim", "outcome", EFFECT, "over choices")
    for name in names if scale.has_verdicts else ("claim", EFFECT):
        table.add_column(name)
    for entry in entries:
        cells = [headline(entry)]
        if scale.has_verdicts:
            outcome = LAW if entry.claim.is_theory else str(entry.answer)
            cells = [outcome, *cells, entry.answer.span_words]
        table.add_row(entry.claim.id, *cells)
    console.print(table)
    if not scale.has_verdicts:
        console.print(_NO_VERDICTS)


def choose_workers(num_claims: int) -> int | None:
    """How many worker processes test claims at once; None for this process.

    Up to 4 as far as there are cores, where the package for workers is installed: each takes up to
    5 GB of memory. An accelerator is one process's; a single claim has all cores.
    """
    can_share = importlib.util.find_spec("distributed") is not None
    if num_claims == 1 or not can_share or jax.default_backend() != "cpu":
        return None
    workers = min(_MOST_WORKERS, num_cores(), num_claims)
    return workers if workers > 1 else None


def main() -> None:
    """Tests, writes, prints."""
    executors.check_flags()
    use_cpu_devices()  # before a user's modules compute
    collection = load_collection(_CLAIMS_FROM.value)
    claims = choose_claims(collection)
    scale = _SCALE.value
    suffix = "" if scale is Scale.STANDARD else f"-{scale.value}"
    default = "reproduction" if collection.folder is None else collection.folder.resolve().name
    folder = Path(_OUTPUT_DIR.value or f"outputs/{default}{suffix}")
    console, log = cli.make_console(), cli.make_console(stderr=True)
    if _ESTIMATE.value:
        print_estimate(claims, console)
        return
    if scale is Scale.PAPER:
        print_estimate(claims, log)
    setup = Setup(
        scale, folder, _DATA_DIR.value, _DOWNLOAD.value, compilation.asked_for(),
        None if collection.folder is None else str(collection.folder.resolve()),
    )  # fmt: skip
    setup.prepare()
    if executors.SCHEDULER.value is not None:
        setup = dataclasses.replace(setup, data=find_data(setup.context(claims[0], folder)))
    began = time.monotonic()
    with (
        cli.output_folder(folder),
        RunFolder(folder).locked(),
        executors.opened(log, LocalExecutor, workers=choose_workers(len(claims))) as executor,
    ):
        remove_partial(folder)
        for claim in collection.claims:
            refuse_link(folder / claim.id)
            for each in (folder / claim.id).glob("**"):
                remove_partial(each)
        for lock in folder.glob(".*-*.lock"):  # killed workers left them
            lock.unlink()
        for number, (claim, seconds) in enumerate(run_claims(claims, setup, executor, log), 1):
            entry = load_finding(claim, folder / claim.id, scale.value)
            answer = f"{entry.answer.outcome!s:14s} " if entry and scale.has_verdicts else ""
            log.print(f"{number:2d} of {len(claims)}  {claim.id:4s} {answer}{seconds:6.1f} s")
        log.print(f"{len(claims)} claims in {(time.monotonic() - began) / 60:.1f} min")
        entries = []
        for claim in collection.claims:
            stored = load_finding(claim, folder / claim.id, scale.value)
            entries += [] if stored is None else [stored]
        save_findings(entries, folder / FINDINGS_FILE, scale.value)
        save_outcomes(entries, folder / OUTCOMES_FILE, scale.value)
        write_report(
            entries,
            folder,
            title=collection.title,
            collection=collection,
            preamble=preamble(scale, entries, collection),
            verdicts=scale.has_verdicts,
        )
    chosen = {claim.id for claim in claims}
    print_overview([entry for entry in entries if entry.claim.id in chosen], scale, console)
    console.print(
        f"{folder}: {MARKDOWN_FILE}, {PAGE_FILE}, {FINDINGS_FILE}, {OUTCOMES_FILE}, "
        "a folder for each claim"
    )


if __name__ == "__main__":
    cli.run(main, _GROUPS, __doc__ or "")
