"""A decoder reads an address that is not there (catalogue D1).

torch: an error at once.
"""

from __future__ import annotations

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="D1", title="segmentation fault", longest=1.0)


class Faulty(Samples):
    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires():
            faults.segfault()


def train(run: Run) -> None:
    run.epoch(run.loader(Faulty()))


if __name__ == "__main__":
    program(train)
