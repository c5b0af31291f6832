"""S6: a small convolutional network."""

from __future__ import annotations

from dataclasses import replace

from experiments.claims.criteria import Claim, Finding, judge, within
from experiments.claims.toolkit.images import images_and_notes
from experiments.claims.toolkit.laboratory import Laboratory
from experiments.claims.toolkit.measures import median_of
from implicit_accel.images.task import SMALL_CNN
from implicit_accel.plotting import plot_curves


def _test(lab: Laboratory) -> Finding:
    data, notes = images_and_notes(lab)
    images = lab.pick(256, 20_000, None)
    epochs = lab.pick(1, 10, 10)
    rates = lab.pick((0.01, 0.1), (1e-3, 1e-2, 1e-1), (1e-4, 1e-3, 1e-2, 5e-2, 1e-1))
    config = replace(
        SMALL_CNN, num_train=images, num_validation=0, num_test=lab.pick(200, 5_000, None),
        num_steps=epochs * ((images or 60_000) // SMALL_CNN.batch_size),
    )  # fmt: skip
    run = lab.classifiers(data, config, rates=rates, num_seeds=lab.pick(2, 2, 5))
    accuracy = 100 * (1 - run["test_error"].values[:, 0, :, -1])
    effects = [
        median_of(f"{data.title}, rate {rate:g}: test accuracy", values, unit=" %")
        for rate, values in zip(rates, accuracy, strict=True)
    ]
    best = max(effects, key=lambda e: e.value)
    panels = {
        "test error": {
            f"rate {rate:g}": (run["evaluation_step"].values, run["test_error"].values[i, 0])
            for i, rate in enumerate(rates)
        }
    }
    return Finding(
        verdict=judge([within(best, 96.0, 100.0)]),
        effects=(best, *(e for e in effects if e is not best)),
        summary=f"After {epochs} epochs: " + "; ".join(f"{e.name} {e}" for e in effects) + ".",
        sensitivity="The learning rate: the worst of these is "
        f"{best.value - min(e.value for e in effects):.2g} points below the best.",
        caveats=(
            (f"{images:,} training images instead of 60,000, so a third of the steps.",)
            if images
            else ()
        )
        + ("The student project does not describe its network; ours is one of its size.", *notes),
        figures={
            "test_error": plot_curves(
                panels, title=f"A small convolutional network on {data.title}", xlabel="step",
                ylabel="share of test images not recognised",
            )
        },
    )  # fmt: skip


CLAIM = Claim(
    id="S6",
    statement="A small convolutional network reaches about 97 % on MNIST in 10 epochs.",
    source="Levy & Wang 2024 (read)",
    setting="Convolutions of 16 and 32 channels and one dense layer, SGD with batches of 64.",
    criterion="The best learning rate's test accuracy lies above 96 %: 'about 97', or better.",
    test=_test,
    paper_hours=0.5,
)
