"""Whether a process may be copied, and what its copy needs of its own.

A fork has one thread, and shares open files with their positions. So there is no copy of a process with threads, with
an accelerator, with connections, or with programs that it started. Of regular files the copy gets descriptions of its
own, at the positions of the moment.
"""

from __future__ import annotations

import fcntl
import os
import stat
from typing import NamedTuple

from safeloader.runtime.start import fork_safety

__all__ = ["ReopenedFiles", "NotFit", "Own"]

_HARMLESS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
_STANDARD = (0, 1, 2)


class NotFit(Exception):
    """This process cannot be copied now; the text says why, and fits behind "it"."""


class Own(NamedTuple):
    """The descriptors that safeloader itself has in a process, and what they lead to."""

    known: dict[int, tuple[int, int]]

    @classmethod
    def now(cls, besides: tuple[int, ...] = ()) -> Own:
        """Those that are open, ``besides`` some."""
        numbers = [number for number in fork_safety.descriptors() if number not in besides]
        return cls({number: status for number in numbers if (status := fork_safety.identity(number))})

    def adding(self, numbers: set[int]) -> Own:
        """These, and some more."""
        return Own({**self.known, **{number: status for number in numbers if (status := fork_safety.identity(number))}})

    def has(self, number: int) -> bool:
        """False for a descriptor that was closed, and opened by somebody else."""
        return number in _STANDARD or (number in self.known and self.known[number] == fork_safety.identity(number))


class ReopenedFiles:
    """A second description of each regular file that is open, at the same position.

    Args:
        own: descriptors that may be shared.

    Raises:
        NotFit: something is open that cannot be shared, and cannot be opened again.
    """

    def __init__(self, own: Own) -> None:
        self._copies: list[tuple[int, int, bool]] = []
        try:
            for number, target in fork_safety.descriptors().items():
                if not own.has(number):
                    self._look(number, target)
        except BaseException:
            self.close()
            raise

    def _look(self, number: int, target: str) -> None:
        try:
            mode = os.fstat(number).st_mode
        except OSError:  # the listing's own
            return
        if stat.S_ISREG(mode):
            self._open_again(number, target)
        elif stat.S_ISFIFO(mode) and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            return
        elif not (stat.S_ISDIR(mode) or target in _HARMLESS):
            raise NotFit(f"holds {_named(mode, target)}")

    def _open_again(self, number: int, target: str) -> None:
        flags = fcntl.fcntl(number, fcntl.F_GETFL) & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOFOLLOW)
        try:
            copy = os.open(f"/proc/self/fd/{number}", flags | os.O_CLOEXEC)
            self._copies.append((number, copy, os.get_inheritable(number)))
            os.lseek(copy, os.lseek(number, 0, os.SEEK_CUR), os.SEEK_SET)
        except OSError as error:
            raise NotFit(f"holds {target}, which cannot be opened again ({error.strerror})") from None

    def take_up(self) -> None:
        """In the copy: the files get their old numbers."""
        for number, copy, inheritable in self._copies:
            os.dup2(copy, number, inheritable)
        self.close()

    def close(self) -> None:
        """Somebody else has them, or nobody needs them."""
        while self._copies:
            os.close(self._copies.pop()[1])


def _named(mode: int, target: str) -> str:
    if stat.S_ISSOCK(mode):
        return "a connection (socket)"
    if stat.S_ISFIFO(mode):
        return "a pipe that it reads from"
    return f"{target} open"


def strangers_children(own: list[int]) -> bool:
    """True if this process has children besides these."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return any(int(pid) not in own for pid in file.read().split())
    except OSError:
        return False
