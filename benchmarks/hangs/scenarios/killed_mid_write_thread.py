"""The workers are killed while they write a large batch; the training loop runs in a thread (catalogue D3).

torch: no signal handler rescues a thread: it reads the rest of a message for ever, also with ``timeout``.
"""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch.utils.data import Dataset

from benchmarks.hangs import faults
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIO = Scenario(row="D3", title="killed mid-write, loop in a thread", batches=12, reference="own", longest=1.0)
SIZE = 4 << 20


class Files(Dataset[bytes]):
    """The raw bytes of files: no tensors, so they cross the border inside the message."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> bytes:
        faults.sign_in()
        return bytes([index]) * SIZE


def as_list(samples: list[Any]) -> list[Any]:
    return samples


def loop(run: Run) -> None:
    for number, batch in enumerate(run.loader(Files(), batch_size=2, collate_fn=as_list)):
        run.batch(batch)
        if number == 1:
            time.sleep(1.5)  # a long training step: the pipe is full, and the workers wait in the middle of a write
            if run.fault():
                for pid in faults.workers():
                    os.kill(pid, signal.SIGKILL)


def train(run: Run) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(loop, run).result()


if __name__ == "__main__":
    program(train)
