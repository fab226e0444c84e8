"""A ``KeyboardInterrupt`` comes out of a sample (catalogue A7).

torch: ``EOFError`` with an empty message, or another accident.
"""

from __future__ import annotations

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="A7", title="KeyboardInterrupt in a sample", expect=("finished", "error"))


class Faulty(Samples):
    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires():
            raise KeyboardInterrupt


def train(run: Run) -> None:
    run.epoch(run.loader(Faulty()))


if __name__ == "__main__":
    program(train)
