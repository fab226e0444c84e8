"""A sample raises an exception whose class cannot be pickled (catalogue A2).

torch: the exception is dropped in the worker's feeder thread, and the trainer waits for it for ever.
"""

from __future__ import annotations

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="A2", title="an exception cannot be pickled", expect=("error",), says="broken header")


class Faulty(Samples):
    def before(self, index: int) -> None:
        class DecoderError(Exception):
            """Local to this function, so that pickle cannot find it."""

        if index == FAULT_AT and faults.fires(always=True):
            raise DecoderError("broken header")


def train(run: Run) -> None:
    run.epoch(run.loader(Faulty()))


if __name__ == "__main__":
    program(train)
