"""A sample waits for ever in a C call that does not give up the interpreter lock (catalogue F1).

torch: hangs; with ``timeout`` an error.
"""

from __future__ import annotations

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="F1", title="a C call holds the GIL for ever", longest=8.0)


class Faulty(Samples):
    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires():
            faults.hold_the_gil()


def train(run: Run) -> None:
    run.epoch(run.loader(Faulty()))


if __name__ == "__main__":
    program(train)
