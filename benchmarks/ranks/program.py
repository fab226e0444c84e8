"""One rank: an epoch of images, a step of DistributedDataParallel on each batch; rank 0 prints what it took, as JSON.

The dataset kills the process that loads it, on the last rank, once for each sample that it is told: the same deed under
both loaders. It is marked in a folder that it is done, before it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, DistributedSampler

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = (3, 96, 96)


class Images(Dataset["torch.Tensor"]):
    """Images that cost some milliseconds of work each, and deadly ones among them."""

    def __init__(self, length: int, deadly: frozenset[int], folder: str) -> None:
        self.length = length
        self.deadly = deadly
        self.folder = folder

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        if index in self.deadly:
            self._die_once(index)
        generator = torch.Generator().manual_seed(index)
        image = torch.rand(IMAGE, generator=generator)
        for _ in range(4):
            image = nn.functional.avg_pool2d(image[None], 3, 1, 1)[0]
        return image

    def _die_once(self, index: int) -> None:
        try:
            os.close(os.open(f"{self.folder}/{index}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def waits(loader: Any) -> Iterator[tuple[float, torch.Tensor]]:
    """The batches of an epoch, each with the seconds for which it was waited."""
    iterator = iter(loader)
    while True:
        begun = time.perf_counter()
        batch = next(iterator, None)
        if batch is None:
            return
        yield time.perf_counter() - begun, batch


def build(asked: argparse.Namespace) -> Any:
    """The loader of this rank."""
    rank, world = dist.get_rank(), dist.get_world_size()
    batches = range(asked.every, asked.batches, asked.every) if asked.every else ()
    deadly = frozenset(batch * asked.batch_size * world + rank for batch in batches if rank == world - 1)
    images = Images(asked.batches * asked.batch_size * world, deadly, asked.folder)
    if asked.loader == "torch":
        from torch.utils.data import DataLoader
    else:
        from safeloader import DataLoader
    sampler: Any = DistributedSampler(images, shuffle=False)
    context = "spawn"  # for both; a fork of a process that uses torch's threads may hang
    return DataLoader(
        images, asked.batch_size, sampler=sampler, num_workers=asked.workers, multiprocessing_context=context
    )


def main() -> None:
    """As torchrun starts it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loader", choices=["torch", "safeloader"])
    parser.add_argument("folder", type=Path)
    for name in ("every", "batches", "batch-size", "workers"):
        parser.add_argument(f"--{name}", type=int)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model = DistributedDataParallel(
        nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    waited: list[float] = []
    begun = 0.0
    for seconds, batch in waits(build(asked)):
        if not waited:  # the start is not what is measured
            dist.barrier()
            begun, seconds = time.perf_counter(), 0.0
        waited.append(seconds)
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        if asked.every and dist.get_rank() == 0:
            (asked.folder / "progress").write_text(str(len(waited)))
    took, every = time.perf_counter() - begun, torch.tensor(waited)
    dist.all_reduce(every, op=dist.ReduceOp.MAX)  # a step waits for the slowest rank's batch
    if dist.get_rank() == 0:
        images = (len(waited) - 1) * asked.batch_size * dist.get_world_size()
        told = {"batches": len(waited), "images": images / took, "exposed": float(every.sum())}
        print(json.dumps({**told, "longest": float(every.max()), "seconds": took}))
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # threads of gloo that are still there abort a normal exit now and then


if __name__ == "__main__":
    main()
