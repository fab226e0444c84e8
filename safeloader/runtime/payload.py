"""What every process of a loader is given, serialised once: a sealed memory file that all of them map.

::

    memory file:  | dataset, collate_fn, worker_init_fn (carry) | the main script (carry.script) | its length |
    with JOIN:    HostConfig, the file's descriptor, and those that the objects share with the trainer
"""

from __future__ import annotations

import mmap
import multiprocessing.process
import os
import struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from safeloader.errors import StartError
from safeloader.runtime import by_value, system
from safeloader.runtime.by_value.rebuild import gathering
from safeloader.runtime.start.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from safeloader.runtime.child.worker import LoadSpec

__all__ = ["HostConfig", "Parts", "Payload", "map_privately", "open_parts", "open_script"]

_LENGTH = struct.Struct("<Q")
_LARGE = 1 << 20  # bytes
_MOST_SHARED = 200  # descriptors; more do not fit into one message


class HostConfig(NamedTuple):
    """Plain values a process needs besides the user's objects."""

    load: LoadSpec
    token: str
    authkey: bytes
    name: str
    accelerators: bool
    trace: bool = False
    worker: tuple[str, tuple[str, ...]] | None = None  # what makes workers, as module:name, and its first arguments
    shared: bool = False  # of a pool's own processes: loaders come later
    trainer: tuple[str, int] = ("MainProcess", 0)  # name and pid; filled in by Spec
    shadow: bool | Literal["auto"] = False  # whether processes copy themselves


class Parts(NamedTuple):
    """The user's objects as one worker gets them: its own copies."""

    dataset: Any
    collate_fn: Callable[[Any], Any]
    worker_init_fn: Callable[[int], None] | None
    classes: list[type]
    generators: Sequence[Any] = ()  # the random generator objects among them, in the order of the stream
    close: Callable[[], None] = lambda: None  # close what was opened again for this worker
    opened: Sequence[Any] = ()  # what was
    script: Mapping[str, Any] = MappingProxyType({})  # in the trainer: variables of the main script, as they were sent


class Payload:
    """The trainer's side: makes the file and keeps it until the loader ends. What holds in the trainer now is what all
    processes take over, whenever they start.

    Raises:
        NotCarriableError: something cannot be sent to another process; it is named.
        StartError: there is no room for it.
    """

    def __init__(
        self,
        config: HostConfig,
        dataset: Any,
        collate_fn: Callable[[Any], Any],
        worker_init_fn: Callable[[int], None] | None,
    ) -> None:
        what = {"dataset": dataset, "collate_fn": collate_fn, "worker_init_fn": worker_init_fn}
        self.config = config._replace(trainer=(multiprocessing.process.current_process().name, os.getpid()))
        self.surroundings = Surroundings()
        self._kept = (dataset, collate_fn, worker_init_fn)
        self._packed = by_value.pack(self._kept, what=what)
        self.classes = self._packed.classes
        self.descriptor = system.memory_file("spec")
        self._made: list[Callable[[], None]] = []  # closes what was opened for workers in the trainer
        self._write()

    def _write(self) -> None:
        from safeloader.runtime.by_value.script import describe

        script = describe(self.classes)
        try:
            with system.larger_files():
                by_value.write(self._packed, self.descriptor)
                for piece in (script, _LENGTH.pack(len(script))):
                    os.write(self.descriptor, piece)
        except OSError as error:
            size = self._packed.size
            self.close()
            raise StartError(
                f"the dataset, serialised {size:,} bytes, cannot be put into shared memory: {system.explained(error)}",
                hint="keep large data in files that each worker opens; or raise the limit",
                code="SL224",
            ) from error
        self.size = self._packed.size
        self._packed.buffers.clear()
        self._packed.stream = b""
        system.seal(self.descriptor)

    @property
    def descriptors(self) -> list[int]:
        """The file, and the descriptors that its objects share with the trainer."""
        return [self.descriptor, *self._packed.fds]

    @property
    def dataset(self) -> Any:
        """The trainer's own."""
        return self._kept[0]

    @property
    def is_large(self) -> bool:
        """Whether processes should share what one of them has read, rather than read for themselves."""
        return self.size >= _LARGE and len(self._packed.fds) <= _MOST_SHARED

    @property
    def unshared(self) -> int:
        """How many of these nobody writes to: the file, those of arrays, and multiprocessing's resource tracker."""
        return 1 + len(self._packed.elsewhere) + (self._packed.tracker is not None)

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that a process imports to rebuild the objects."""
        return self._packed.modules

    @property
    def tied(self) -> str:
        """What of the objects cannot leave this host, in words; "" if all of it can."""
        if self._packed.handles:
            path, words = self._packed.handles[0]
            return f"{path} ({words})" if path else words
        shared = len(self._packed.fds) - (self._packed.tracker is not None)
        return "memory, a queue or a lock that it shares with this program" if shared else ""

    @property
    def reopened(self) -> list[str]:
        """What each worker opens again for itself, in words."""
        return [f"{path} ({words})" if path else words for path, words in self._packed.handles]

    def parts(self) -> Parts:
        """The objects for a worker that the trainer hosts itself; classes are the trainer's own."""
        parts = _parts(map_privately(self.descriptor), self.classes, None)
        self._made.append(parts.close)
        return parts

    def close(self) -> None:
        while self._made:
            self._made.pop()()
        self._packed.close()
        self.surroundings.close()
        os.close(self.descriptor)


def authkey() -> bytes:
    """The key with which this program's multiprocessing connections are authenticated."""
    return bytes(multiprocessing.process.current_process().authkey)


def map_privately(descriptor: int) -> mmap.mmap:
    """Map the file copy-on-write: writes stay in this mapping, untouched pages are shared by all."""
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)


def open_parts(descriptor: int, inherited: list[int]) -> Parts:
    """A fresh copy of the user's objects, in a process.

    Args:
        descriptor: the memory file.
        inherited: the descriptors that its objects share with the trainer.

    Raises:
        Exception: whatever the user's modules raise when they are imported or rebuilt.
    """
    return _parts(map_privately(descriptor), None, inherited)


def open_script(descriptor: int) -> bytes:
    """The description of the main script, in a process."""
    end = os.fstat(descriptor).st_size - _LENGTH.size
    (length,) = _LENGTH.unpack(os.pread(descriptor, _LENGTH.size, end))
    return os.pread(descriptor, length, end - length)


def _parts(mapping: mmap.mmap, classes: list[type] | None, descriptors: list[int] | None) -> Parts:
    with gathering() as held:
        (dataset, collate_fn, worker_init_fn), found = by_value.read(mapping, classes=classes, descriptors=descriptors)
    return Parts(dataset, collate_fn, worker_init_fn, found, held.generators, held.close, held.opened, held.script)
