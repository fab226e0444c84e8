"""What every process of a loader is given, serialised once: a sealed memory file that all of them map.

::

    | prelude: sys.path, argv, ... (marshal) | HostConfig (pickle) | dataset, collate_fn, worker_init_fn (carry) |

The prelude comes first because it is what a fresh interpreter needs to import anything at all.
"""

from __future__ import annotations

import marshal
import mmap
import multiprocessing.process
import os
import pickle
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from . import carry, system

if TYPE_CHECKING:
    from collections.abc import Callable

    from .worker import LoadSpec

__all__ = ["HostConfig", "Parts", "Spec", "map_privately", "open_parts", "read_config", "read_prelude"]

_HEADER = struct.Struct("<III")


class HostConfig(NamedTuple):
    """Plain values a process needs besides the user's objects."""

    load: LoadSpec
    token: str
    authkey: bytes
    name: str
    accelerators: bool
    trace: bool = False


class Parts(NamedTuple):
    """The user's objects as one worker gets them: its own copies."""

    dataset: Any
    collate_fn: Callable[[Any], Any]
    worker_init_fn: Callable[[int], None] | None
    classes: list[type]


class Spec:
    """The trainer's side: makes the file and keeps it until the loader ends.

    Raises:
        NotCarriableError: something cannot be sent to another process; it is named.
    """

    def __init__(
        self,
        config: HostConfig,
        dataset: Any,
        collate_fn: Callable[[Any], Any],
        worker_init_fn: Callable[[int], None] | None,
    ) -> None:
        what = {"dataset": dataset, "collate_fn": collate_fn, "worker_init_fn": worker_init_fn}
        self.config = config
        self._kept = (dataset, collate_fn, worker_init_fn)
        self._packed = carry.pack(self._kept, what=what)
        self.classes = self._packed.classes
        self.descriptor = system.memory_file("spec")
        self._write()

    def _write(self) -> None:
        prelude = marshal.dumps((sys.path, sys.argv, sys.flags.optimize))
        config = pickle.dumps(self.config, protocol=5)
        start = _HEADER.size + len(prelude) + len(config)
        start += -start % mmap.PAGESIZE
        head = _HEADER.pack(len(prelude), len(config), start) + prelude + config
        os.write(self.descriptor, head.ljust(start, b"\0"))
        carry.write(self._packed, self.descriptor)
        self._packed.buffers.clear()
        system.seal(self.descriptor)

    @property
    def inherited(self) -> list[int]:
        """Descriptors that each process must inherit under the same number."""
        return [self.descriptor, *self._packed.fds]

    def parts(self) -> Parts:
        """The objects for a worker that the trainer hosts itself; classes are the trainer's own."""
        return _parts(map_privately(self.descriptor), self.descriptor, self.classes)

    def close(self) -> None:
        self._packed.close()
        os.close(self.descriptor)


def authkey() -> bytes:
    """The key with which this program's multiprocessing connections are authenticated."""
    return bytes(multiprocessing.process.current_process().authkey)


def map_privately(descriptor: int) -> mmap.mmap:
    """Map the file copy-on-write: writes stay in this mapping, untouched pages are shared by all."""
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)


def read_prelude(descriptor: int) -> tuple[list[str], list[str], int]:
    """``sys.path``, ``sys.argv`` and the optimisation level of the trainer."""
    prelude, _, _ = _HEADER.unpack(os.pread(descriptor, _HEADER.size, 0))
    return marshal.loads(os.pread(descriptor, prelude, _HEADER.size))  # type: ignore[no-any-return]


def read_config(descriptor: int) -> HostConfig:
    prelude, config, _ = _HEADER.unpack(os.pread(descriptor, _HEADER.size, 0))
    return pickle.loads(os.pread(descriptor, config, _HEADER.size + prelude))  # type: ignore[no-any-return]


def open_parts(descriptor: int) -> Parts:
    """A fresh copy of the user's objects, in a process.

    Raises:
        Exception: whatever the user's modules raise when they are imported or rebuilt.
    """
    return _parts(map_privately(descriptor), descriptor, None)


def _parts(mapping: mmap.mmap, descriptor: int, classes: list[type] | None) -> Parts:
    _, _, start = _HEADER.unpack(os.pread(descriptor, _HEADER.size, 0))
    (dataset, collate_fn, worker_init_fn), found = carry.read(mapping, start, classes=classes)
    return Parts(dataset, collate_fn, worker_init_fn, found)
