"""A worker is killed in the middle of an iterable dataset (catalogue D1, H7).

torch: an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.data import IterableDataset, get_worker_info

from benchmarks.hangs import faults
from benchmarks.hangs.data import FAULT_AT, sample
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Iterator

SCENARIO = Scenario(row="H7", title="killed in an iterable dataset", reference="own", longest=1.0)


class Stream(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        for index in range(info.id if info else 0, 32, info.num_workers if info else 1):
            if index == FAULT_AT and faults.fires():
                faults.die()
            yield sample(index)


def train(run: Run) -> None:
    run.epoch(run.loader(Stream()))


if __name__ == "__main__":
    program(train)
