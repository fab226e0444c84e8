"""The dataset has started a thread of its own that prepares samples (catalogue B6).

torch: with fork, the thread is missing in the worker, which waits for it for ever once the prepared samples
are used up. (With spawn: a TypeError that a lock cannot be pickled, without the name of the attribute.)
"""

from __future__ import annotations

import queue
import threading

from benchmarks.hangs import facts
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(
    row="B6",
    title="fork with a thread inside the dataset",
    reference=None,
    expect=("error",),
    says="ready|thread",
)


class Prefetching(Samples):
    def __init__(self) -> None:
        super().__init__()
        self.ready: queue.Queue[int] = queue.Queue(2)
        self.thread = threading.Thread(target=self._prepare, daemon=True)
        self.thread.start()

    def _prepare(self) -> None:
        for number in range(1000):
            self.ready.put(number)

    def before(self, index: int) -> None:
        if not facts.quiet():
            self.ready.get()


def train(run: Run) -> None:
    dataset = Prefetching()
    run.fault()
    run.epoch(run.loader(dataset, multiprocessing_context="fork"))


if __name__ == "__main__":
    program(train)
