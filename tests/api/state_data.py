"""Samplers and datasets that can tell their state, in torchdata's words, and programs' usual shapes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from tests.fixtures_data import Orders


class CountingSampler(Sampler[int]):
    """Shuffles with a generator of its own that nobody else knows; its state is order and position."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.random = random.Random(5)
        self.order: list[int] = []
        self.at = 0
        self.done = self.loaded = False

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        if not self.loaded:
            self.order, self.at = self.random.sample(range(self.length), self.length), 0
        self.done = self.loaded = False
        while self.at < len(self.order):
            self.at += 1
            yield self.order[self.at - 1]
        self.done = True

    def state_dict(self) -> dict[str, Any]:
        return {"order": list(self.order), "at": self.at, "done": self.done, "random": repr(self.random.getstate())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        import ast

        self.order, self.at = list(state["order"]), state["at"]
        self.random.setstate(ast.literal_eval(state["random"]))
        self.loaded = bool(self.order) and not state["done"]


class StatefulIterator:
    """A batch sampler's iterator that can tell its state, though the sampler cannot."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches
        self.at = 0

    def __iter__(self) -> StatefulIterator:
        return self

    def __next__(self) -> list[int]:
        if self.at >= len(self.batches):
            raise StopIteration
        self.at += 1
        return self.batches[self.at - 1]

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches, "at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches, self.at = state["batches"], state["at"]


class UnrepeatableBatches(Sampler[list[int]]):
    """Another order each time, whatever the seeds; only its iterator knows."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> StatefulIterator:
        return StatefulIterator([[i, i + 1] for i in random.SystemRandom().sample(range(self.length), self.length)])


class InPlaceSampler(Sampler[int]):
    """Shuffles what it shuffled before: nobody can replay that."""

    def __init__(self, length: int) -> None:
        self.order = list(range(length))

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        random.shuffle(self.order)
        return iter(list(self.order))


class Growing(Dataset[torch.Tensor]):
    """Samples depend on all that this copy has loaded before."""

    def __init__(self, length: int, orders: Orders | None = None, padding: int = 0) -> None:
        self.length = length
        self.sum = 0
        self.padding = bytes(padding)
        self.orders = orders or Orders()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        self.orders.obey("sample", index)
        self.sum = (self.sum * 31 + index + int(torch.randint(100, ()))) % 1_000_003
        return torch.tensor([index, self.sum])

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self.sum, "padding": self.padding} if self.padding else {"sum": self.sum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sum = state["sum"]


class StatefulStream(IterableDataset[torch.Tensor]):
    """Goes on where its state says; counts what it has really read."""

    def __init__(self, length: int, orders: Orders | None = None) -> None:
        self.length = length
        self.at = 0
        self.loaded = False
        self.orders = orders or Orders()

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        self.at = self.at if self.loaded else 0
        self.loaded = False
        mine = range(worker, self.length, workers)
        while self.at < len(mine):
            index = mine[self.at]
            self.at += 1
            self.orders.obey("stream", f"{worker}-{self.at}")
            yield torch.tensor([index, int(torch.randint(1 << 20, ())), random.randrange(1 << 20)])
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]
        self.loaded = True


class Walk:
    """An iterator that can tell its state; its dataset cannot."""

    def __init__(self, numbers: range) -> None:
        self.numbers = numbers
        self.at = 0

    def __iter__(self) -> Walk:
        return self

    def __next__(self) -> int:
        if self.at >= len(self.numbers):
            raise StopIteration
        self.at += 1
        return self.numbers[self.at - 1]

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


class Walking(IterableDataset[int]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Walk:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        return Walk(range(worker, self.length, workers))


class FailsToTell(Growing):
    def state_dict(self) -> dict[str, Any]:
        raise RuntimeError("the buffer is locked")


class ToldEpoch(Dataset[torch.Tensor]):
    """Samples tell the epoch that this copy was told."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, self.epoch])
