"""Datasets that hold random generators of their own, in every place where one can be held."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info

from tests.fixtures_data import Orders
from tests.runtime import own_settings

BITS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
KINDS: dict[str, Callable[[], Any]] = {
    **{bits: (lambda bits=bits: np.random.Generator(getattr(np.random, bits)(7))) for bits in BITS},
    "bit generator": lambda: np.random.PCG64(7),
    "RandomState": lambda: np.random.RandomState(7),
    "Random": lambda: random.Random(7),
    "torch": lambda: torch.Generator().manual_seed(7),
}


def draw(generator: Any) -> int:
    """One number, in the way of its kind; now and then by half a pair of normals."""
    if isinstance(generator, random.Random):
        return int(generator.gauss(0, 1) * 1e6)
    if isinstance(generator, torch.Generator):
        return int(torch.randint(1 << 20, (), generator=generator))
    if isinstance(generator, np.random.RandomState):
        return int(generator.standard_normal() * 1e6)
    if isinstance(generator, np.random.Generator):
        return int(generator.integers(1 << 20, dtype=np.int32)) + int(generator.standard_normal() * 1e6)
    return int(generator.random_raw() % (1 << 20))


class Jitter:
    """A transform with a generator."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def __call__(self, index: int) -> int:
        return draw(self.generator)


class Compose:
    """A list of transforms."""

    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self, index: int) -> int:
        return sum(transform(index) for transform in self.transforms)


class Slotted:
    __slots__ = ("generator",)

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def __call__(self, index: int) -> int:
        return draw(self.generator)


def drawn_by(generator: Any, index: int) -> int:
    return draw(generator)


MODULES = np.random.default_rng(17)


def of_the_module(index: int) -> int:
    return draw(MODULES)


def of_another_module(index: int) -> int:
    return draw(own_settings.rng)


class OfTheClass:
    generator = random.Random(19)

    def __call__(self, index: int) -> int:
        return draw(self.generator)


def _shared() -> Any:
    one = np.random.default_rng(3)
    return Compose([Jitter(one), Slotted(one)])


def _shared_bits() -> Any:
    bits = np.random.PCG64(3)
    return Compose([Jitter(np.random.Generator(bits)), Jitter(np.random.Generator(bits))])


class _Lazily:
    """Makes its generator, and something that belongs to it, with the first sample."""

    def __init__(self) -> None:
        self.generator: Any = None
        self.scale: int | None = None

    def __call__(self, index: int) -> int:
        if self.generator is None:
            info = get_worker_info()
            self.generator, self.scale = np.random.default_rng(info.seed if info else 0), 3
        assert self.scale is not None
        return draw(self.generator) * self.scale


class _Unset(_Lazily):
    def __init__(self) -> None:
        pass

    def __call__(self, index: int) -> int:
        if not hasattr(self, "generator"):
            self.generator, self.scale = random.Random(index), 2
        return draw(self.generator) * (self.scale or 0)


class _ByClass:
    """One for each class of samples, made when it is first seen."""

    def __init__(self) -> None:
        self.generators: dict[int, Any] = {}

    def __call__(self, index: int) -> int:
        kind = index % 5
        if kind not in self.generators:
            self.generators[kind] = torch.Generator().manual_seed(kind)
        return draw(self.generators[kind])


class _Renewed:
    """Another generator now and then."""

    def __init__(self) -> None:
        self.generator = random.Random(1)
        self.count = 0

    def __call__(self, index: int) -> int:
        if self.generator.random() < 0.1:
            self.generator = random.Random(int(self.generator.random() * 1e9))
        return draw(self.generator)


PLACES: dict[str, Callable[[], Any]] = {
    "a list": lambda: Compose([[Jitter(random.Random(5))][0], Jitter(np.random.default_rng(6))]),
    "slots": lambda: Slotted(np.random.default_rng(8)),
    "a partial": lambda: functools.partial(drawn_by, np.random.default_rng(9)),
    "a bound method": lambda: Jitter(np.random.RandomState(9)).__call__,
    "two places": _shared,
    "two places, with one bit generator": _shared_bits,
    "the module": lambda: of_the_module,
    "another module": lambda: of_another_module,
    "the class": OfTheClass,
    "the first sample": _Lazily,
    "the first sample, without an attribute before": _Unset,
    "the first sample of each class": _ByClass,
    "another one now and then": _Renewed,
}


class Own(Dataset[torch.Tensor]):
    """Samples drawn by a transform."""

    def __init__(self, transform: Any, count: int = 48, orders: Orders | None = None) -> None:
        self.transform = transform
        self.count = count
        self.orders = orders or Orders()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        self.orders.obey("sample", index)
        return torch.tensor([index, self.transform(index), random.randrange(100)])


class OwnStream(IterableDataset[torch.Tensor]):
    """The same as a stream that is shuffled through a buffer by the transform's generator."""

    def __init__(self, transform: Any, count: int = 48, orders: Orders | None = None) -> None:
        self.transform = transform
        self.count = count
        self.orders = orders or Orders()

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        for number, index in enumerate(range(worker, self.count, workers)):
            self.orders.obey("stream", f"{worker}-{number}")
            yield torch.tensor([index, self.transform(index)])


class CollateDraws:
    """A collate function with a generator."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(31)

    def __call__(self, samples: list[Any]) -> Any:
        return default_collate(samples), draw(self.generator)


def give_generator(worker: int) -> None:
    """A ``worker_init_fn`` as numpy's documentation recommends it."""
    info = get_worker_info()
    assert info is not None
    vars(info.dataset)["transform"] = Jitter(np.random.default_rng(info.seed))


def give_unseeded(worker: int) -> None:
    """The same without a seed: what matters is that no number comes twice."""
    info = get_worker_info()
    assert info is not None
    vars(info.dataset)["transform"] = Jitter(np.random.default_rng())


class Unsteady(IterableDataset[int]):
    """Shuffles by a generator that nobody can reach, seeded by nothing."""

    def __init__(self, count: int = 64, orders: Orders | None = None, shrinking: bool = False) -> None:
        self.count = count
        self.orders = orders or Orders()
        self.shrinking = shrinking

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        mine = list(range(worker, self.count, workers))
        if self.shrinking:
            again = self.orders.carried_out("stream", f"{worker}-13")
            mine = mine[:6] if again else mine
        else:
            random.SystemRandom().shuffle(mine)
        for number, index in enumerate(mine):
            self.orders.obey("stream", f"{worker}-{number}")
            yield index


class HalfTold(OwnStream):
    """Tells its place, and not where its shuffling stands: a state that is not exact."""

    at = 0
    resumed = False
    refuses = False

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        shuffle, mine = random.Random(worker), list(range(worker, self.count, workers))
        held: list[int] = []
        self.at = self.at if self.resumed else 0
        self.resumed = False
        while self.at < len(mine) or held:
            if self.at < len(mine):
                held.append(mine[self.at])
                self.at += 1
                if len(held) < 6 and self.at < len(mine):
                    continue
            index = held.pop(shuffle.randrange(len(held)))
            self.orders.obey("stream", f"{worker}-{index}")
            yield torch.tensor([index, worker])

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.refuses:
            raise IndexError("list index out of range")
        self.at, self.resumed = state["at"], True


class Refusing(HalfTold):
    refuses = True


class RefusingLate(HalfTold):
    """Takes its state when the first sample is asked for, and fails then."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        if self.resumed:
            raise IndexError("list index out of range")
        yield from super().__iter__()
