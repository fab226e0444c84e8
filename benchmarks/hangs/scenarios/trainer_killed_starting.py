"""The trainer is killed (SIGKILL) while its workers are being set up (catalogue G1).

torch: the workers watch the wrong parent and never leave.
"""

from __future__ import annotations

import time

from benchmarks.hangs import faults
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(
    row="G1",
    title="trainer killed, workers starting",
    batches=0,
    reference=None,
    dead_trainer=True,
    grace=10.0,
)


def set_up(worker: int) -> None:
    if faults.fires():
        faults.kill_trainer()
    time.sleep(3)  # the rest of a slow set-up


def train(run: Run) -> None:
    run.epoch(run.loader(Samples(), worker_init_fn=set_up))


if __name__ == "__main__":
    program(train)
