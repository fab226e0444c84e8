"""The main loop of a process that belongs to a pool: several loaders are hosted, each with its own host.

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
from safeloader.runtime.child.active_worker import ActiveWorker
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


class _HostedLoader:
    """One loader's side of this process.

    Args:
        number: what this process is called on the loader's books.
        config: plain values for this loader.
        files: the channel, the spec, the arena, and what the spec refers to.
        active: which worker is active; shared by all loaders here.
    """

    def __init__(self, number: int, config: HostConfig, files: list[int], active: ActiveWorker) -> None:
        channel, self._spec, arena, *self._carried = files
        self.link = NonBlocking(socket.socket(fileno=channel))
        self.arena = Arena(arena)
        self.host = WorkerHost(config, self._spec, self._carried, self.arena, number, self.link, active)
        self.inbox: deque[Any] = deque()
        self.leaving = False

    def close(self) -> None:
        self.host.leave()
        self.link.close()
        self.arena.close()
        for descriptor in (self._spec, *self._carried):
            os.close(descriptor)


class PoolMain:
    """Serves all loaders that this process serves, one message at a time.

    Args:
        link: the pool's channel.
    """

    def __init__(self, link: Blocking) -> None:
        self._control = Receiver(link.socket)
        self._hosted: dict[int, _HostedLoader] = {}
        self._turns: Turns[int] = Turns()
        self._active = ActiveWorker()
        self._garbage = False
        self._poll = select.poll()
        self._poll.register(link.socket, select.POLLIN)

    def serve(self) -> None:
        """Until the pool closes its channel."""
        while True:
            waiting = [number for number, hosted in self._hosted.items() if hosted.inbox]
            self._hear(0 if waiting or self._garbage else None)
            if self._control.ended:
                return
            waiting = [number for number, hosted in self._hosted.items() if hosted.inbox]
            if waiting:
                awaited = [number for number in waiting if self._hosted[number].host.awaited]
                self._work(self._turns.choose(awaited or waiting))
            elif self._garbage:
                self._garbage = False
                gc.collect()  # datasets may refer to themselves

    # ------------------------------------------------------------ hearing

    def _hear(self, timeout: int | None) -> None:
        for descriptor, events in self._poll.poll(timeout):
            hosted = self._hosted.get(descriptor)
            if hosted is None:
                self._admit()
                continue
            if events & select.POLLOUT and not hosted.link.flush():
                self._poll.modify(descriptor, select.POLLIN)
            if events & ~select.POLLOUT:
                hosted.inbox.extend(hosted.link.receive())
            if hosted.link.ended or (hosted.leaving and not hosted.link.waits):
                self._see_off(descriptor)

    def _admit(self) -> None:
        for told, files in self._control.receive():
            number, announce, config, path, sys.argv[:] = told
            self._active.give(None)  # what follows is for the process, not for the worker that is in
            hosted = _HostedLoader(number, HostConfig(*config), files, self._active)
            sys.path.extend(entry for entry in path if entry not in sys.path)
            self._hosted[files[0]] = hosted
            self._poll.register(files[0], select.POLLIN)
            if announce:
                hosted.link.send(p.Ready(monotonic()))
            if surroundings.shortfalls:
                hosted.link.send(p.Differs(surroundings.shortfalls[:]))
                surroundings.shortfalls.clear()

    def _see_off(self, descriptor: int) -> None:
        hosted = self._hosted.pop(descriptor)
        self._poll.unregister(descriptor)
        self._turns.forget(descriptor)
        hosted.close()
        self._garbage = True

    # ------------------------------------------------------------ working

    def _work(self, descriptor: int) -> None:
        hosted = self._hosted[descriptor]
        message = hosted.inbox.popleft()
        if hosted.leaving or hosted.host.left:  # nobody wants it any more
            hosted.inbox.clear()
            return
        began = monotonic()
        try:
            with collating_into(hosted.host.writer):
                hosted.host.handle(message)
        except Exception:
            if not hosted.host.refused:
                raise
            hosted.inbox.clear()
            hosted.leaving = True  # of no use to this loader, but to others
            hosted.link.send(p.Left())
        if type(message) is not p.Host:  # to be set up once is on the house: the first batch is waited for
            self._turns.spend(descriptor, monotonic() - began)
        if hosted.link.waits or hosted.leaving:
            self._poll.modify(descriptor, select.POLLIN | select.POLLOUT)
