"""A lambda as ``collate_fn`` and a class defined in a function (catalogue C1).

torch: with spawn, an error at the start of the epoch.
"""

from __future__ import annotations

from torch.utils.data import default_collate

from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="C1", title="lambda and local class")


def train(run: Run) -> None:
    class Local(Samples):
        def before(self, index: int) -> None:
            assert index < self.length

    if run.quiet:
        run.epoch(run.loader(Samples()))
    else:
        run.epoch(run.loader(Local(), collate_fn=lambda samples: default_collate(list(samples))))


if __name__ == "__main__":
    program(train)
