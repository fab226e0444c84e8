"""A preemption: SIGTERM to the whole group; the trainer wants to write an emergency checkpoint (catalogue G2).

torch: the workers die first, and an error comes up in the training step, before the checkpoint.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from benchmarks.hangs import facts
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

if TYPE_CHECKING:
    from types import FrameType

SCENARIO = Scenario(row="G2", title="SIGTERM to the group, checkpoint wanted", batches=4, reference=None, quick=True)
LAST = 3


def train(run: Run) -> None:
    preempted = []

    def remember(number: int, frame: FrameType | None) -> None:
        preempted.append(number)

    signal.signal(signal.SIGTERM, remember)
    for number, batch in enumerate(run.loader(Samples(), persistent_workers=True)):
        run.batch(batch)
        if number == LAST - 1 and run.fault():
            os.killpg(os.getpgrp(), signal.SIGTERM)
        time.sleep(0.5)  # the training step goes on
        if number == LAST:
            break
    if preempted:
        (facts.directory() / "emergency.pt").write_text("the model")
        facts.note("checkpoint")


if __name__ == "__main__":
    program(train)
