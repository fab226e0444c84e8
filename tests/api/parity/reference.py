"""The reference: torch's own DataLoader, run in a program of its own; ``python -m tests.api.parity.reference``.

Reads one job a line (as Python literals) and writes all results as one pickle. Forking spares most references the
start of a new interpreter for every worker; that it changes nothing is tested with spawn.
"""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import warnings
from typing import Any

__all__ = ["references"]

Job = tuple[str, Any, str]  # ("case", number, start method) or ("values", mode, start method)


def references(jobs: list[Job], timeout: float = 600.0) -> dict[Job, Any]:
    """What torch's loader does in each job; takes at most ``timeout`` seconds."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.api.parity.reference"],
        input=pickle.dumps(jobs), stdout=subprocess.PIPE, timeout=timeout, check=True,
    )  # fmt: skip
    results: dict[Job, Any] = pickle.loads(done.stdout)
    return results


def _run(job: Job) -> Any:
    from torch.utils.data import DataLoader

    from tests.api.parity import cases, values

    what, which, method = job
    if what == "values":
        names = [name for name in values.VALUES if name not in values.WRONG_IN_TORCH]
        return values.deliver(which, names, DataLoader, multiprocessing_context=method)
    configuration = cases.case(which)
    context = {"multiprocessing_context": method} if configuration.num_workers else {}
    return cases.trace(configuration, DataLoader, **context)


def main() -> None:
    """Do the jobs on stdin."""
    import torch

    torch.set_num_threads(1)  # no threads of OpenMP before a fork
    warnings.simplefilter("ignore")
    jobs = pickle.load(sys.stdin.buffer)
    results = {}
    for job in jobs:
        results[job] = _run(job)
        gc.collect()
    sys.stdout.buffer.write(pickle.dumps(results))


if __name__ == "__main__":
    main()
