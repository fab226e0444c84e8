"""``worker_init_fn`` raises (catalogue A9).

torch: the error, once; a further ``next()`` fails by an accident of its own (``UnboundLocalError``).
"""

from __future__ import annotations

from benchmarks.hangs import faults
from benchmarks.hangs.data import Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="A9", title="worker_init_fn raises", expect=("error",), says="no such volume")


def set_up(worker: int) -> None:
    if faults.fires(always=True):
        raise FileNotFoundError("no such volume: /data/volume-3")


def train(run: Run) -> None:
    run.epoch(run.loader(Samples(), worker_init_fn=set_up))


if __name__ == "__main__":
    program(train)
