"""A bare ``next()`` on an empty iterator raises ``StopIteration`` in ``__getitem__`` (catalogue A8).

torch: the epoch ends early, as if all were well.
"""

from __future__ import annotations

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(
    row="A8", title="StopIteration out of a sample", expect=("error",), says=r"StopIteration.*|18", quick=True
)


class Faulty(Samples):
    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires():
            next(iter([]))


def train(run: Run) -> None:
    run.epoch(run.loader(Faulty()))


if __name__ == "__main__":
    program(train)
