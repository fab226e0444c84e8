"""The main loop of a process that belongs to a pool: several loaders are its guests, each with its own host.

::

    pool ── ATTACH + files ──▶ control ─┐                        ┌─ Host of "train": spec, arena, page, workers
    train's driver ◀── channel ──▶ guest ├─ poll ─▶ Turns ─▶ one ─┤
    val's driver   ◀── channel ──▶ guest ┘         message       └─ Host of "val"

A guest's answers that find no room wait here, so that a loader that nobody reads from holds up no other.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import sys
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from safeloader.runtime import protocol as p
from safeloader.runtime.channel import NonBlocking
from safeloader.runtime.child.active_worker import ActiveWorker, TorchGlobals
from safeloader.runtime.child.fair_queue import Turns
from safeloader.runtime.child.fd_passing import Receiver
from safeloader.runtime.child.loop import WorkerHost
from safeloader.runtime.memory.arena import Arena
from safeloader.runtime.memory.collate import collating_into
from safeloader.runtime.payload import HostConfig
from safeloader.runtime.start import surroundings

if TYPE_CHECKING:
    from safeloader.runtime.channel import Blocking

__all__ = ["PoolMain"]


class _Guest:
    """One loader's side of this process.

    Args:
        number: what this process is called on the loader's books.
        config: plain values for this loader.
        files: the channel, the spec, the arena, and what the spec refers to.
        floor: shared by all guests.
        habits: those of a new process.
    """

    def __init__(
        self, number: int, config: HostConfig, files: list[int], floor: ActiveWorker, habits: TorchGlobals
    ) -> None:
        channel, self._spec, arena, *self._carried = files
        self.link = NonBlocking(socket.socket(fileno=channel))
        self.arena = Arena(arena)
        self.host = WorkerHost(config, self._spec, self._carried, self.arena, number, self.link, floor)
        self.inbox: deque[Any] = deque()
        self.habits = habits
        self.leaving = False

    def close(self) -> None:
        self.host.leave()
        self.link.close()
        self.arena.close()
        for descriptor in (self._spec, *self._carried):
            os.close(descriptor)


class PoolMain:
    """Serves all loaders that have a seat here, one message at a time.

    Args:
        link: the pool's channel.
    """

    def __init__(self, link: Blocking) -> None:
        self._control = Receiver(link.socket)
        self._guests: dict[int, _Guest] = {}
        self._turns: Turns[int] = Turns()
        self._floor = ActiveWorker()
        self._habits = TorchGlobals.now()
        self._in: _Guest | None = None  # whose habits the process has
        self._garbage = False
        self._poll = select.poll()
        self._poll.register(link.socket, select.POLLIN)

    def serve(self) -> None:
        """Until the pool closes its channel."""
        while True:
            waiting = [number for number, guest in self._guests.items() if guest.inbox]
            self._hear(0 if waiting or self._garbage else None)
            if self._control.ended:
                return
            waiting = [number for number, guest in self._guests.items() if guest.inbox]
            if waiting:
                awaited = [number for number in waiting if self._guests[number].host.awaited]
                self._work(self._turns.choose(awaited or waiting))
            elif self._garbage:
                self._garbage = False
                gc.collect()  # datasets may refer to themselves

    # ------------------------------------------------------------ hearing

    def _hear(self, timeout: int | None) -> None:
        for descriptor, events in self._poll.poll(timeout):
            guest = self._guests.get(descriptor)
            if guest is None:
                self._admit()
                continue
            if events & select.POLLOUT and not guest.link.flush():
                self._poll.modify(descriptor, select.POLLIN)
            if events & ~select.POLLOUT:
                guest.inbox.extend(guest.link.receive())
            if guest.link.ended or (guest.leaving and not guest.link.waits):
                self._see_off(descriptor)

    def _admit(self) -> None:
        for (number, announce, config, path, sys.argv[:]), files in self._control.receive():
            guest = _Guest(number, HostConfig(*config), files, self._floor, self._habits)
            sys.path.extend(entry for entry in path if entry not in sys.path)
            self._guests[files[0]] = guest
            self._poll.register(files[0], select.POLLIN)
            if announce:
                guest.link.send((p.READY, monotonic()))
            if surroundings.shortfalls:
                guest.link.send((p.DIFFERS, surroundings.shortfalls[:]))
                surroundings.shortfalls.clear()

    def _see_off(self, descriptor: int) -> None:
        guest = self._guests.pop(descriptor)
        self._poll.unregister(descriptor)
        self._turns.forget(descriptor)
        if guest is self._in:
            self._in = None
            self._habits.take_up(TorchGlobals.now())
        guest.close()
        self._garbage = True

    # ------------------------------------------------------------ working

    def _work(self, descriptor: int) -> None:
        guest = self._guests[descriptor]
        message = guest.inbox.popleft()
        if guest.leaving or guest.host.left:  # nobody wants it any more
            guest.inbox.clear()
            return
        self._let_in(guest)
        began = monotonic()
        try:
            with collating_into(guest.host.writer):
                guest.host.handle(message)
        except Exception:
            if not guest.host.refused:
                raise
            guest.inbox.clear()
            guest.leaving = True  # of no use to this loader, but to others
            guest.link.send((p.LEFT,))
        if message[0] != p.HOST:  # to be set up once is on the house: the first batch is waited for
            self._turns.spend(descriptor, monotonic() - began)
        if guest.link.waits or guest.leaving:
            self._poll.modify(descriptor, select.POLLIN | select.POLLOUT)

    def _let_in(self, guest: _Guest) -> None:
        if guest is self._in:
            return
        now = TorchGlobals.now()
        if self._in is not None:
            self._in.habits = now
        guest.habits.take_up(now)
        self._in = guest
