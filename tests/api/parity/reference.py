"""The reference: torch's own DataLoader, run in programs of its own; ``python -m tests.api.parity.reference``.

Reads jobs and writes their results, pickled. Forking spares most references the start of a new interpreter for every
worker; that it changes nothing is tested with spawn. Each job has a process and a time limit, so that a hang of torch's
loader is the missing result of one job.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import warnings
from typing import Any, NamedTuple

__all__ = ["Job", "references"]


class Job(NamedTuple):
    """What to run: ``("case", number)``, ``("values", mode)`` or ``("workers", None)``; how torch starts its workers."""

    what: str
    which: Any
    method: str = "fork"


_LIMIT = 120.0  # seconds for one job
_AT_ONCE = 4


def references(jobs: list[Job], timeout: float = 900.0) -> dict[Job, Any]:
    """What torch's loader does in each job; takes at most ``timeout`` seconds."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.api.parity.reference"],
        input=pickle.dumps([tuple(job) for job in jobs]), stdout=subprocess.PIPE, timeout=timeout, check=True,
    )  # fmt: skip
    return {Job(*job): result for job, result in pickle.loads(done.stdout).items()}


def _run(job: Job) -> Any:
    from torch.utils.data import DataLoader

    from tests.api.parity import cases, values

    if job.what == "workers":
        return _facts(job.method)
    if job.what == "values":
        names = [name for name in values.VALUES if name not in values.WRONG_IN_TORCH]
        return values.deliver(job.which, names, DataLoader, multiprocessing_context=job.method)
    configuration = cases.case(job.which)
    context = {"multiprocessing_context": job.method} if configuration.num_workers else {}
    return cases.trace(configuration, DataLoader, **context)


def _facts(method: str) -> Any:
    """The base seed of an iterator, and what its workers find when they begin."""
    import torch
    from torch.utils.data import DataLoader

    from tests.api.parity import data

    generator = torch.Generator().manual_seed(7)
    loader = DataLoader(
        data.Facts(), None, num_workers=2, multiprocessing_context=method, generator=generator,
        collate_fn=data.collate_identity,
    )  # fmt: skip
    iterator = iter(loader)
    return iterator._base_seed, list(iterator)


class _Running:
    """A job in a forked process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.data = b""
        self.end = time.monotonic() + _LIMIT
        self.reader, writer = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.setpgid(0, 0)
            with os.fdopen(writer, "wb") as file:
                pickle.dump(_run(job), file)
            os._exit(0)
        os.close(writer)

    def read(self) -> bool:
        """Take what is there; True at the end."""
        piece = os.read(self.reader, 1 << 20)
        self.data += piece
        return not piece

    def finish(self) -> Any:
        """The result; None if there is none."""
        os.close(self.reader)
        if time.monotonic() > self.end:
            os.killpg(self._child, signal.SIGKILL)
            print(f"torch's loader did not finish {self.job}", file=sys.stderr)
        os.waitpid(self._child, 0)
        return pickle.loads(self.data) if self.data else None


def main() -> None:
    """Do the jobs on stdin."""
    import torch

    from tests.api.parity import cases, values  # noqa: F401 - once for all jobs

    torch.set_num_threads(1)  # no threads of OpenMP before a fork
    gc.collect()
    gc.freeze()  # else each fork that looks for garbage copies all that was imported
    warnings.simplefilter("ignore")
    jobs = [Job(*job) for job in pickle.load(sys.stdin.buffer)]
    results: dict[tuple[Any, ...], Any] = {}
    running: dict[int, _Running] = {}
    while jobs or running:
        while jobs and len(running) < _AT_ONCE:
            one = _Running(jobs.pop())
            running[one.reader] = one
        ready, _, _ = select.select(running, [], [], 1.0)
        ended = [reader for reader in ready if running[reader].read()]
        for reader in {*ended, *(reader for reader, one in running.items() if time.monotonic() > one.end)}:
            one = running.pop(reader)
            results[tuple(one.job)] = one.finish()
    sys.stdout.buffer.write(pickle.dumps(results))


if __name__ == "__main__":
    main()
