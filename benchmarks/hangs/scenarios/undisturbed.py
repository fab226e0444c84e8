"""Control: nothing goes wrong. Its batches are the reference of every scenario with the same data.

torch: finishes.
"""

from __future__ import annotations

from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="-", title="nothing goes wrong", quick=True)


def train(run: Run) -> None:
    run.epoch(run.loader(Samples()))


if __name__ == "__main__":
    program(train)
