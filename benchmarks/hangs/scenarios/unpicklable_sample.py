"""A sample holds something that cannot be pickled (catalogue A1).

torch: the batch is dropped in the worker's feeder thread, and the trainer waits for it for ever.
"""

from __future__ import annotations

import threading
from typing import Any

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, Samples
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(
    row="A1",
    title="a sample cannot be pickled",
    reference=None,
    expect=("error",),
    says=r"lock.*\b18\b|\b18\b.*lock",
    quick=True,
)


class Faulty(Samples):
    def __getitem__(self, index: int) -> Any:
        value = super().__getitem__(index)
        return {"value": value, "lock": threading.Lock()} if index == FAULT_AT and faults.fires(always=True) else value


def as_list(samples: list[Any]) -> list[Any]:
    return samples


def train(run: Run) -> None:
    run.epoch(run.loader(Faulty(), collate_fn=as_list))


if __name__ == "__main__":
    program(train)
