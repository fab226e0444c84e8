"""A sample hangs every process that loads it (catalogue F1).

torch: hangs; with ``timeout`` an error that does not name the sample.
"""

from __future__ import annotations

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="F1", title="a sample always hangs", expect=("error",), says=r"\b18\b", patience=4.0)


class Faulty(Samples):
    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires(always=True):
            faults.sleep_forever()


def train(run: Run) -> None:
    run.epoch(run.loader(Faulty(), deadline=1.0))


if __name__ == "__main__":
    program(train)
