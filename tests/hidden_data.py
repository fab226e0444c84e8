"""Datasets that change in themselves where it hardly shows: in the middle of what is large, and in objects of C's.

Each has a ``sample`` that depends on all samples before. What it needs is there before the first batch: `set_up` is
a ``worker_init_fn`` that takes a sample of each.
"""

from __future__ import annotations

import array
import collections
import csv
import ctypes
import io
import itertools
import mmap
import queue
import random
import sqlite3
from typing import Any

import numba
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from tests.fixtures_data import Orders

__all__ = ["HIDDEN", "MIDDLE", "MOVING", "Hidden", "set_up"]

_LARGE = 40_000


class InList:
    def __init__(self) -> None:
        self.seen: Any = [0] * _LARGE

    def sample(self, index: int) -> int:
        at = _LARGE // 2 + index % 7
        self.seen[at] = self.seen[at] % 250 + 1
        return int(self.seen[at])


class InDict(InList):
    def __init__(self) -> None:
        self.seen = dict.fromkeys(range(_LARGE), 0)


class InArray(InList):
    def __init__(self) -> None:
        self.seen = np.zeros(_LARGE, np.int16)


class InStrided(InList):
    def __init__(self) -> None:
        self.seen = np.zeros((_LARGE, 4), np.int16)[:, 1]


class InTuples:
    def __init__(self) -> None:
        self.seen = [([0], "text") for _ in range(_LARGE // 10)]

    def sample(self, index: int) -> int:
        first = self.seen[_LARGE // 20][0]
        first[0] += 1
        return first[0]


class InObjects(InTuples):
    def __init__(self) -> None:
        self.seen = np.array([([0], "text"), *[None] * 500, ([0], "text")][::-1] * 5, dtype=object)  # type: ignore[assignment]

    def sample(self, index: int) -> int:
        first = self.seen[502 * 2 + 501][0]
        first[0] += 1
        return int(first[0])


class OfSample:
    """Objects of the user's, one a sample."""

    def __init__(self) -> None:
        self.seen = [collections.Counter[str]() for _ in range(_LARGE // 10)]

    def sample(self, index: int) -> int:
        self.seen[index]["times"] += 1
        self.seen[0]["times"] += 1
        return self.seen[index]["times"] + self.seen[0]["times"]


class InBytes(InList):
    def __init__(self) -> None:
        self.seen = bytearray(_LARGE)


class InArrayOfPythons(InList):
    def __init__(self) -> None:
        self.seen = array.array("q", bytes(8 * _LARGE))


class InText:
    def __init__(self) -> None:
        self.text = "a" * _LARGE

    def sample(self, index: int) -> int:
        count = self.text.count("b")
        self.text = self.text[: _LARGE // 2] + "b" * (count + 1) + self.text[_LARGE // 2 + count + 1 :]
        return count


MIDDLE = (InList, InDict, InArray, InStrided, InTuples, InObjects, OfSample, InBytes, InArrayOfPythons, InText)


class _Made:
    """It makes with its first sample what cannot be sent."""

    def __init__(self) -> None:
        self.made: Any = None

    def make(self) -> Any:
        raise NotImplementedError

    def use(self, made: Any, index: int) -> int:
        return int(next(made))

    def sample(self, index: int) -> int:
        if self.made is None:
            self.made = self.make()
        return self.use(self.made, index)


class Zip(_Made):
    def make(self) -> Any:
        return zip(range(10**6), itertools.count(5))

    def use(self, made: Any, index: int) -> int:
        return int(next(made)[0])


class Cycle(_Made):
    def make(self) -> Any:
        return itertools.cycle([1, 2, 3, 5, 7, 11, 13])


class OneLine(_Made):
    """A generator that stands in the same line of its code, always."""

    def make(self) -> Any:
        return (number * number for number in range(10**6))


class Csv(_Made):
    def make(self) -> Any:
        return csv.reader([str(number) for number in range(10**4)])

    def use(self, made: Any, index: int) -> int:
        return int(next(made)[0])


class Text(_Made):
    """Of a text file a block is read at once, the first line as well as the next thousand."""

    def make(self) -> Any:
        return io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"1\n12\n123\n" * 400)))  # type: ignore[arg-type]

    def use(self, made: Any, index: int) -> int:
        return len(made.readline())


class Cursor(_Made):
    def make(self) -> Any:
        database = sqlite3.connect(":memory:")
        database.execute("create table numbers (number int)")
        database.executemany("insert into numbers values (?)", [(n,) for n in range(1000)])
        return database.execute("select number from numbers")

    def use(self, made: Any, index: int) -> int:
        return int(made.fetchone()[0])


class Private(_Made):
    def make(self) -> Any:
        return mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def use(self, made: Any, index: int) -> int:
        made[1 << 15] = made[1 << 15] % 250 + 1
        return int(made[1 << 15])


class Structure(_Made):
    def make(self) -> Any:
        return (ctypes.c_long * _LARGE)()

    def use(self, made: Any, index: int) -> int:
        made[_LARGE // 2] += 1
        return int(made[_LARGE // 2])


class Frame(_Made):
    def make(self) -> Any:
        import pandas

        return pandas.DataFrame({"name": ["a", "b", "c"], "seen": [0, 0, 0]})

    def use(self, made: Any, index: int) -> int:
        made.loc[1, "seen"] += 1
        return int(made.loc[1, "seen"])


class OpenCv:
    def sample(self, index: int) -> int:
        import cv2

        drawn = np.zeros(1, np.int32)
        cv2.randu(drawn, 0, 1 << 30)
        return int(drawn[0])


@numba.njit  # type: ignore[untyped-decorator]
def _drawn() -> int:
    return np.random.randint(0, 1 << 30)


@numba.njit  # type: ignore[untyped-decorator]
def _seed(number: int) -> None:
    np.random.seed(number)


class Numba:
    def sample(self, index: int) -> int:
        return int(_drawn())


MOVING = (Zip, Cycle, OneLine, Csv, Text, Cursor, Private, Structure, Frame, OpenCv, Numba)


class Queue(_Made):
    def make(self) -> Any:
        made: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(7):
            made.put(number)
        return made

    def use(self, made: Any, index: int) -> int:
        first = made.get()
        made.put(first)
        return int(first)


class Database(_Made):
    def make(self) -> Any:
        database = sqlite3.connect(":memory:")
        database.execute("create table counts (seen int)")
        database.execute("insert into counts values (0)")
        return database

    def use(self, made: Any, index: int) -> int:
        made.execute("update counts set seen = seen + 1")
        return int(made.execute("select seen from counts").fetchone()[0])


HIDDEN = (Queue, Database)


class Hidden(Dataset[torch.Tensor]):
    """All of them at once, or some."""

    def __init__(self, kinds: Any = (*MIDDLE, *MOVING, *HIDDEN), orders: Orders | None = None) -> None:
        self.parts: list[Any] = [kind() for kind in kinds]
        self.orders = orders or Orders()

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> torch.Tensor:
        values = [part.sample(index) for part in self.parts]
        self.orders.obey("sample", index)
        return torch.tensor([index, *values, random.randrange(1 << 20)])


def set_up(worker: int) -> None:
    info = get_worker_info()
    assert info is not None
    _seed(worker + 5)
    for part in info.dataset.parts:  # type: ignore[attr-defined]
        part.sample(0)
