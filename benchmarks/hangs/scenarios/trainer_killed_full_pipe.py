"""The trainer is killed (SIGKILL) while its workers wait in the middle of a write into a full pipe (catalogue G1).

torch: the workers hold the pipe's read end themselves, so that the write never fails, and they never leave.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from torch.utils.data import Dataset

from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(
    row="G1", title="trainer killed, pipe full", batches=0, reference=None, dead_trainer=True, grace=10.0
)


class Files(Dataset[bytes]):
    """The raw bytes of files: no tensors, so they cross the border inside the message."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> bytes:
        return bytes([index]) * (2 << 20)


def as_list(samples: list[Any]) -> list[Any]:
    return samples


def train(run: Run) -> None:
    for batch in run.loader(Files(), batch_size=2, collate_fn=as_list):
        run.batch(batch)
        time.sleep(2)  # a long training step, in which the pipe fills up
        if run.fault():
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    program(train)
