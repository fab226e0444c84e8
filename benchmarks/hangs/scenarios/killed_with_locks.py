"""A worker is killed while it holds the locks that it shares with others (catalogue D2).

torch: the error comes, but its destructor then waits for the lock of the dead: a hang.
"""

from __future__ import annotations

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="D2", title="killed while it holds shared locks", longest=1.0)


class Faulty(Samples):
    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires():
            faults.die_holding_locks()


def train(run: Run) -> None:
    run.epoch(run.loader(Faulty()))


if __name__ == "__main__":
    program(train)
