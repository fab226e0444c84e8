"""Control: a sample raises an ordinary exception (peers, fault matrix).

torch: the error, with the worker's stack.
"""

from __future__ import annotations

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="-", title="a sample raises ValueError", expect=("error",), says=r"broken picture 18")


class Faulty(Samples):
    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires():
            raise ValueError(f"broken picture {index}")


def train(run: Run) -> None:
    run.epoch(run.loader(Faulty()))


if __name__ == "__main__":
    program(train)
