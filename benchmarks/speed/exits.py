"""Seconds from a program's last line until it is gone, while all its workers are stuck in a sample."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import psutil
import torch
from torch.utils.data import Dataset

from benchmarks.speed import child, loaders

PATIENCE = 30.0  # seconds in which stuck workers must have got stuck


class Stuck(Dataset[torch.Tensor]):
    """From its second batch on, every worker writes a file and never comes back."""

    def __init__(self, workers: int, folder: str) -> None:
        self.workers, self.folder = workers, folder

    def __len__(self) -> int:
        return 8 * self.workers

    def __getitem__(self, index: int) -> torch.Tensor:
        if index >= self.workers:
            Path(self.folder, str(index)).touch()
            time.sleep(1e6)
        return torch.zeros(1)


def leave(name: str, workers: int, folder: str) -> None:
    """The program: get a batch of each worker, wait until all workers are stuck, tell the time, and come to the end."""
    torch.set_num_threads(1)
    loader = loaders.build(name, Stuck(workers, folder), batch_size=1, num_workers=workers)
    iterator = iter(loader)
    for _ in range(workers):  # all of them have begun
        next(iterator)
    end = time.monotonic() + PATIENCE
    while len(list(Path(folder).iterdir())) < workers and time.monotonic() < end:
        time.sleep(0.01)
    pids = [process.pid for process in psutil.Process().children(recursive=True)]
    child.tell(left_at=time.monotonic(), stuck=len(list(Path(folder).iterdir())), pids=pids)


def main() -> None:
    """Start the program, and print as JSON how long its end took and how many of its processes are left."""
    import tempfile

    parser = argparse.ArgumentParser()
    parser.add_argument("loader")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--folder", help="of the program itself; not given: measure it")
    asked = parser.parse_args()
    if asked.folder:
        leave(asked.loader, asked.workers, asked.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        program = child.start("exits", asked.loader, "--workers", asked.workers, "--folder", folder)
        try:
            assert program.stdout is not None
            told = json.loads(program.stdout.readline())
            program.wait()
            seconds = time.monotonic() - told["left_at"]
            left = [pid for pid in told["pids"] if psutil.pid_exists(pid)]
        finally:
            child.end(program)
    child.tell(seconds=seconds, stuck=told["stuck"], left=len(left))


if __name__ == "__main__":
    main()
