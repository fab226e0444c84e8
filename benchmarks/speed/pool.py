"""Train and val on one pool of processes against two loaders of torch: memory with both alive, and the way back.

The measured program takes an epoch of train, one of val, then half of one of each, and waits to be weighed; or it
goes to and fro between whole epochs and tells how long the first batch took each time.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.speed import child
from benchmarks.speed.workloads import BigArray, Rows

if TYPE_CHECKING:
    from torch.utils.data import DataLoader, Dataset


def build(name: str, datasets: list[Dataset[Any]], workers: int) -> list[DataLoader[Any]]:
    """Loaders that live side by side, each with persistent workers; safeloader's on one pool of as many processes.

    Args:
        name: "torch", "safeloader" or "safeloader-forkserver".
        datasets: One for each loader.
        workers: Of each loader.
    """
    arguments: dict[str, Any] = {
        "batch_size": 10, "num_workers": workers, "multiprocessing_context": "spawn", "persistent_workers": True,
    }  # fmt: skip
    if name == "torch":
        return [torch.utils.data.DataLoader(dataset, **arguments) for dataset in datasets]
    import safeloader

    method: Any = "forkserver" if name.endswith("-forkserver") else "spawn"
    policy = safeloader.Policy(pool=safeloader.WorkerPool(workers, start_method=method))
    return [safeloader.DataLoader(dataset, **arguments, policy=policy) for dataset in datasets]


def to_and_fro(train: DataLoader[Any], val: DataLoader[Any], times: int) -> list[float]:
    """Seconds from ``iter()`` to the first batch of each warm epoch of train that follows one of val."""
    seconds = []
    for epoch in range(times + 1):
        began = time.perf_counter()
        stream = iter(train)
        next(stream)
        if epoch:
            seconds.append(time.perf_counter() - began)
        for loader in (stream, val):
            for _ in loader:
                pass
    return seconds


def main() -> None:
    """Be the measured program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loader")
    parser.add_argument("--megabytes", type=int, default=0, help="of an array in each dataset")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--switches", type=int, default=0)
    parser.add_argument("--limit", type=float, default=120)
    asked = parser.parse_args()
    signal.alarm(int(asked.limit))
    torch.set_num_threads(1)
    datasets: list[Dataset[Any]] = [
        BigArray(length=1000, megabytes=asked.megabytes) if asked.megabytes else Rows(1000, (8,), "float32")
        for _ in range(2)
    ]
    train, val = build(asked.loader, datasets, asked.workers)
    if asked.switches:
        child.tell(median=statistics.median(to_and_fro(train, val, asked.switches)))
        return
    for loader in (train, val):
        for _ in loader:
            pass
    streams = [iter(loader) for loader in (train, val)]
    for _ in range(50):
        for stream in streams:
            next(stream)
    child.tell(at="mid-epoch")
    child.wait_for_word()


if __name__ == "__main__":
    main()
