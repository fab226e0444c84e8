"""Forks that the user's code makes in a worker: one that comes back out of that code ends there.

It is a second worker that nobody knows of. It would answer in the first one's place, on the same channel, and collate
into the same lease. So in a fork nothing is collated into leases, and whoever marks progress, as each task does, ends.
Forks that are safeloader's own (shadows, their successors) are made within `own`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import weakref
from typing import TYPE_CHECKING, NoReturn, Protocol

from safeloader.runtime.child.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Host", "end_at", "own", "watch"]


class Host(Protocol):
    """Of workers."""

    def disown(self) -> None:
        """This is a fork: the page and the leases are another's."""


_hosts: weakref.WeakSet[Host] = weakref.WeakSet()
_own = False


def watch(host: Host) -> None:
    """Tell it of forks."""
    _hosts.add(host)


def end_at(page: Heartbeat) -> None:
    """Whoever marks progress on this page ends."""
    page.__class__ = _OfAnother


@contextlib.contextmanager
def own() -> Iterator[None]:
    """A fork within is safeloader's own."""
    global _own  # noqa: PLW0603
    _own = True
    try:
        yield
    finally:
        _own = False


class _OfAnother(Heartbeat):
    """The page, in a fork."""

    __slots__ = ()

    def now(self) -> float:
        _end()

    def sample(self, position: int) -> None:
        _end()

    def replayed(self, done: int, of: int) -> None:
        _end()


def _end() -> NoReturn:
    try:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stderr.write("a process that a dataset has forked came back into its worker, where it ends\n")
        sys.stderr.flush()
    finally:
        os._exit(1)


def _in_child() -> None:
    if not _own:
        for host in list(_hosts):
            host.disown()


os.register_at_fork(after_in_child=_in_child)
