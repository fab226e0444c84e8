"""Where an open file lies, and that a worker opens the same one: by its descriptor, else by its path."""

from __future__ import annotations

import operator
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from safeloader.runtime.by_value import rebuild

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = "/proc/self/fd"
_MOST_DESCRIPTORS = 64  # of files that have a path; each costs one in the trainer and in each process

Pickler = Any


class NotOpenableError(OSError):
    """What was open cannot be opened again, here or there."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class Place(NamedTuple):
    """One file.

    Attributes:
        path: Absolute; "" where it has none any more.
        device, inode: What it is.
        inherited: The number in the stream of a descriptor of it, or None.
    """

    path: str
    device: int
    inode: int
    inherited: int | None


def refuse(what: str, hint: str) -> NoReturn:
    """This cannot be carried: the search for its attribute path begins."""
    from safeloader.runtime.by_value.kinds import RefusedError

    raise RefusedError(f"cannot be opened again: {what}", hint=hint)


def refuse_writing(what: str) -> NoReturn:
    """Two processes that write into one file overwrite each other's."""
    refuse(
        f"{what} is open for writing, and each process would overwrite what the others write",
        "open it for reading; or leave it out in __getstate__ and open a file of its own in each process, named by "
        "torch.utils.data.get_worker_info().id",
    )


def place_of(pickler: Pickler, descriptor: int, name: Any = None) -> Place:
    """Where the file behind a descriptor lies. Its own path goes first, then what the system says."""
    status = os.fstat(descriptor)
    for path in (*([name] if isinstance(name, (str, bytes, os.PathLike)) else []), target(descriptor)):
        absolute = os.path.abspath(os.fsdecode(path)) if path else ""
        if absolute and is_at(absolute, status.st_dev, status.st_ino):
            break
    else:
        absolute = ""
    number = None
    if os.path.isdir(_PROC) and (not absolute or len(pickler.handles) < _MOST_DESCRIPTORS):
        number = _handed_over(descriptor, needed=not absolute)
    elif not absolute:
        refuse("the file was removed, and this system opens files by their paths alone", "keep the file")
    return Place(absolute, status.st_dev, status.st_ino, number)


def place_at(path: Any) -> Place:
    """The file that lies at a path now, for what opens files by their paths alone."""
    absolute = os.path.abspath(os.fsdecode(path))
    status = os.stat(absolute)
    return Place(absolute, status.st_dev, status.st_ino, None)


def _handed_over(descriptor: int, needed: bool) -> int | None:
    from multiprocessing import context

    popen: Any = context.get_spawning_popen()
    try:
        return popen.duplicate_for_child(descriptor)  # type: ignore[no-any-return]
    except OSError:  # as many as may be open are open
        if needed:
            raise
        return None


def is_at(path: str, device: int, inode: int) -> bool:
    """Whether this file lies at a path."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return False
    return (status.st_dev, status.st_ino) == (device, inode)


def target(descriptor: int) -> str:
    """What the system calls the file behind a descriptor; "" where it does not tell."""
    try:
        return os.readlink(f"{_PROC}/{descriptor}")
    except OSError:
        return ""


def open_regular_files(all_of_them: bool = False) -> Iterator[int]:
    """One descriptor of each regular file that this process has open, or all of them."""
    seen = set()
    try:
        numbers = [int(name) for name in os.listdir(_PROC)]
    except OSError:
        return
    for number in sorted(numbers):
        try:
            status = os.fstat(number)
        except OSError:  # the listing's own
            continue
        file = status.st_dev, status.st_ino
        if stat.S_ISREG(status.st_mode) and (all_of_them or file not in seen):
            seen.add(file)
            yield number


def contents(number: int) -> Iterator[bytes]:
    """What a file holds, in pieces."""
    offset = 0
    while piece := os.pread(number, 1 << 20, offset):
        yield piece
        offset += len(piece)


def identical(numbers: list[int]) -> bool:
    """Whether these files hold the same, to the byte: then any of them is as good as the others."""
    return all(
        os.fstat(number).st_size == os.fstat(numbers[0]).st_size
        and all(map(operator.eq, contents(number), contents(numbers[0])))
        for number in numbers[1:]
    )


# ---------------------------------------------------------------- in a worker


def path_for(place: Place) -> str:
    """A path that leads to this file and no other.

    Raises:
        NotOpenableError: there is none.
    """
    if place.path and is_at(place.path, place.device, place.inode):
        return place.path
    if place.inherited is not None:
        return f"{_PROC}/{rebuild.descriptor(place.inherited)}"
    if os.path.exists(place.path):
        raise NotOpenableError(
            f"{place.path} is another file now", "put new data beside the old, and let the next run open it"
        )
    raise NotOpenableError(f"{place.path} is gone", "keep the files of a dataset until the loader is closed")


def opened(place: Place, flags: int = os.O_RDONLY) -> int:
    """Open this file: a descriptor with an offset of its own."""
    descriptor = os.open(path_for(place), flags | getattr(os, "O_CLOEXEC", 0))
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) != (place.device, place.inode):  # it was exchanged in this moment
        os.close(descriptor)
        raise NotOpenableError(f"{place.path} is another file now")
    return descriptor
