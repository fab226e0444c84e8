"""A program for three ranks that is held up in one place after another, until the test lets it go on.

``python -m torch.distributed.run --nproc-per-node 3 -m tests.distributed.held FOLDER``. A file in the folder, named as
the place, lets it go on there; another, ``ask``, lets a trainer that is held write down what the board says. Rank 0
prints the sum that all ranks agree on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import Dataset

from safeloader import DataLoader
from safeloader.distributed import board

LATE, STEP, SAMPLE, STOPPED = 1, 1, 2, 2
"""The rank that each place is of."""


def hold(folder: Path, place: str) -> None:
    """Wait until the test lets this place go on: in this file, which is what the line names."""
    while not (folder / place).exists():
        if place == "step" and (folder / "ask").exists():
            (folder / "ask").rename(folder / "asked")
            write(folder / "board", str(board()))
        time.sleep(0.02)


def write(path: Path, text: str) -> None:
    """Write a file that is there only when it is whole."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)


class Numbers(Dataset[torch.Tensor]):
    """One of whose samples is held."""

    def __init__(self, length: int, folder: Path | None) -> None:
        self._length = length
        self._folder = folder

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 13 and self._folder is not None:
            hold(self._folder, "sample")
        return torch.tensor([float(index)])


def main(folder: Path) -> None:
    """Train."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    write(folder / f"{rank}.pid", str(os.getpid()))
    if rank == LATE:
        hold(folder, "late")
    data = Numbers(32, folder if rank == SAMPLE else None)
    loader = DataLoader(
        data, 4, num_workers=int(rank == SAMPLE), prefetch_factor=1 if rank == SAMPLE else None, name="train"
    )
    total = torch.zeros(1)
    for number, batch in enumerate(loader):
        if rank == STEP and number == 1:
            hold(folder, "step")
        if rank == STOPPED and number == 5:
            os.kill(os.getpid(), signal.SIGSTOP)
        part = batch.sum().reshape(1)
        dist.all_reduce(part)
        total += part
    if rank == 0:
        print(f"sum {total.item():.0f}", flush=True)
    loader.close()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # threads of gloo that are still there abort a normal exit now and then


if __name__ == "__main__":
    main(Path(sys.argv[1]))
