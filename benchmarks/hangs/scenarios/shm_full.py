"""/dev/shm is too small for the batches in flight, as in a container with Docker's default (catalogue E1).

torch: since 2.10 the item is dropped in the worker's feeder thread, and the trainer waits for it for ever.
"""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from benchmarks.hangs import rooms
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(
    row="E1", title="/dev/shm is full", batches=12, reference="own", room=rooms.small_shm(24), quick=True
)


class Large(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((16 << 20,), index, dtype=torch.uint8)


def train(run: Run) -> None:
    run.epoch(run.loader(Large(), batch_size=None))


if __name__ == "__main__":
    program(train)
