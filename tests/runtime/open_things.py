"""Things that a dataset may hold open, how each is used, and what a worker has to get from it: a row each."""

from __future__ import annotations

import bz2
import codecs
import gc
import gzip
import io
import lzma
import mmap
import os
import queue
import sqlite3
import tarfile
import threading
import warnings
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Row(NamedTuple):
    """One thing.

    Attributes:
        make: Makes it in the trainer, in a folder.
        use: What a worker does with it, and the trainer after that: neither moves the other's.
        expected: What both get.
        reopened: A part of what the report says of it; "" where nothing is opened.
    """

    make: Callable[[Path], Any]
    use: Callable[[Any], Any]
    expected: Any
    reopened: str = ""


class Target:
    """Something that weak references lead to."""

    def method(self) -> int:
        return 7


class Local(threading.local):
    def __init__(self, first: int) -> None:
        self.first = first


def _held(lock: Any) -> Any:
    lock.acquire()
    return lock


def _take(lock: Any) -> bool:
    """Whether it can be had at once. In the trainer it is held, so it is asked of workers alone."""
    return bool(lock.acquire(False))


def _condition(_: Path) -> Any:
    made = threading.Condition()
    made.acquire()
    return made


def _event(_: Path) -> threading.Event:
    made = threading.Event()
    made.set()
    return made


def _queue(kind: Any) -> Callable[[Path], Any]:
    def make(_: Path) -> Any:
        made = kind()
        made.put("a")
        made.put("b")
        return made

    return make


def _local(_: Path) -> Any:
    made = Local(1)
    made.second = 2
    return made


def _at(file: Any, position: int) -> Any:
    file.seek(position)
    return file


def _data(folder: Path) -> Path:
    path = folder / "data.bin"
    path.write_bytes(bytes(range(200)))
    return path


def _closed(folder: Path) -> Any:
    with _data(folder).open("rb") as file:
        return file


def _text(folder: Path, ending: str = "\n") -> Path:
    path = folder / "text.txt"
    path.write_bytes("".join(f"line {n} ü{ending}" for n in range(50)).encode())
    return path


def _read_line(folder: Path, **how: Any) -> Any:
    file = _text(folder, "\r\n").open(encoding="utf-8", **how)
    file.readline()
    return file


def _removed(folder: Path) -> Any:
    path = folder / "removed.bin"
    path.write_bytes(b"0123456789")
    file = path.open("rb")
    file.read(4)
    path.unlink()
    return file


def _mapped(folder: Path) -> mmap.mmap:
    with _data(folder).open("rb") as file:
        made = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    made.seek(3)
    return made


def _nameless(_: Path) -> mmap.mmap:
    made = mmap.mmap(-1, 8)
    made[:] = b"nameless"
    made.seek(4)
    return made


def _private(folder: Path) -> mmap.mmap:
    with _data(folder).open("rb") as file:
        made = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    made[0] = 77
    return made


def _zip(folder: Path) -> zipfile.ZipFile:
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", "zipped a")
        archive.writestr("b", "zipped b")
    return zipfile.ZipFile(path)


def _member(folder: Path) -> Any:
    member = _zip(folder).open("b")
    member.read(3)
    return member


def _tar(folder: Path, mode: str = "") -> tarfile.TarFile:
    path = folder / "a.tar"
    with tarfile.open(path, f"w:{mode}") as archive:
        archive.add(_data(folder), "data.bin")
    return tarfile.open(path)


def _member_of_tar(folder: Path) -> Any:
    return _at(_tar(folder).extractfile("data.bin"), 5)


def _compressed(module: Any, mode: str = "rb") -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        path = folder / "compressed"
        with module.open(path, "wb") as file:
            file.write(b"0123456789" * 1000)
        file = module.open(path, mode)
        file.read(4003)
        return file

    return make


