"""The workers are hit when they have sent batches that the trainer has not fetched yet (catalogue 0.2, D4, F2)."""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial

from benchmarks.hangs import faults
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIOS = {
    # torch: ``ConnectionRefusedError`` and the like, or "exited unexpectedly": a tensor's memory is fetched from the
    # worker
    "killed_after_put": Scenario("D4", "all workers killed after their put", longest=1.0),
    # torch: hangs, also with ``timeout``, which does not cover the hand-over of the memory's descriptor
    "stopped_after_put": Scenario("F2", "stopped after its put", longest=8.0, quick=True),
}
SIGNALS = {"killed_after_put": signal.SIGKILL, "stopped_after_put": signal.SIGSTOP}


def train(run: Run, name: str) -> None:
    for number, batch in enumerate(run.loader(Samples())):
        run.batch(batch)
        if number == 0:
            time.sleep(1)  # a long training step, in which the workers send all that they may
            if run.fault():
                for pid in faults.workers():
                    os.kill(pid, SIGNALS[name])


if __name__ == "__main__":
    program(partial(train, name=sys.argv[1]))
