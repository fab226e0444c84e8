"""A worker stands still: stopped, or in an uninterruptible read (catalogue F1).

torch: hangs; with ``timeout`` an error, after which the interpreter's exit hangs.
"""

from __future__ import annotations

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="F1", title="stopped (SIGSTOP)", quick=True, longest=8.0)


class Faulty(Samples):
    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires():
            faults.stop()


def train(run: Run) -> None:
    run.epoch(run.loader(Faulty()))


if __name__ == "__main__":
    program(train)
