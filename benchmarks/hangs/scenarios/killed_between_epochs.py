"""An idle worker of a persistent loader is killed between two epochs (catalogue 0.9).

torch: an error in the next epoch, and in every later one.
"""

from __future__ import annotations

import os
import signal

from benchmarks.hangs import faults
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="0.9", title="killed between epochs", batches=16, reference="own", longest=1.0)


def train(run: Run) -> None:
    loader = run.loader(Samples(), persistent_workers=True)
    run.epoch(loader)
    if run.fault():
        os.kill(faults.workers()[0], signal.SIGKILL)
    run.epoch(loader)


if __name__ == "__main__":
    program(train)