def _codec(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.14 advises against it
        file = codecs.open(os.fspath(_text(folder)), "r", "utf-8")  # noqa: SIM115
    file.readline()
    return file


def _npz(folder: Path) -> Any:
    np.savez(folder / "a.npz", x=np.arange(3), y=np.arange(4))
    return np.load(folder / "a.npz")


def _memmap(folder: Path) -> Any:
    return np.memmap(_data(folder), np.uint8, "r", offset=10)


def _removed_memmap(folder: Path) -> Any:
    made = _memmap(folder)
    (folder / "data.bin").unlink()
    return made


def _database(folder: Path) -> str:
    path = os.fspath(folder / "a.db")
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE samples (value)")
    connection.executemany("INSERT INTO samples VALUES (?)", [(n,) for n in range(5)])
    connection.commit()
    connection.close()
    return path


def connection(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(_database(folder), detect_types=sqlite3.PARSE_COLNAMES)
    connection.row_factory = sqlite3.Row
    return connection


def _in_memory(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE samples (value)")
    connection.execute("INSERT INTO samples VALUES (10)")
    connection.commit()
    return connection


def _sum(connection: Any) -> Any:
    return next(iter(connection.execute("SELECT sum(value) AS total FROM samples")))["total"]


def _weak(_: Path) -> Any:
    target = Target()
    return target, weakref.ref(target), weakref.proxy(target), weakref.WeakMethod(target.method)


def _use_weak(found: Any) -> Any:
    target, reference, proxy, method = found
    return reference() is target, proxy.method(), method()()


def _dead(_: Path) -> Any:
    reference = weakref.ref(Target())
    gc.collect()
    return reference


def _views(_: Path) -> Any:
    whole = bytearray(range(20))
    return whole, memoryview(whole)[4:12].cast("I"), memoryview(b"constant")


def _use_views(found: Any) -> Any:
    whole, view, constant = found
    before = view[0]
    whole[4] = 99
    changed = view[0] - before
    whole[4] = 4
    return view.format, view.tolist()[1], changed, constant.readonly, bytes(constant)


ROWS: dict[str, Row] = {
    "lock": Row(lambda _: threading.Lock(), _take, True),
    "RLock": Row(lambda _: threading.RLock(), _take, True),
    "semaphore": Row(lambda _: threading.Semaphore(3), lambda found: found._value, 3),
    "event": Row(_event, lambda found: found.wait(0), True),
    "queue": Row(_queue(queue.Queue), lambda found: (list(found.queue), found.empty()), (["a", "b"], False)),
    "simple queue": Row(_queue(queue.SimpleQueue), lambda found: found.qsize(), 2),
    "thread-local": Row(_local, lambda found: (found.first, found.second), (1, 2)),
    "weak references": Row(_weak, _use_weak, (True, 7, 7)),
    "dead reference": Row(_dead, lambda found: found(), None),
    "memoryviews": Row(_views, _use_views, ("I", 0x0B0A0908, 95, True, b"constant")),
    "binary file": Row(
        lambda f: _at(_data(f).open("rb"), 10), lambda f: f.read(2), b"\x0a\x0b", "data.bin, at byte 10"
    ),
    "raw file": Row(
        lambda f: _at(_data(f).open("rb", 0), 10), lambda f: f.read(2), b"\x0a\x0b", "data.bin, at byte 10"
    ),
    "text file": Row(_read_line, lambda f: f.readline(), "line 1 ü\n", "text.txt"),
    "text file as it is": Row(lambda f: _read_line(f, newline=""), lambda f: f.readline(), "line 1 ü\r\n", "text.txt"),
    "removed file": Row(_removed, lambda f: f.read(2), b"45", "a removed file"),
    "closed file": Row(_closed, lambda f: f.closed, True),
    "buffer": Row(lambda _: _at(io.BytesIO(b"0123"), 2), lambda f: f.read(1), b"2"),
    "codec": Row(_codec, lambda f: f.readline(), "line 1 ü\n", "text.txt"),
    "mapped file": Row(_mapped, lambda f: (f.read(2), len(f)), (b"\x03\x04", 200), "data.bin, mapped from byte 0"),
    "nameless memory": Row(_nameless, lambda f: (f[:], f.tell()), (b"nameless", 4), "shared with the trainer"),
    "private mapping": Row(_private, lambda f: f[:2], b"M\x01", "each worker has a copy"),
    "zip": Row(_zip, lambda f: f.read("b"), b"zipped b", "a.zip"),
    "member of a zip": Row(_member, lambda f: f.read(3), b"ped", "a.zip"),
    "tar": Row(_tar, lambda f: f.extractfile("data.bin").read(3), b"\0\1\2", "a.tar"),
    "compressed tar": Row(lambda f: _tar(f, "gz"), lambda f: f.extractfile("data.bin").read(3), b"\0\1\2", "a.tar"),
    "member of a tar": Row(_member_of_tar, lambda f: f.read(2), b"\x05\x06", "a.tar"),
    "gzip": Row(_compressed(gzip), lambda f: f.read(4), b"3456", "compressed"),
    "gzip text": Row(_compressed(gzip, "rt"), lambda f: f.read(4), "3456", "compressed"),
    "bz2": Row(_compressed(bz2), lambda f: f.read(4), b"3456", "compressed"),
    "lzma": Row(_compressed(lzma), lambda f: f.read(4), b"3456", "compressed"),
    "npz": Row(_npz, lambda f: f["y"].tolist(), [0, 1, 2, 3], "a.npz"),
    "memmap": Row(_memmap, lambda f: f[:3].tolist(), [10, 11, 12], "data.bin, mapped from byte 10"),
    "memmap of a removed file": Row(_removed_memmap, lambda f: f[:3].tolist(), [10, 11, 12], "a removed file"),
    "sqlite": Row(connection, _sum, 10, "a.db"),
    "sqlite in memory": Row(_in_memory, lambda c: c.execute("SELECT value FROM samples").fetchone()[0], 10, "memory"),
    "cursor of sqlite": Row(
        lambda f: connection(f).cursor(),
        lambda c: c.execute("SELECT max(value) FROM samples").fetchone()[0],
        4,
        "a.db",
    ),
}
"""Of the standard library and numpy. What one use reads of a file, the next one does not read again."""

HELD: dict[str, Callable[[Path], Any]] = {
    "lock": lambda _: _held(threading.Lock()),
    "RLock": lambda _: _held(threading.RLock()),
    "condition": _condition,
    "bounded semaphore": lambda _: _held(threading.BoundedSemaphore(1)),
}
"""Locks that a thread of the trainer holds."""
