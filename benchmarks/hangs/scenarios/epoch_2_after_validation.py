"""Train, validate, train: the first sample after the validation hangs (catalogue F3).

torch: hangs, in epoch 2, right after the validation.
"""

from __future__ import annotations

from benchmarks.hangs import faults
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(
    row="F3", title="hang in epoch 2 after validation", batches=20, reference="own", longest=8.0, quick=True
)


class Faulty(Samples):
    def before(self, index: int) -> None:
        if faults.armed("validated") and faults.fires():
            faults.sleep_forever()


def train(run: Run) -> None:
    training = run.loader(Faulty(), shuffle=True, persistent_workers=True)
    validation = run.loader(Samples(16), persistent_workers=True)
    run.epoch(training)
    run.epoch(validation)
    faults.arm("validated")
    run.epoch(training)


if __name__ == "__main__":
    program(train)
