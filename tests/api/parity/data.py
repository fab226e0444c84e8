"""Datasets, samplers and functions from which configurations are put together; importable by every worker."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, default_collate, get_worker_info

__all__ = ["Items", "ItemsAtOnce", "Shards", "collate_identity", "collate_with_draws", "init_seeding", "init_sharding"]

Draws = tuple[str, ...]


class OddError(Exception):
    """An error that cannot be made from its message alone."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def draw(kinds: Draws) -> list[float]:
    """Numbers of the global generators, among them normals, of which Python and numpy keep halves."""
    drawn: list[float] = []
    if "torch" in kinds:
        drawn += torch.rand(2).tolist()
    if "numpy" in kinds:
        drawn += [float(np.random.rand()), float(np.random.standard_normal())]
    if "python" in kinds:
        drawn += [random.random(), random.gauss(0.0, 1.0)]
    return drawn


def _sample(index: int, draws: Draws, shows_worker: bool, dataset: object) -> dict[str, Any]:
    sample: dict[str, Any] = {
        "index": index,
        "x": (torch.arange(6, dtype=torch.float32).reshape(2, 3) / (index + 1)).T,
        "array": np.full((2, 2), index, dtype=np.int16),
        "text": f"sample {index}",
        "pair": (index % 2 == 0, float(index)),
    }
    if draws:
        sample["draws"] = torch.tensor(draw(draws), dtype=torch.float64)
    if shows_worker:
        info = get_worker_info()
        facts = (-1, 0, 0, False) if info is None else (info.id, info.num_workers, info.seed, info.dataset is dataset)
        threads = -1 if info is None else torch.get_num_threads()
        sample["worker"] = [*facts, threads, getattr(dataset, "mark", -1)]
    return sample


class Items(Dataset[Any]):
    """A map-style dataset. Keys may be numbers or their names.

    Args:
        length: how many samples.
        draws: generators from which each sample draws.
        shows_worker: put what the worker believes about itself into each sample.
        bad: which sample raises an error.
    """

    def __init__(self, length: int, draws: Draws = (), shows_worker: bool = False, bad: int | None = None) -> None:
        self.length = length
        self.draws = draws
        self.shows_worker = shows_worker
        self.bad = bad

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if int(index) == self.bad:
            raise ValueError(f"sample {index} is bad")
        return _sample(int(index), self.draws, self.shows_worker, self)


class ItemsAtOnce(Items):
    """Fetched a batch at a time."""

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        extra = draw(self.draws)
        return [{**self[index], "extra": torch.tensor(extra)} for index in indices]


class Facts(Dataset[Any]):
    """What a worker finds when it loads its first sample; as many samples as workers."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return worker_facts()


def worker_facts() -> Any:
    """All that ``get_worker_info()`` says (but for the dataset), and the first draws of each generator."""
    info = get_worker_info()
    names = [name for name in dir(info) if name[0] != "_" and name != "dataset"]
    said = {name: getattr(info, name) for name in names}
    return said, torch.initial_seed(), draw(("torch", "numpy", "python")), torch.get_rng_state().tolist()[:50]


class Modules(Dataset[Any]):
    """The names of the modules that a worker has imported."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return sorted(sys.modules)


class PipeItem:
    """What a data pipe makes of an index."""

    def __init__(self, draws: Draws, shows_worker: bool, bad: int | None) -> None:
        self.draws = draws
        self.shows_worker = shows_worker
        self.bad = bad

    def __repr__(self) -> str:  # the pipes' errors show it
        return "PipeItem"

    def __call__(self, index: int) -> Any:
        if index == self.bad:
            raise ValueError(f"sample {index} is bad")
        return _sample(index, self.draws, self.shows_worker, self)


class Shards(IterableDataset[Any]):
    """An iterable dataset of uneven shards, one of which may be empty.

    Args:
        lengths: of the shards; worker ``w`` of ``n`` reads those whose number is ``w`` modulo ``n``.
        draws: generators from which each sample draws.
        shows_worker: put what the worker believes about itself into each sample.
        bad: at which sample the iterator raises an error, and so ends.
    """

    def __init__(
        self, lengths: Sequence[int], draws: Draws = (), shows_worker: bool = False, bad: int | None = None
    ) -> None:
        self.lengths = tuple(lengths)
        self.draws = draws
        self.shows_worker = shows_worker
        self.bad = bad
        self.mine: tuple[int, int] | None = None

    def __repr__(self) -> str:  # torch's warning about the length shows it
        return f"Shards{self.lengths}"

    def __len__(self) -> int:
        return sum(self.lengths) // 2  # a bad guess: torch warns

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = self.mine or ((0, 1) if info is None else (info.id, info.num_workers))
        for shard in range(worker, len(self.lengths), workers):
            start = sum(self.lengths[:shard])
            for index in range(start, start + self.lengths[shard]):
                if index == self.bad:
                    raise ValueError(f"sample {index} is bad")
                yield _sample(index, self.draws, self.shows_worker, self)


# ---------------------------------------------------------------- samplers


class LazySampler(Sampler[int]):
    """Draws from the main process's global generators at every step, so that the time of each step can be seen."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        for _ in range(self.length):
            yield (int(torch.randint(self.length, ())) + random.randrange(9) + np.random.randint(9)) % self.length


class EndlessSampler(Sampler[int]):
    """Permutation after permutation, without end."""

    def __init__(self, length: int, generator: torch.Generator | None) -> None:
        self.length = length
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self.length, generator=self.generator).tolist()


class SamplerWithIterator(Sampler[int]):
    """Its iterator is an object, not a generator: making one draws at once, and each step draws."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return _Steps(self.length, self.length - random.randrange(3))


class _Steps:
    def __init__(self, length: int, left: int) -> None:
        self.length = length
        self.left = left

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if self.left <= 0:
            raise StopIteration
        self.left -= 1
        return int(np.random.randint(self.length))


class NameSampler(Sampler[str]):
    """Gives names in place of numbers."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[str]:
        return map(str, torch.randperm(self.length).tolist())


class UnevenBatches(Sampler[Any]):
    """Batches of one to four indices, drawn at every step; a list, a tuple, an array or a tensor of them."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length // 3

    def __iter__(self) -> Iterator[Any]:
        for number in range(len(self)):
            indices = torch.randint(self.length, (random.randint(1, 4),))
            yield (indices.tolist(), tuple(indices.tolist()), indices.numpy(), indices)[number % 4]


# ---------------------------------------------------------------- functions


def collate_with_draws(samples: list[Any]) -> Any:
    """Draws for every batch, and reorders it by the draw."""
    random.shuffle(samples)
    return default_collate(samples), torch.randint(100, (2,)), np.random.permutation(3), ("end", None)


def collate_identity(samples: list[Any]) -> Any:
    return samples


def init_seeding(worker: int) -> None:
    """Seeds the generators anew, and marks the dataset copy, as users do."""
    info = get_worker_info()
    assert info is not None
    assert info.id == worker
    random.seed(info.seed % 1000 + worker)
    np.random.seed(info.seed % 2**32)
    torch.manual_seed(info.seed + 5)
    dataset: Any = info.dataset
    dataset.mark = worker + random.randrange(100)


def init_sharding(worker: int) -> None:
    """Sets this worker's shard in its copy of the dataset: the other way round."""
    info = get_worker_info()
    assert info is not None
    dataset: Any = info.dataset
    dataset.mine = info.num_workers - 1 - info.id, info.num_workers
