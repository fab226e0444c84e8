"""Four workers need more memory together than the control group has; one or two do not (catalogue D1).

torch: the kernel kills a worker: an error.
"""

from __future__ import annotations

import time

import numpy

from benchmarks.hangs import facts, rooms
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(
    row="D1",
    title="too little memory for four workers",
    reference="own",
    room=rooms.memory_limit(1500),
    patience=2.0,
    slow=2.0,
)


class Hungry(Samples):
    def before(self, index: int) -> None:
        if not facts.quiet():
            picture = numpy.ones(400 << 20, numpy.uint8)
            time.sleep(0.2)
            del picture


def train(run: Run) -> None:
    run.fault()
    run.epoch(run.loader(Hungry(), num_workers=4))


if __name__ == "__main__":
    program(train)
