"""Datasets with faults that an audit must find, and loaders over them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info


class Right(Dataset[Any]):
    """Augments with the global generators, as it should."""

    def __init__(self, length: int = 24) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return index, torch.rand(3), random.random(), np.random.rand()


class OwnGenerator(Right):
    """Keeps a generator, which each worker gets a copy of."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.transforms = [{"generator": generator}]

    def __getitem__(self, index: int) -> Any:
        generator = self.transforms[0]["generator"]
        return index, torch.rand(3, generator=generator) if isinstance(
            generator, torch.Generator
        ) else generator.random()


class SeedsItself(Right):
    """Starts its random numbers over for every sample."""

    def __getitem__(self, index: int) -> Any:
        torch.manual_seed(0)
        return super().__getitem__(index)


class IgnoresIndex(Right):
    def __getitem__(self, index: int) -> Any:
        return torch.arange(100.0)[3:6], {"label": torch.zeros(()), "name": "cat"}


class IgnoresAugmentation(Right):
    def __getitem__(self, index: int) -> Any:
        torch.rand(3)
        return index


class AtOnce(Right):
    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class Stream(IterableDataset[Any]):
    def __init__(self, sharded: bool) -> None:
        self.sharded = sharded
        self.start, self.end = 0, 12

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        if self.sharded and info is not None:
            return iter(range(self.start + info.id, self.end, info.num_workers))
        return iter(range(self.start, self.end))


def fixed_seeds(worker: int) -> None:
    np.random.seed(worker)
    torch.manual_seed(1234)


def shard(worker: int) -> None:
    """torch's documented way to shard from outside."""
    info = get_worker_info()
    assert info is not None
    info.dataset.start, info.dataset.end = 6 * worker, 6 * (worker + 1)


def made() -> Any:
    order = torch.Generator().manual_seed(0)
    return DataLoader(OwnGenerator(np.random.default_rng(0)), 4, shuffle=True, num_workers=2, generator=order)


plain = DataLoader(Right(), 4, shuffle=True)
nothing = 7
