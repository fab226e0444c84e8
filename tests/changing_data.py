"""Datasets that change in themselves while they load: what a worker's three generators do not tell of.

Each has a ``sample``: something that depends on all that was loaded before, and on nothing else but its seed.
"""

from __future__ import annotations

import decimal
import functools
import gzip
import importlib.util
import io
import os
import random
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from tests.fixtures_data import Orders

__all__ = ["AROUND", "MAPS", "OUTSIDE", "STREAMS", "Everything", "Map", "Outside", "Streamed", "write_files"]


class Numpy:
    """An own ``numpy.random.Generator``."""

    def __init__(self, folder: Path) -> None:
        self.generator = np.random.default_rng(5)

    def sample(self, index: int) -> int:
        return int(self.generator.integers(1 << 30))


class OldNumpy:
    """An own ``numpy.random.RandomState``."""

    def __init__(self, folder: Path) -> None:
        self.generator = np.random.RandomState(6)

    def sample(self, index: int) -> int:
        return int(self.generator.randint(1 << 30))


class Python:
    """An own ``random.Random``."""

    def __init__(self, folder: Path) -> None:
        self.generator = random.Random(7)

    def sample(self, index: int) -> int:
        return self.generator.randrange(1 << 30)


class Torch:
    """An own ``torch.Generator``, made with the first sample."""

    def __init__(self, folder: Path) -> None:
        self.generator: torch.Generator | None = None

    def sample(self, index: int) -> int:
        if self.generator is None:
            self.generator = torch.Generator()
            self.generator.manual_seed(8)
        return int(torch.randint(1 << 30, (), generator=self.generator))


class Counter:
    """How many samples there were."""

    def __init__(self, folder: Path) -> None:
        self.count = 0

    def sample(self, index: int) -> int:
        self.count += 1
        return self.count


