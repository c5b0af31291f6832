"""One contender in a process of its own: prepares, then runs once for every line it is sent."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.contenders import CONTENDERS
from benchmarks.workloads import WORKLOADS


def main() -> None:
    """Arguments: contender's letter, workload's name, data file."""
    letter, name, path = sys.argv[1:]
    _, prepare = CONTENDERS[letter]
    run = prepare(WORKLOADS[name], Path(path))
    print("ready", flush=True)
    for _ in sys.stdin:
        configuration_steps, seconds = run()
        print(json.dumps({"steps": configuration_steps, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
