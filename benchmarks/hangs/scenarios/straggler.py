"""One sample takes 4 s; the deadline is longer (catalogue F5).

torch: finishes; the trainer waits for the slow batch while the other workers run out of work.
"""

from __future__ import annotations

import time

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="F5", title="one slow sample, within the deadline", longest=5.0)


class Slow(Samples):
    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires(always=True):
            time.sleep(4)


def train(run: Run) -> None:
    run.epoch(run.loader(Slow(), deadline=20.0))


if __name__ == "__main__":
    program(train)
