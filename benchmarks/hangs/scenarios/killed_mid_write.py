"""The workers are killed while they write a large batch into a full pipe (catalogue D3)."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from torch.utils.data import Dataset

from benchmarks.hangs import faults
from benchmarks.hangs.program import Run, program
from benchmarks.hangs.scenario import Scenario

SCENARIOS = {
    # torch: the trainer's main thread is rescued by its SIGCHLD handler: an error
    "killed_mid_write": Scenario("D3", "killed while they write a batch", batches=12, reference="own", longest=1.0),
    # torch: no signal handler rescues a thread: it reads the rest of a message for ever, also with ``timeout``
    "killed_mid_write_thread": Scenario(
        "D3", "killed mid-write, loop in a thread", batches=12, reference="own", longest=1.0
    ),
}
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


def train(run: Run, name: str) -> None:
    if name == "killed_mid_write":
        loop(run)
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(loop, run).result()


if __name__ == "__main__":
    program(partial(train, name=sys.argv[1]))
