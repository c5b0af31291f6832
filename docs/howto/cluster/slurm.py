"""A sweep on SLURM: jobs of one worker each, which come and go as the queue allows.

    python docs/howto/cluster/slurm.py --dataset gas --num_seeds 100 --output_dir $SCRATCH/run

The flags are those of ``implicit-accel sweep``. Run it where jobs can be submitted from, as long as
the training takes: in a terminal that stays, or in a small job of its own.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import dask.config
from dask_jobqueue.slurm import SLURMCluster
from distributed import Client

from implicit_accel.executors.dask import SCHEDULER_SETTINGS

JOBS = 16


def make_cluster(**options: Any) -> Any:
    """Jobs with one core and one worker.

    Args:
        **options: Of `SLURMCluster`: ``queue``, ``account``, ``walltime`` and others.
    """
    chosen: dict[str, Any] = {
        "cores": 1,
        "processes": 1,
        "memory": "4GB",
        "walltime": "04:00:00",
        # For an accelerator: "job_extra_directives": ["--gres=gpu:1"].
        # SLURM limits the memory; Dask would end a worker before that.
        "worker_extra_args": ["--memory-limit", "0"],
    }
    with dask.config.set(SCHEDULER_SETTINGS):
        return SLURMCluster(**(chosen | options))


def main() -> int:
    """Submits the jobs and runs the sweep; workers that start later take part."""
    with make_cluster() as cluster, Client(cluster) as client:
        cluster.scale(jobs=JOBS)
        with tempfile.TemporaryDirectory() as folder:
            scheduler = Path(folder) / "scheduler.json"
            client.write_scheduler_file(str(scheduler))
            command = ["implicit-accel", "sweep", "--scheduler", str(scheduler), *sys.argv[1:]]
            return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
