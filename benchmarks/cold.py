"""The student project's grid from process start to results on disk: ``python -m benchmarks.cold``.

Both datasets, 7 architectures × 7 learning rates × seeds × 100 full-batch steps, biases, PyTorch's
default initialisation, MSE. Timed from outside, imports and compilation included; what earlier
runs compiled counts if a folder for compiled programs is named.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.workloads import DEPTH_WIDTHS_STUDENT, RATES_STUDENT, load_arrays

STEPS = 100


def torch_loop(datasets: list[Path], num_seeds: int, folder: Path) -> None:
    """As the student project does it: one model after another, the loss noted every epoch."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for path in datasets:
        features, targets = load_arrays(path)
        X, y = torch.from_numpy(features), torch.from_numpy(targets)[:, None]
        curves = []
        for hidden in DEPTH_WIDTHS_STUDENT:
            widths = (X.shape[1], *hidden, 1)
            for rate in RATES_STUDENT:
                for seed in range(num_seeds):
                    torch.manual_seed(seed)
                    model = torch.nn.Sequential(
                        *(torch.nn.Linear(widths[j], widths[j + 1]) for j in range(len(widths) - 1))
                    )
                    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
                    criterion = torch.nn.MSELoss()
                    losses = []
                    for _ in range(STEPS):
                        optimizer.zero_grad()
                        loss = criterion(model(X), y)
                        loss.backward()
                        optimizer.step()
                        losses.append(loss.item())
                    curves.append(losses)
        np.save(folder / f"{path.stem}.npy", np.array(curves))


def ours(datasets: list[Path], num_seeds: int, folder: Path, programs: Path | None = None) -> None:
    """The same grid by this project: trajectories, optimum and summary table.

    Args:
        datasets: The data files.
        num_seeds: Seeds.
        folder: Where the results go.
        programs: Where compiled programs are kept, if they are.
    """
    import jax

    if programs is not None:
        from implicit_accel.experiments import compilation

        compilation.keep_programs(str(programs))
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    from implicit_accel import summarise
    from implicit_accel.linear import Loss, Problem, SweepConfig, run_sweep
    from implicit_accel.results import save_results

    config = SweepConfig(
        depths=(1, 2, 3),
        hidden_widths=(1, 10, 64),
        inits=("pytorch",),
        bias=True,
        losses=(Loss(2, "plain"),),
        learning_rates=RATES_STUDENT,
        num_seeds=num_seeds,
        num_steps=STEPS,
    )

    def train(path: Path) -> None:
        results = run_sweep(Problem.from_arrays(*load_arrays(path)), config)
        out = folder / path.stem
        out.mkdir()
        save_results(results, out)
        summarise(results).to_csv(out / "summary.csv", index=False)

    # Almost all of the time is compilation, one program per dataset, each on one core.
    with ThreadPoolExecutor(len(datasets)) as threads:
        list(threads.map(train, datasets))


def main() -> None:
    """Arguments: contender, seeds, output folder, folder of compiled programs or -, data files."""
    contender, num_seeds, folder, programs, *names = sys.argv[1:]
    datasets = [Path(name) for name in names]
    if contender == "a":
        torch_loop(datasets, int(num_seeds), Path(folder))
    else:
        kept = None if programs == "-" else Path(programs)
        ours(datasets, int(num_seeds), Path(folder), kept)


if __name__ == "__main__":
    main()
