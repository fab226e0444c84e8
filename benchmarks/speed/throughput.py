"""Whole epochs of one workload, loader against loader in one process, alternating."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import torch

from benchmarks.speed import child, loaders
from benchmarks.speed.workloads import INLINE, WORKLOADS, Workload

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import DataLoader


def epoch(loader: DataLoader[Tensor], read: bool) -> tuple[float, int]:
    """One epoch from ``iter()`` to the end.

    Args:
        loader: What is measured.
        read: Whether the consumer reads every byte of each batch, as a copy to an accelerator would.

    Returns:
        Seconds and batches.
    """
    count = 0
    started = time.perf_counter()
    for batch in loader:
        if read:
            _read(batch)
        count += 1
    return time.perf_counter() - started, count


def _read(batch: Tensor) -> None:
    batch.view(torch.int64).sum()


def reader_alone(workload: Workload) -> float:
    """Batches per second that the reading consumer reads where nobody loads any: from memory, not from its caches."""
    nbytes = workload.dataset()[0].nbytes * workload.batch_size
    batches = [torch.ones(nbytes, dtype=torch.uint8) for _ in range(max(3, (600 << 20) // nbytes))][:2000]
    started = time.perf_counter()
    for batch in batches:
        _read(batch)
    return len(batches) / (time.perf_counter() - started)


def measure(
    names: list[str], workload_name: str, repeats: int, batches: int | None, read: bool
) -> dict[str, list[float]]:
    """Batches per second of each loader, ``repeats`` times, the order of the pair swapped each time."""
    workload = (WORKLOADS | INLINE)[workload_name]
    dataset = workload.dataset()
    if batches is not None:
        dataset.length = batches * workload.batch_size
    due = loaders.batches(dataset, workload.batch_size)
    arms = [
        loaders.build(name, dataset, batch_size=workload.batch_size, num_workers=workload.num_workers) for name in names
    ]
    for arm in arms:  # starts the workers and fills their rows
        epoch(arm, read)
    rates: list[list[float]] = [[] for _ in arms]
    for repeat in range(repeats):
        order = list(range(len(arms)))
        for k in order if repeat % 2 == 0 else reversed(order):
            seconds, count = epoch(arms[k], read)
            if count != due:
                raise RuntimeError(f"{names[k]} delivered {count} of {due} batches")
            rates[k].append(count / seconds)
    for arm in arms:
        loaders.close(arm)
    return {f"{k}": rate for k, rate in enumerate(rates)}


def main() -> None:
    """Measure as the command line says and print the rates as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=[*WORKLOADS, *INLINE])
    parser.add_argument("--loaders", default=",".join(loaders.NAMES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=None)
    parser.add_argument("--read", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # the cores belong to the workers
    rates = measure(asked.loaders.split(","), asked.workload, asked.repeats, asked.batches, asked.read)
    most = reader_alone((WORKLOADS | INLINE)[asked.workload]) if asked.read else None
    child.tell(rates=rates, reader_alone=most)


if __name__ == "__main__":
    main()
