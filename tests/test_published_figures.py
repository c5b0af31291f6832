"""The figures that the documents show have the axes and legends that the code draws today."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image
from test_statistics import INF, NAN, made

from implicit_accel.claims.published.rivals import SHOWN, Rivals, curves_figure
from implicit_accel.figure_files import png_metadata, structure
from implicit_accel.plotting import (
    plot_excess_loss,
    plot_observable,
    plot_steps_to_target,
    write_figures,
)

DOCS = Path(__file__).parents[1] / "docs"

SHAPE = (6, 2, 3)
"""Two losses with three depths; the second rate is the better one of the first depth only."""


RARE = ("running median", "half of the runs diverged")


@pytest.fixture(scope="module")
def sweep() -> xr.Dataset:
    """A small one of what the documents show: models of which some are unstable at some rates."""
    steps, diverged = np.full(SHAPE, 50.0), np.full(SHAPE, NAN)
    diverged[[1, 2, 4, 5], 1] = 10
    steps[[1, 2, 4, 5], 1] = INF
    final = np.where(np.isnan(diverged), 0.05, INF)
    runs = made(steps, final, diverged=diverged, depths=(1, 2, 3) * 2)
    runs["loss_name"] = ("model", ["l2"] * 3 + ["l4"] * 3)
    runs["hidden_widths"] = ("model", ["-", "1", "1x1"] * 2)
    curves = np.full((*SHAPE, 2), 3.0)
    words = {"long_name": "largest eigenvalue of the training loss's Hessian"}
    dims = ("model", "learning_rate", "seed", "observation_step")
    return runs.assign(sharpness=(dims, curves, words)).assign_coords(observation_step=[0, 1000])


def of_sweep(sweep: xr.Dataset) -> dict[str, Figure]:
    return {
        "steps_to_target": plot_steps_to_target(sweep),
        "prediction": plot_excess_loss(
            sweep, best_by="target", predicted=lambda m, rate, steps: steps + 1.0
        ),
        "sharpness": plot_observable(
            sweep, "sharpness", reference=lambda runs: 3.0, reference_label="stability threshold"
        ),
    }


def of_readme(sweep: xr.Dataset) -> Figure:
    """README's picture, of one problem."""
    runs = sweep.assign(zero_loss=sweep["optimum"] + 1.0)
    cells = {(4.0, method, depth): (runs, depth - 1) for method, depth in SHOWN}
    return curves_figure({"a problem": Rivals(cells)})


def noted(path: Path) -> Any:
    with Image.open(path) as drawn:
        return json.loads(drawn.info["Description"])


@pytest.mark.parametrize("name", ["steps_to_target", "prediction", "sharpness"])
def test_figures_of_the_documents_are_drawn_today(sweep, name):
    published, drawn = noted(DOCS / "figures" / f"{name}.png"), structure(of_sweep(sweep)[name])
    # Of these there are some only where runs diverge or oscillate.
    published["legend"] = [text for text in published["legend"] if not text.endswith(RARE)]
    assert published == drawn


def test_readmes_picture_is_drawn_today(sweep):
    assert "docs/reproduction/R1/curves.png" in (DOCS.parent / "README.md").read_text()
    assert noted(DOCS / "reproduction" / "R1" / "curves.png") == structure(of_readme(sweep))


def test_a_structure_has_every_label_and_no_number():
    figure = Figure()
    for ax, rate in zip(figure.subplots(1, 2), ("1e-3", "0.25"), strict=True):
        ax.plot([1, 2], label=f"depth 2,\n  rate {rate}")
        ax.plot([1, 2], label="_hidden")
        ax.set(xlabel="step", ylabel="after 20,000 steps")
        ax.legend()
    figure.legend(["target"])
    assert structure(figure) == {
        "x": ["step"], "y": ["after # steps"], "legend": ["depth #, rate #", "target"]
    }  # fmt: skip


@pytest.mark.parametrize("name", ["$x^2$", "ℓ4", "a\nb", "\udcff", "\x1b[31m", "数据"])
def test_any_label_can_be_noted(tmp_path, name):
    figure = SimpleNamespace(axes=[], legends=[])
    assert json.loads(png_metadata(figure)["Description"]) == {"x": [], "y": [], "legend": []}
    drawn = Figure()
    drawn.subplots().set_xlabel(name.replace("\udcff", "").replace("\x1b", ""))
    (path,) = write_figures({"a": drawn}, tmp_path, ("png",))
    assert noted(path) == structure(drawn)
    drawn.axes[0].set_xlabel(name)
    assert png_metadata(drawn)["Description"].isascii()
