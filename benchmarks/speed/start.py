"""Seconds from the first ``iter()`` to the first batch, in a program that has already imported everything."""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.speed import child, loaders
from benchmarks.speed.workloads import Rows


def main() -> None:
    """Start one loader once and print the seconds as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loader")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    loader = loaders.build(
        asked.loader, Rows(32 * 4 * asked.workers, (8,), "float32"), batch_size=32, num_workers=asked.workers
    )
    started = time.perf_counter()
    iterator = iter(loader)
    next(iterator)
    seconds = time.perf_counter() - started
    del iterator
    loaders.close(loader)
    child.tell(seconds=seconds)


if __name__ == "__main__":
    main()
