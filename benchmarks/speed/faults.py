"""What a signal to a worker costs: seconds until it is noticed, and the longest wait for a batch then."""

from __future__ import annotations

import argparse
import os
import re
import signal
import time
from typing import Any

import psutil
import torch

from benchmarks.speed import child, loaders
from benchmarks.speed.workloads import Rows

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
BATCHES = 400
STANDBY_START = 6.0  # seconds in which a standby is surely ready


class SlowRows(Rows):
    """Rows whose samples take a millisecond, so that the workers are at work when the signal comes."""

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(0.001)
        return super().__getitem__(index)


def workers() -> list[psutil.Process]:
    """This program's worker processes, oldest first."""
    helpers = ("resource_tracker", "forkserver")
    return [
        process
        for process in psutil.Process().children()
        if not any(word in part for part in process.cmdline() for word in helpers)
    ]


def strike(loader_name: str, kind: str, batch_timeout: float) -> dict[str, Any]:
    """Load an epoch and signal one worker in its middle.

    Args:
        loader_name: "torch" or "safeloader".
        kind: "kill" or "stop".
        batch_timeout: Seconds until a silent worker counts as hung; only for "stop".

    Returns:
        ``start`` (seconds to the first batch), ``outcome``, ``batches`` of ``due``, ``longest`` (seconds, the
        longest wait for a batch after the signal), ``noticed`` (seconds from the signal to the error or to
        the loader's report), or None where it did not.
    """
    loader = loaders.build(
        loader_name,
        SlowRows(BATCHES * 16, (8,), "float32"),
        batch_size=16,
        num_workers=2,
        # A killed worker is noticed without a deadline; torch's counts the start, too, and raises when that is slow.
        batch_timeout=batch_timeout if kind == "stop" else None,
    )
    outcome, count, longest, struck, struck_unix = "finished", 0, 0.0, 0.0, 0.0
    noticed: float | None = None
    started = time.perf_counter()
    iterator = iter(loader)
    first = None
    try:
        while True:
            before = time.perf_counter()
            try:
                next(iterator)
            except StopIteration:
                break
            count += 1
            first = first if first is not None else time.perf_counter() - started
            if struck:
                longest = max(longest, time.perf_counter() - before)
            if count == BATCHES // 4:
                time.sleep(STANDBY_START if "standby" in loader_name else 0)
                victim = workers()[0]
                struck, struck_unix = time.perf_counter(), time.time()
                os.kill(victim.pid, SIGNALS[kind])
    except Exception as problem:
        # torch's own SIGCHLD handler may raise a second time, in whatever runs now.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        outcome = f"{type(problem).__name__}: " + re.sub(r" \(pid(\(s\))? [^)]*\)", "", str(problem).partition("\n")[0])
        if struck:
            noticed = time.perf_counter() - struck
        else:
            outcome = "before the signal: " + outcome
    faults = loader.report().faults if hasattr(loader, "report") else []
    if faults:
        noticed = faults[0].time - struck_unix
    return {
        "start": first,
        "outcome": outcome,
        "batches": count,
        "due": BATCHES,
        "longest": longest if outcome == "finished" else None,
        "noticed": noticed,
    }


def main() -> None:
    """Measure one fault and print the result as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loader")
    parser.add_argument("kind", choices=list(SIGNALS))
    parser.add_argument("--batch-timeout", type=float, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    child.tell(**strike(asked.loader, asked.kind, asked.batch_timeout))
    # A stopped worker would be waited for at exit; the measuring program ends what is left.
    os._exit(0)


if __name__ == "__main__":
    main()
