"""A worker of a persistent loader dies; the script catches the error and begins the next epoch (catalogue 0.9).

torch: every later epoch fails for the same dead worker, after 5 s each.
"""

from __future__ import annotations

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(
    row="0.9", title="persistent loader after a death", batches=24, reference="own", longest=1.0, quick=True
)


class Faulty(Samples):
    def before(self, index: int) -> None:
        if index == FAULT_AT and faults.fires():
            faults.die()


def train(run: Run) -> None:
    loader = run.loader(Faulty(), persistent_workers=True)
    errors: list[RuntimeError] = []
    for _ in range(3):
        try:
            run.epoch(loader)
        except RuntimeError as error:
            errors.append(error)
    if len(errors) > 1:
        raise errors[-1]


if __name__ == "__main__":
    program(train)
