"""An epoch is left early, by ``break``, while slow samples are prefetched; then the next epoch begins (catalogue F4).

torch: the next epoch first waits for all that was prefetched for the old one.
"""

from __future__ import annotations

import time

from benchmarks.hangs import faults
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="F4", title="early break, then a new epoch", batches=9, reference="own")


class SlowAtFirst(Samples):
    def before(self, index: int) -> None:
        if faults.armed("slow") and index >= 8 and index % 4 == 0:
            time.sleep(3)


def train(run: Run) -> None:
    loader = run.loader(SlowAtFirst(), persistent_workers=True)
    if not run.quiet:
        faults.arm("slow")
    run.epoch(loader, limit=1)
    run.fault()
    faults.disarm("slow")
    run.epoch(loader)


if __name__ == "__main__":
    program(train)
