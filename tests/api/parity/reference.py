"""The reference: torch's own DataLoader, run in programs of its own; ``python -m tests.api.parity.reference``.

Reads jobs and writes their results, pickled. Forking spares most references the start of a new interpreter for every
worker; that it changes nothing is tested with spawn. Each job has a process and a time limit: torch's loader hangs at
times, most of all when an epoch is left early, and is asked again then.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import time
import warnings
from typing import Any

__all__ = ["references"]

Job = tuple[str, Any, str]  # ("case", number, start method) or ("values", mode, start method)

_LIMIT = 60.0  # seconds for one job
_ATTEMPTS = 4


def references(jobs: list[Job], timeout: float = 600.0) -> dict[Job, Any]:
    """What torch's loader does in each job; takes at most ``timeout`` seconds."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.api.parity.reference"],
        input=pickle.dumps(jobs), stdout=subprocess.PIPE, timeout=timeout, check=True,
    )  # fmt: skip
    results: dict[Job, Any] = pickle.loads(done.stdout)
    return results


def _run(job: Job) -> Any:
    import torch.multiprocessing
    from torch.utils.data import DataLoader

    from tests.api.parity import cases, values

    what, which, method = job
    if method == "fork":  # the workers share this; the other strategy breaks when an epoch is left early
        torch.multiprocessing.set_sharing_strategy("file_system")
    if what == "values":
        names = [name for name in values.VALUES if name not in values.WRONG_IN_TORCH]
        return values.deliver(which, names, DataLoader, multiprocessing_context=method)
    configuration = cases.case(which)
    context = {"multiprocessing_context": method} if configuration.num_workers else {}
    return cases.trace(configuration, DataLoader, **context)


def _run_apart(job: Job) -> Any:
    """Run a job in a forked process; None if it takes too long."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        with os.fdopen(writer, "wb") as file:
            pickle.dump(_run(job), file)
        os._exit(0)
    os.close(writer)
    data = _read(reader, time.monotonic() + _LIMIT)
    os.close(reader)
    if data is None:
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return pickle.loads(data) if data else None


def _read(reader: int, end: float) -> bytes | None:
    """Everything up to the end of file, or None at the end of time."""
    data = b""
    while time.monotonic() < end:
        if select.select([reader], [], [], 1.0)[0]:
            piece = os.read(reader, 1 << 20)
            if not piece:
                return data
            data += piece
    return None


def main() -> None:
    """Do the jobs on stdin."""
    import torch

    from tests.api.parity import cases, values  # noqa: F401 - once for all jobs

    torch.set_num_threads(1)  # no threads of OpenMP before a fork
    warnings.simplefilter("ignore")
    results = {}
    for job in pickle.load(sys.stdin.buffer):
        for _ in range(_ATTEMPTS):
            t0=time.time()
            results[job] = _run_apart(job)
            print(job,time.time()-t0,file=sys.stderr)
            if results[job] is not None:
                break
            print(f"torch's loader gave no result for {job}", file=sys.stderr)
    sys.stdout.buffer.write(pickle.dumps(results))


if __name__ == "__main__":
    main()
