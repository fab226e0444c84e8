"""The workers are killed when they have sent batches that the trainer has not fetched yet (catalogue D4).

torch: ``ConnectionRefusedError`` and the like, or "exited unexpectedly": a tensor's memory is fetched from
the worker.
"""

from __future__ import annotations

import os
import signal
import time

from benchmarks.hangs import faults
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="D4", title="all workers killed after their put", longest=1.0)


def train(run: Run) -> None:
    for number, batch in enumerate(run.loader(Samples())):
        run.batch(batch)
        if number == 0:
            time.sleep(1)  # a long training step, in which the workers send all that they may
            if run.fault():
                for pid in faults.workers():
                    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    program(train)
