"""Datasets with state of every kind, and orders to hang or exit that whoever comes first carries out."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = 96
"""Samples of an epoch."""


class Orders:
    """A folder in which the controller leaves ``hang`` and ``exit``; a process that renames one obeys it.

    Args:
        folder: The folder; "" where nothing is ever ordered, as in torch's reference.
    """

    def __init__(self, folder: str = "") -> None:
        self.folder = folder

    def obey(self) -> None:
        """Hang, or leave, if that is ordered. The trainer itself never obeys."""
        if not self.folder or get_worker_info() is None or os.environ.get("SOAK_TRAINER") == str(os.getpid()):
            return
        for deed in ("hang", "exit"):
            path = f"{self.folder}/{deed}"
            try:
                os.rename(path, f"{path}.{os.getpid()}")
            except OSError:
                continue
            if deed == "exit":
                os._exit(3)
            time.sleep(100_000)


class Draws(Dataset["torch.Tensor"]):
    """Each sample draws from all three global generators, unevenly; batches of some kilobytes."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> torch.Tensor:
        self.orders.obey()
        time.sleep(0.002)
        draws = torch.randn(64) if index % 3 else torch.rand(64)
        draws[0] = index
        draws[1] += random.random()
        draws[2] += float(np.random.standard_normal())
        return draws


class Held(Draws):
    """Each sample draws from generators that the dataset holds."""

    def __init__(self, orders: Orders) -> None:
        super().__init__(orders)
        self.generators: dict[str, Any] = {
            "numpy": np.random.default_rng(5),
            "legacy": np.random.RandomState(6),
            "python": random.Random(7),
            "torch": torch.Generator().manual_seed(8),
        }

    def __getitem__(self, index: int) -> torch.Tensor:
        held = self.generators
        sample = super().__getitem__(index)
        sample[3] += float(held["numpy"].standard_normal()) + float(held["legacy"].standard_normal())
        sample[4] += held["python"].gauss(0, 1) + float(torch.rand((), generator=held["torch"]))
        return sample


class Stream(IterableDataset["torch.Tensor"]):
    """A stream through a shuffle buffer; what it holds lies in its iterator's frame, where nobody can ask for it."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info is not None else (0, 1)
        own, buffer = self.order(first), list[torch.Tensor]()
        for seen, index in enumerate(range(first, COUNT, step)):
            self.orders.obey()
            time.sleep(0.002)
            sample = torch.randn(64)
            sample[0], sample[1] = index, seen
            buffer.append(sample)
            if len(buffer) > 8:
                yield buffer.pop(own.randrange(len(buffer)))
        while buffer:
            yield buffer.pop(own.randrange(len(buffer)))

    def order(self, worker: int) -> random.Random:
        """What the buffer is shuffled by."""
        return random.Random(worker)


class UnseededStream(Stream):
    """Shuffled differently each time: to read it again gives other batches, so only a copy of the process can go on."""

    def order(self, worker: int) -> random.Random:
        """Seeded by the system."""
        return random.Random()
