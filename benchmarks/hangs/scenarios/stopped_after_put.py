"""A worker is stopped when it has sent its batches, before the trainer has fetched their memory (catalogue 0.2, F2).

torch: hangs, also with ``timeout``, which does not cover the hand-over of the memory's descriptor.
"""

from __future__ import annotations

import os
import signal
import time

from benchmarks.hangs import faults
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="F2", title="stopped after its put", longest=8.0, quick=True)


def train(run: Run) -> None:
    for number, batch in enumerate(run.loader(Samples())):
        run.batch(batch)
        if number == 0:
            time.sleep(1)  # a long training step, in which the workers send all that they may
            if run.fault():
                for pid in faults.workers():
                    os.kill(pid, signal.SIGSTOP)


if __name__ == "__main__":
    program(train)
