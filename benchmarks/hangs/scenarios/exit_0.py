"""A library calls ``os._exit(0)`` in a worker (catalogue 0.5).

torch: an error, after a poll of 5 s; with ``timeout`` only after the whole timeout.
"""

from __future__ import annotations

import os

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="0.5", title="exits with code 0", longest=1.0)


class Faulty(Samples):
    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires():
            os._exit(0)


def train(run: Run) -> None:
    run.epoch(run.loader(Faulty()))


if __name__ == "__main__":
    program(train)
