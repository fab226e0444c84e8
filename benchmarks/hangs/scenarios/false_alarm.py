"""One sample always takes 6 s; the deadline, 4 s, takes it for a hang (catalogue J1).

torch: without ``timeout`` finishes; with it, the run is lost to a false alarm.
"""

from __future__ import annotations

import time

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="J1", title="one slow sample, beyond the deadline")


class Slow(Samples):
    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires(always=True):
            time.sleep(6)


def train(run: Run) -> None:
    run.epoch(run.loader(Slow(), deadline=4.0))


if __name__ == "__main__":
    program(train)
