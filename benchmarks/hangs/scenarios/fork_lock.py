"""A lock is held by another thread at the moment of fork (catalogue B1).

torch: with fork, the worker inherits a locked lock and nobody who will ever unlock it: hangs.
"""

from __future__ import annotations

import threading

from benchmarks.hangs import facts, library
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="B1", title="fork while a thread holds a lock", quick=True)


class NeedsLock(Samples):
    def before(self, index: int) -> None:
        if not facts.quiet():
            with library.LOCK:
                pass


def train(run: Run) -> None:
    held = threading.Event()
    # A library's thread at work: it holds the library's lock for a while, again and again.
    threading.Thread(target=library.hold_lock, args=(held, 3.0), daemon=True).start()
    held.wait()
    run.fault()
    run.epoch(run.loader(NeedsLock(), multiprocessing_context="fork"))


if __name__ == "__main__":
    program(train)
