"""A worker is killed while it loads a sample, as by the out-of-memory killer (catalogue D1).

torch: an error at once; batches that were ready are lost with their worker.
"""

from __future__ import annotations

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="D1", title="killed (SIGKILL)", quick=True, longest=1.0)


class Faulty(Samples):
    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires():
            faults.die()


def train(run: Run) -> None:
    run.epoch(run.loader(Faulty()))


if __name__ == "__main__":
    program(train)
