"""The datasets that are loaded: rows of an array made beforehand, so that only the loader is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from torch import Tensor


class Rows(Dataset["Tensor"]):
    """A map-style dataset of ``length`` samples, all views into a tensor with a few distinct rows.

    The tensor is made on first use, in the process that uses it: what crosses to a worker is only its
    description.
    """

    def __init__(self, length: int, shape: tuple[int, ...], dtype: str, distinct: int = 128) -> None:
        self.length = length
        self.shape = shape
        self.dtype = dtype
        self.distinct = distinct
        self._rows: Tensor | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        if self._rows is None:
            generator = np.random.default_rng(0)
            values = generator.integers(0, 256, size=(self.distinct, *self.shape), dtype=np.uint8)
            self._rows = torch.from_numpy(values).to(getattr(torch, self.dtype))
        return self._rows[index % self.distinct]


class BigArray(Dataset["Tensor"]):
    """A dataset that holds one large NumPy array, as datasets of paths, tokens or features do."""

    def __init__(self, length: int, megabytes: int) -> None:
        self.length = length
        self.array = np.random.default_rng(0).random((megabytes * 1000, 125))  # a row is 1,000 bytes

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        # Neighbouring samples lie far apart, so that every process soon touches its whole copy.
        step = len(self.array) // self.length
        return torch.from_numpy(self.array[index * step : (index + 1) * step].sum(axis=0))


class BigList(Dataset["Tensor"]):
    """A dataset that holds a long list of strings: the paths of its samples, say."""

    def __init__(self, length: int, count: int) -> None:
        self.length = length
        self.items = [f"folder/{number % 1000:04d}/{number:08d}.jpg" for number in range(count)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        step = len(self.items) // self.length
        return torch.tensor(sum(map(len, self.items[index * step : (index + 1) * step])))


@dataclass(frozen=True)
class Workload:
    """One row of the throughput table.

    Attributes:
        name: What the command line and the tables call it.
        title: The row's title.
        batch_size: Samples in a batch.
        shape: Shape of one sample.
        dtype: Name of the torch dtype.
        batches: Batches in a measured epoch.
        least: The ratio to torch that the project asks for, or None.
        num_workers: Worker processes.
    """

    name: str
    title: str
    batch_size: int
    shape: tuple[int, ...]
    dtype: str
    batches: int
    least: float | None = None
    num_workers: int = 2

    def dataset(self) -> Rows:
        """The dataset of one epoch."""
        return Rows(self.batches * self.batch_size, self.shape, self.dtype)


_IMAGE = (3, 224, 224)

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("small", "2,000 batches of 32 × 8 float32", 32, (8,), "float32", 2000, 4.0),
        Workload("images-64", "batches of 64 × 3×224×224 uint8", 64, _IMAGE, "uint8", 400, 6.0),
        Workload("images-256", "batches of 256 × 3×224×224 uint8", 256, _IMAGE, "uint8", 120, 6.0),
        Workload("floats-64", "batches of 64 × 3×224×224 float32", 64, _IMAGE, "float32", 120, 6.0),
    )
}

INLINE = {
    workload.name: workload
    for workload in (
        Workload("inline-small", "num_workers=0, batches of 32 × 8 float32", 32, (8,), "float32", 2000, 1.0, 0),
        Workload("inline-images", "num_workers=0, batches of 64 × 3×224×224 uint8", 64, _IMAGE, "uint8", 60, 1.0, 0),
    )
}
