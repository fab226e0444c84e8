"""The trainer is killed (SIGKILL) while its workers load long samples (catalogue G1).

torch: the workers stay until their sample is done, here ten minutes.
"""

from __future__ import annotations

import time

from benchmarks.hangs import faults
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(
    row="G1",
    title="trainer killed, workers busy",
    batches=0,
    reference=None,
    dead_trainer=True,
    grace=10.0,
    quick=True,
)


class Busy(Samples):
    def before(self, index: int) -> None:
        if index >= 8:
            if faults.fires():
                faults.kill_trainer()
            time.sleep(600)


def train(run: Run) -> None:
    run.epoch(run.loader(Busy()), step=0.1)


if __name__ == "__main__":
    program(train)
