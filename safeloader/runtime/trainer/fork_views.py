"""Which leases the consumer's batches hold, and when their memory may be used again.

A batch is made of views of one array, the *anchor*. When the last view dies, so does the anchor, and the lease is back.
A fork of the trainer sees the batches that are alive at that moment, through mappings that it shares with the trainer.
So the slots of those leases are not used again before every fork that sees them has ended: the batch of a fork never
changes under it, and a fork copies nothing. What a fork may see is noted by a *witness*, a mapping that lives as long
as any of the forks does.

::

    before the fork: hold what comes back ──▶ fork ──▶ parent: leases alive now are tied to the witness
                                                  └──▶ child: the witness stays mapped; the loader's files are closed
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy

from safeloader.runtime import system
from safeloader.runtime.memory.mapping import MAP_FAILED
from safeloader.runtime.system import libc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from safeloader.core.messages import Lease
    from safeloader.runtime.memory.pinned import PinnedSlots

__all__ = ["ForkSensitive", "Views", "Witness", "track"]


_F_ADD_SEALS, _F_SEAL_WRITE = 1033, 0x0008


class Witness:
    """Tells the process that made it whether a fork of it, or a fork of that, still lives (and has not called exec).

    It is a page of a memory file, mapped writable before the fork and unmapped in the parent after it. The kernel
    refuses to seal a file against writing while anybody has it mapped so: nothing that a fork closes can hide it.
    Elsewhere it is a pipe whose writing end the forks hold. What cannot be made never says that the forks are gone.
    """

    __slots__ = ("_address", "_reader", "_writer")

    def __init__(self) -> None:
        self._reader = self._writer = -1
        self._address = 0
        try:
            if system.HAS_MEMFD:
                self._reader = system.memory_file("witness")
                os.ftruncate(self._reader, mmap.PAGESIZE)
                protection = mmap.PROT_READ | mmap.PROT_WRITE
                address = libc.mmap(None, mmap.PAGESIZE, protection, mmap.MAP_SHARED, self._reader, 0)
                if address is None or address == MAP_FAILED:
                    raise OSError(ctypes.get_errno(), "cannot map a page")
                self._address = int(address)
            else:
                self._reader, self._writer = os.pipe()
        except OSError:
            self._close()

    def made(self) -> None:
        """The fork is made; for the parent to call."""
        if self._address:
            libc.munmap(self._address, mmap.PAGESIZE)
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def gone(self) -> bool:
        """True once no fork is left that was made with this witness."""
        if self._reader < 0:
            return False
        try:
            if self._address:
                fcntl.fcntl(self._reader, _F_ADD_SEALS, _F_SEAL_WRITE)
                return True
            poller = select.poll()
            poller.register(self._reader, select.POLLIN)
            return bool(poller.poll(0))
        except OSError:
            return False

    def _close(self, close: Callable[[int], None] = os.close) -> None:  # at the interpreter's end `os` is empty
        if self._reader >= 0:
            close(self._reader)
            self._reader = -1

    def __del__(self) -> None:
        self._close()


class _Seen(NamedTuple):
    """A fork, and the serial numbers of the leases that it may see."""

    witness: Witness
    serials: frozenset[int]


class Views:
    """The leases that are with one loader's consumer.

    Args:
        pinned: slots that devices may read even when the last view of them is dead.
    """

    def __init__(self, pinned: PinnedSlots | None = None) -> None:
        self.returned: deque[Lease] = deque()  # the last view is dead
        self.kept: list[Lease] = []  # those of them that a fork may see
        self._anchors: dict[int, weakref.ref[Any]] = {}
        self._open: tuple[int, Any] | None = None  # a batch that is being made: its lease must not come back meanwhile
        self._forks: list[_Seen] = []
        self._forking: set[int] = set()  # threads that are about to fork
        self._pinned = pinned
        if pinned is not None:
            pinned.watch(self.returned)

    def anchor(self, lease: Lease, memory: Any, nbytes: int) -> Any:
        """An array over the lease that all views refer to: when it dies, the lease comes back.

        That may be in any thread and inside anything, so all that happens then is an append, which is atomic. Until
        ``handed_over``, it is the same array each time.
        """
        if self._open is not None and self._open[0] == lease.serial:
            anchor = self._open[1]
        else:
            anchor = numpy.frombuffer(memory, dtype=numpy.uint8, count=nbytes)
            self._open = lease.serial, anchor
        if lease.serial in self._anchors:
            return anchor
        returned, anchors = self.returned, self._anchors

        def back(_: Any) -> None:
            returned.append(lease)
            anchors.pop(lease.serial, None)

        anchors[lease.serial] = weakref.ref(anchor, back)
        return anchor

    def handed_over(self) -> None:
        """Only the batch keeps its lease from now on."""
        self._open = None

    def tell_free(self, tell: Callable[[Sequence[Lease]], None]) -> None:
        """Tell the leases that came back and that nobody can see any more. If interrupted, some may be told again."""
        if self._forking:
            tell(())
            return
        free = self.returned if self._pinned is None else self._pinned.land()
        if not self._forks and not self.kept:
            back = list(free)
            tell(back)
            for _ in back:
                free.popleft()
            return
        while free:
            self.kept.extend(map(deque.popleft, (free,)))
        self.forget_ended()
        visible: set[int] = set().union(*(seen.serials for seen in self._forks))
        tell([lease for lease in self.kept if lease.serial not in visible])
        self.kept = [lease for lease in self.kept if lease.serial in visible] if visible else []

    # ------------------------------------------------------------ forks

    def forget_ended(self) -> None:
        """Close the witnesses of forks that have ended."""
        for seen in [seen for seen in self._forks if seen.witness.gone()]:
            self._forks.remove(seen)

    @property
    def have_come_back(self) -> bool:
        """Whether there are leases whose last view is dead, and that the core does not know to be free."""
        return bool(self.returned or self.kept or (self._pinned is not None and self._pinned.is_waiting))

    @property
    def _come_back(self) -> list[Lease]:
        """Those leases."""
        return [*self.returned, *self.kept, *(self._pinned.waiting if self._pinned is not None else ())]

    @property
    def alive(self) -> bool:
        """Whether a fork made now would see a batch."""
        return bool(self._anchors or self.have_come_back)

    def hold(self) -> None:
        """A fork begins: what comes back from now on, it may see."""
        self._forking.add(threading.get_ident())

    def forked(self, witness: Witness | None) -> None:
        """The fork is made (or failed); in the parent."""
        if witness is not None:
            self.forget_ended()  # a loader that stands idle while others fork must not gather witnesses
            serials = {*self._anchors, *(lease.serial for lease in self._come_back)}
            if serials:
                self._forks.append(_Seen(witness, frozenset(serials)))
        self._forking.discard(threading.get_ident())


class ForkSensitive(Protocol):
    """Who has views of shared memory, or files that a fork should not keep."""

    views: Views

    def leave(self) -> None:
        """This process is a fork: let go of what is the parent's, without a word to anybody."""


_tracked: weakref.WeakSet[ForkSensitive] = weakref.WeakSet()
_forks: dict[int, tuple[list[ForkSensitive], Witness | None]] = {}  # that are being made, by thread


def track(who: ForkSensitive) -> None:
    """Take part in the forks of this process for as long as ``who`` lives."""
    _tracked.add(who)


def forget_ended() -> None:
    """Let go of what was kept for forks that have ended; each loader also does so at its next batch, or fork."""
    for one in list(_tracked):
        one.views.forget_ended()


def _before() -> None:
    tracked = list(_tracked)
    for one in tracked:
        one.views.hold()
    seen = any(one.views.alive for one in tracked)
    _forks[threading.get_ident()] = tracked, Witness() if seen else None


def _in_parent() -> None:
    tracked, witness = _forks.pop(threading.get_ident(), ([], None))
    if witness is not None:
        witness.made()
    for one in tracked:
        one.views.forked(witness)


def _in_child() -> None:
    _forks.clear()  # the witness stays mapped for as long as this process lives
    tracked = list(_tracked)
    _tracked.clear()
    for one in tracked:
        one.leave()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
