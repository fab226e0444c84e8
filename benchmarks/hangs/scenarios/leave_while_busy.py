"""The loop is left while the workers load long samples, and the program ends (catalogue F4, F7).

torch: leaving takes 5 s for each busy worker, one after the other.
"""

from __future__ import annotations

import time

from benchmarks.hangs import facts
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="F7", title="leaving while workers are busy", batches=2, longest=1.0)


class Busy(Samples):
    def before(self, index: int) -> None:
        if index >= 8 and not facts.quiet():
            time.sleep(120)


def train(run: Run) -> None:
    for number, batch in enumerate(run.loader(Busy())):
        run.batch(batch)
        if number == 1:
            run.fault()
            break
    run.resumed()


if __name__ == "__main__":
    program(train)