class Cache:
    """A cache that changes results: the first sample of ten is what all ten become."""

    def __init__(self, folder: Path) -> None:
        self.known: dict[int, int] = {}

    def sample(self, index: int) -> int:
        return self.known.setdefault(index // 10, index)


class File:
    """A file that is read on and on, through Python's buffer."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "numbers")
        self.file: IO[bytes] | None = None

    def sample(self, index: int) -> int:
        if self.file is None:
            self.file = open(self.path, "rb")  # noqa: SIM115
        return int.from_bytes(self.file.read(8), "little")


class Unbuffered(File):
    """The same by its descriptor alone: the position is the kernel's."""

    def sample(self, index: int) -> int:
        if self.file is None:
            self.file = open(self.path, "rb", buffering=0)  # noqa: SIM115
        return int.from_bytes(self.file.read(8), "little")


class Tar:
    """A tar archive read as a stream."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "archive.tar")
        self.archive: tarfile.TarFile | None = None

    def sample(self, index: int) -> int:
        if self.archive is None:
            self.archive = tarfile.open(self.path, "r|")  # noqa: SIM115
        member = self.archive.next()
        assert member is not None
        file = self.archive.extractfile(member)
        assert file is not None
        return int(file.read())


class Gzip:
    """A text in a gzip file, line by line."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "lines.gz")
        self.lines: Iterator[str] | None = None

    def sample(self, index: int) -> int:
        if self.lines is None:
            self.lines = iter(gzip.open(self.path, "rt"))  # noqa: SIM115
        return int(next(self.lines))


MAPS = {kind.__name__: kind for kind in (Numpy, OldNumpy, Python, Torch, Counter, Cache, File, Unbuffered, Tar, Gzip)}


_count = 0
_known: dict[int, int] = {}


class Global:
    """A counter of the module."""

    def __init__(self, folder: Path) -> None:
        pass

    def sample(self, index: int) -> int:
        global _count  # noqa: PLW0603 - it is what is tested
        _count += 1
        return _count


def _first_of_ten(index: int) -> int:
    return _known.setdefault(index // 10, index)


class Helper:
    """A cache of the module, in the hands of a function that the dataset calls."""

    def __init__(self, folder: Path) -> None:
        pass

    def sample(self, index: int) -> int:
        return _first_of_ten(index)


class OfClass:
    """A counter of the class."""

    seen = 0

    def __init__(self, folder: Path) -> None:
        pass

    def sample(self, index: int) -> int:
        type(self).seen += 1
        return self.seen


class OfBase(OfClass):
    """A counter of a class that is inherited from."""

    def sample(self, index: int) -> int:
        OfClass.seen += 1
        return OfClass.seen


class Default:
    """A list that is an argument's default value."""

    def __init__(self, folder: Path) -> None:
        pass

    def sample(self, index: int, before: list[int] = []) -> int:  # noqa: B006
        before.append(index)
        return sum(before)


class OfFunction:
    """An attribute of a function of the module."""

    def __init__(self, folder: Path) -> None:
        pass

    def sample(self, index: int) -> int:
        return _counting(index)


def _counting(index: int) -> int:
    calls: int = getattr(_counting, "calls", 0) + 1
    _counting.calls = calls  # type: ignore[attr-defined]
    return calls


class Memoised:
    """Draws that a function of the module remembers."""

    def __init__(self, folder: Path) -> None:
        pass

    def sample(self, index: int) -> int:
        return _drawn(index // 10)


@functools.lru_cache(4)
def _drawn(of: int) -> int:
    return random.randrange(1 << 30)


class ByName:
    """A counter of the module that no code calls by its name."""

    def __init__(self, folder: Path) -> None:
        pass

    def sample(self, index: int) -> int:
        seen: int = globals().get("unnamed", 0) + index
        globals()["unnamed"] = seen
        return seen


class OfPackage:
    """A counter on a module that is not the user's."""

    def __init__(self, folder: Path) -> None:
        pass

    def sample(self, index: int) -> int:
        sys.samples = getattr(sys, "samples", 0) + 1  # type: ignore[attr-defined]
        return int(sys.samples)  # type: ignore[attr-defined]


OUTSIDE = {
    kind.__name__: kind for kind in (Global, Helper, OfClass, OfBase, Default, OfFunction, Memoised, ByName, OfPackage)
}
"""What is kept outside of the dataset: once for a process."""


class Environment:
    """A counter in the environment."""

    def __init__(self, folder: Path) -> None:
        pass

    def sample(self, index: int) -> int:
        os.environ["SAMPLES"] = str(int(os.environ.get("SAMPLES", "0")) + 1)
        return int(os.environ["SAMPLES"])


class Digits:
    """The precision of decimal numbers, which grows."""

    def __init__(self, folder: Path) -> None:
        pass

    def sample(self, index: int) -> int:
        decimal.getcontext().prec += 1
        return decimal.getcontext().prec


class Folder:
    """The folder, which is entered deeper and deeper."""

    def __init__(self, folder: Path) -> None:
        self.depth = len(folder.parts)
        self.folder = folder

    def sample(self, index: int) -> int:
        if self.folder not in Path.cwd().parents:
            os.chdir(self.folder)
        Path("deeper").mkdir(exist_ok=True)
        os.chdir("deeper")
        return len(Path.cwd().parts) - self.depth


class OpenCV:
    """OpenCV's threads, one more for each sample; it is imported with the first."""

    def __init__(self, folder: Path) -> None:
        pass

    def sample(self, index: int) -> int:
        import cv2

        now = cv2.getNumThreads()
        cv2.setNumThreads(now + 1)
        return now - cv2.getNumberOfCPUs()


AROUND = {
    kind.__name__: kind
    for kind in (Environment, Digits, Folder, *([OpenCV] if importlib.util.find_spec("cv2") is not None else []))
}
"""What the process has."""


def write_files(folder: Path) -> None:
    """What the kinds read: 400 numbers."""
    numbers = [i * i + 11 for i in range(400)]
    (folder / "numbers").write_bytes(b"".join(n.to_bytes(8, "little") for n in numbers))
    with gzip.open(folder / "lines.gz", "wt") as file:
        file.writelines(f"{n}\n" for n in numbers)
    with tarfile.open(folder / "archive.tar", "w") as archive:
        for n in numbers:
            data = str(n).encode()
            member = tarfile.TarInfo(str(n))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


class Map(Dataset[torch.Tensor]):
    """A map-style dataset of one kind."""

    def __init__(self, kind: str, folder: Path, count: int = 60, orders: Orders | None = None) -> None:
        self.part: Any = (MAPS | OUTSIDE | AROUND)[kind](folder)
        self.count = count
        self.orders = orders or Orders()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        self.orders.obey("sample", index)
        return torch.tensor([index, self.part.sample(index), random.randrange(1 << 20)])


class Everything(Map):
    """All kinds at once."""

    def __init__(self, folder: Path, count: int = 60, orders: Orders | None = None) -> None:
        super().__init__("Counter", folder, count, orders)
        self.parts = [kind(folder) for kind in MAPS.values()]

    def __getitem__(self, index: int) -> torch.Tensor:
        values = [part.sample(index) for part in self.parts]
        self.orders.obey("sample", index)
        return torch.tensor([index, *values, random.randrange(1 << 20)])


_worker = -1
_table: list[int] = []


def set_up(worker: int) -> None:
    """A ``worker_init_fn`` that keeps in globals what its worker is."""
    global _worker  # noqa: PLW0603
    _worker = worker * 1000
    _table.append(worker)


class Outside(Map):
    """All kinds of state that lie outside of the dataset at once; with `set_up`."""

    def __init__(self, folder: Path, count: int = 60, orders: Orders | None = None) -> None:
        super().__init__("Counter", folder, count, orders)
        self.parts = [kind(folder) for kind in OUTSIDE.values()]

    def __getitem__(self, index: int) -> torch.Tensor:
        values = [part.sample(index) for part in self.parts]
        self.orders.obey("sample", index)
        return torch.tensor([index, _worker, sum(_table), len(_table), *values])


class Streamed(IterableDataset[torch.Tensor]):
    """All kinds at once in an iterable dataset, with a shuffle buffer whose generator may have no seed.

    Args:
        seeded: whether it has one.
    """

    def __init__(
        self, folder: Path, count: int = 60, orders: Orders | None = None, seeded: bool = True, buffer: int = 8
    ) -> None:
        self.parts = [kind(folder) for kind in MAPS.values()]
        self.count = count
        self.seeded = seeded
        self.buffer = buffer
        self.orders = orders or Orders()

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        choose = random.Random(worker if self.seeded else None)
        held: list[int] = []
        for number, index in enumerate(range(worker, self.count, workers)):
            self.orders.obey("stream", f"{worker}-{number}")
            held.append(index)
            if len(held) >= self.buffer:
                yield self._made(held.pop(choose.randrange(len(held))))
        choose.shuffle(held)
        for index in held:
            yield self._made(index)

    def _made(self, index: int) -> torch.Tensor:
        return torch.tensor([index, *[part.sample(index) for part in self.parts], random.randrange(1 << 20)])


STREAMS = {"seeded": True, "unseeded": False}


class Holding(Streamed):
    """It holds something that a copy of its process cannot have."""

    def __init__(self, folder: Path, have: str) -> None:
        super().__init__(folder)
        self.have = have

    def __iter__(self) -> Iterator[torch.Tensor]:
        self.held = getattr(self, f"_{self.have}")()
        yield from super().__iter__()

    def _socket(self) -> Any:
        return socket.socketpair()

    def _pipe(self) -> Any:
        return os.pipe()

    def _thread(self) -> Any:
        threading.Thread(target=threading.Event().wait, daemon=True).start()

    def _program(self) -> Any:
        return subprocess.Popen(["sleep", "20"])

    def _event(self) -> Any:
        return os.eventfd(0)
