"""Datasets and samplers whose lines an exception breaks off, one after the other."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
import torch.utils.data
from torch.utils.data import Dataset, IterableDataset, Sampler


class DrawsOfAllKinds(Dataset[torch.Tensor]):
    """Draws from the three global generators and from four that it holds, line by line."""

    def __init__(self) -> None:
        self.numpy, self.legacy = np.random.default_rng(5), np.random.RandomState(6)
        self.python, self.torch = random.Random(7), torch.Generator().manual_seed(8)

    def __len__(self) -> int:
        return 300

    def __getitem__(self, index: int) -> torch.Tensor:
        total = torch.rand(()) + random.random()
        total += float(np.random.standard_normal())
        total += float(self.numpy.standard_normal())
        total += float(self.legacy.standard_normal())
        total += self.python.gauss(0, 1)
        total += torch.rand((), generator=self.torch)
        return total + index


class Counts(Dataset[torch.Tensor]):
    """A sample depends on how many came before."""

    seen = 0

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> torch.Tensor:
        self.seen += 1
        sample = torch.rand(2) + index
        return sample + self.seen


class Stream(IterableDataset[torch.Tensor]):
    """Drawn line by line."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = torch.utils.data.get_worker_info()
        assert info is not None
        for number in range(info.id, 60, info.num_workers):
            sample = torch.rand(2) + number
            yield sample


class FromThePrograms(Sampler[int]):
    """Draws from Python's generator, one number for each index, and one in the end."""

    def __iter__(self) -> Iterator[int]:
        for _ in range(16):
            first = random.randrange(100)
            yield first
        random.random()


class FromItsOwn(Sampler[int]):
    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)

    def __iter__(self) -> Iterator[int]:
        for _ in range(16):
            first = int(self.rng.integers(100))
            yield first
        self.rng.random()
