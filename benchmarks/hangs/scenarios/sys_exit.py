"""A library calls ``sys.exit`` in a sample (catalogue A7).

torch: an error that does not tell the cause.
"""

from __future__ import annotations

import sys

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="A7", title="sys.exit(3) in a sample", longest=1.0)


class Faulty(Samples):
    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires():
            sys.exit(3)


def train(run: Run) -> None:
    run.epoch(run.loader(Faulty()))


if __name__ == "__main__":
    program(train)
