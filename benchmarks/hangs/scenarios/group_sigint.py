"""Ctrl-C in the middle of an epoch, caught by the training script, which then begins a new epoch (catalogue G3).

torch: the signal of the group has killed the persistent workers; every later epoch fails.
"""

from __future__ import annotations

import os
import signal
import time

from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="G3", title="Ctrl-C, then a new epoch", batches=10, reference="own")


def train(run: Run) -> None:
    loader = run.loader(Samples(), persistent_workers=True)
    try:
        for number, batch in enumerate(loader):
            run.batch(batch)
            if number == 1:
                if not run.fault():
                    break
                os.killpg(os.getpgrp(), signal.SIGINT)
                time.sleep(5)
    except KeyboardInterrupt:
        time.sleep(0.5)  # a person thinks
    run.epoch(loader)


if __name__ == "__main__":
    program(train)
