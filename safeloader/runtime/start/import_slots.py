"""Processes that start together take turns importing, where they are more than the cores.

Eight interpreters that import torch on two cores at the same time are all ready at the very end. Two at a time take no
longer in all, but the first two are ready after a quarter of it, and the first batch comes then.

Each of them waits for one of as many places as there are cores. A place is a record lock of the kernel (``lockf``) on
a nameless file, so it is free again as soon as its holder has finished or is dead; and nobody waits longer than
``PATIENCE`` for one that is stopped or stuck.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from safeloader.runtime import system

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PATIENCE", "place", "turn"]

PATIENCE = 10.0  # seconds; several times what importing torch takes
_AGAIN = 0.5  # a signal that comes just before the system call does not end it; the next one does

_file = -1
_count = itertools.count()


def place() -> tuple[int, int]:
    """The trainer's file, which a process inherits, and the place at which the next process waits for its turn."""
    global _file  # noqa: PLW0603 - one per trainer, for its whole life
    if _file < 0:
        _file = system.memory_file("turns")
    return _file, next(_count) % system.cores()


class _TooLong(Exception):
    """Whoever is at the place stays there."""


@contextmanager
def turn(file: int, place: int) -> Iterator[None]:
    """Wait for the place, and leave it after the block. Only in the main thread."""
    held = _wait(file, place)
    try:
        yield
    finally:
        if held:
            fcntl.lockf(file, fcntl.LOCK_UN, 1, place)
        os.close(file)


def _wait(file: int, place: int) -> bool:
    waiting = True

    def give_up(number: int, frame: Any) -> None:
        nonlocal waiting
        if waiting:
            waiting = False
            raise _TooLong

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE, _AGAIN)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, place)
        waiting = False
    except (_TooLong, OSError):  # OSError: no locks on this system
        return False
    finally:
        waiting = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return True


def _forget() -> None:
    """A fork of the trainer has processes, and turns, of its own."""
    global _file  # noqa: PLW0603
    if _file >= 0:
        os.close(_file)
        _file = -1


os.register_at_fork(after_in_child=_forget)
