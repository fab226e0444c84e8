"""A worker is killed while it is being set up (catalogue D5).

torch: an error.
"""

from __future__ import annotations

from benchmarks.hangs import faults
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="D5", title="killed during start", longest=1.0)


def set_up(worker: int) -> None:
    if faults.fires():
        faults.die()


def train(run: Run) -> None:
    run.epoch(run.loader(Samples(), worker_init_fn=set_up))


if __name__ == "__main__":
    program(train)
