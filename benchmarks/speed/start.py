"""Seconds from ``iter()`` to the first batch, in a program that has already imported everything."""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from benchmarks.speed import child, loaders
from benchmarks.speed.workloads import Rows


def first_batch(loader: Any) -> float:
    """Seconds to the first batch of a new iterator, which is then dropped."""
    started = time.perf_counter()
    iterator = iter(loader)
    next(iterator)
    return time.perf_counter() - started


def main() -> None:
    """Start one loader and print the seconds as JSON; ``--again``: those of a second loader of the same program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loader")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="measure the second of two loaders")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds between building a loader and iterating")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    built = []
    for _ in range(1 + asked.again):
        rows = Rows(32 * 4 * asked.workers, (8,), "float32")
        loader = loaders.build(asked.loader, rows, batch_size=32, num_workers=asked.workers)
        built.append(loader)
        time.sleep(asked.wait)
        seconds = first_batch(loader)
        loader._iterator = None  # its processes end, and no other's start is disturbed by them
    for loader in built:
        loaders.close(loader)
    child.tell(seconds=seconds)


if __name__ == "__main__":
    main()
