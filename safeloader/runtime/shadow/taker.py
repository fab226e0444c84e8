"""Decides, in a process, when it copies itself, and tells the trainer of each copy.

A shadow is expensive: the fork takes a few milliseconds for each hundred megabytes, and each page that is written to
afterwards is copied. So the first is taken as soon as one is needed, and the next ones so seldom that all that takes
at most ``Pace.SHARE`` of the time.

What a successor does again must come out as before. An iterator that seeds a generator from the system's entropy does
so with its first sample, as a rule; so an iterable dataset is copied after the first task of an epoch, not before it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import warnings
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from safeloader.process_memory import own_memory
from safeloader.runtime import protocol as p
from safeloader.runtime import system
from safeloader.runtime.child import user_forks
from safeloader.runtime.shadow import fork_fitness, sleeper
from safeloader.runtime.start import fork_safety

if TYPE_CHECKING:
    from safeloader.runtime.channel import Blocking
    from safeloader.runtime.shadow.change_detection import Change

__all__ = ["ShadowTaker", "Pace"]

_LITTLE_MEMORY = 0.1  # share of all
_PAGE = 4096
_COPYING = 5e-6  # seconds for a page that is written to after a fork; measured: 1 to 5 microseconds


class Pace:
    """When the next shadow is due."""

    SHARE = 0.005
    SHARE_OF_EPOCH = 0.05  # for one more after the first task of an epoch
    LEAST = 1.0
    MOST = 300.0

    def __init__(self) -> None:
        self._next = self._next_of_epoch = self._last = 0.0
        self._forking = 0.0
        self._interval = self.LEAST

    def due(self, of_epoch: bool, now: float) -> bool:
        return now >= (self._next_of_epoch if of_epoch else self._next)

    def taken(self, seconds: float, now: float) -> None:
        """One was taken; to fork took so long."""
        self._last, self._forking = now, seconds
        self.copied(0)

    def copied(self, pages: int) -> None:
        """So many pages were copied since then, as they were written to: the next one waits until that has paid."""
        seconds = self._forking + pages * _COPYING
        self._interval = min(max(seconds / self.SHARE, self.LEAST), self.MOST)
        self._next = self._last + self._interval
        self._next_of_epoch = min(self._last + seconds / self.SHARE_OF_EPOCH, self._next)

    def wait(self, now: float) -> None:
        """Now is not the time."""
        self._next = self._next_of_epoch = now + self._interval


class CopiedHost(Protocol):
    """A process that hosts workers."""

    @property
    def channel(self) -> Blocking: ...
    @property
    def iterable(self) -> bool: ...
    def is_clean(self) -> bool: ...
    def watch(self, worker: int) -> Change: ...
    def succeed(self, number: int, channel: int) -> None: ...


class ShadowTaker:
    """One process's.

    Args:
        host: what hosts its workers.
        always: a shadow is needed from the beginning; else as soon as a dataset changes itself, or may do so unseen.
        inherited: descriptors that the user's objects share with the trainer.
    """

    def __init__(self, host: CopiedHost, always: bool, inherited: list[int]) -> None:
        self._host = host
        self._own = fork_fitness.Own.now(besides=tuple(inherited))
        self._pace = Pace()
        self._changes: dict[int, Change] | None = None if always else {}
        self._begun: set[int] = set()  # workers that have finished a task of their epoch
        self._iterable = host.iterable
        self._shadows: dict[int, int] = {}  # pids of those that are not reaped, by pidfd
        self._poll, self._polled = select.poll(), ()  # type: tuple[select.poll, tuple[int, ...]]
        self._threads_stay = False
        self._said = ""

    @property
    def refused(self) -> bool:
        """True once no shadow could be taken."""
        return self._said != ""

    def wait(self) -> None:
        """Until there is a message: reap shadows that end meanwhile.

        The newest one stays, as a rule: where there is no other, the message is all there is to wait for. Should that
        one be killed, it is reaped beside the next.
        """
        link = self._host.channel
        while len(self._shadows) > 1 and not link.has_more:
            ready = [descriptor for descriptor, _ in self._poller(link.fileno(), *self._shadows).poll()]
            for pidfd in ready:
                if pidfd in self._shadows:
                    os.waitpid(self._shadows.pop(pidfd), 0)
                    os.close(pidfd)
            if link.fileno() in ready:
                return

    def _poller(self, *descriptors: int) -> select.poll:
        """The same as last time, as a rule."""
        if descriptors != self._polled:
            self._poll, self._polled = select.poll(), descriptors
            for descriptor in descriptors:
                self._poll.register(descriptor, select.POLLIN)
        return self._poll

    def look(self, message: Any) -> None:
        """A message was answered: is this the moment for a shadow?"""
        kind = type(message)
        if kind is p.Host:
            self._hosted(message.place.worker)
        elif kind is p.Resume:
            self._begun.discard(message.worker)
        elif kind is p.Task and self._needed(message.worker):
            first = self._iterable and message.worker not in self._begun
            self._begun.add(message.worker)
            if self._pace.due(first, monotonic()) and self._host.is_clean():
                self._take(first)

    def _hosted(self, worker: int) -> None:
        self._begun.discard(worker)
        if self._changes is not None:
            self._changes[worker] = self._host.watch(worker)

    def _needed(self, worker: int) -> bool:
        if self._changes is not None and (self._changes[worker].hidden or self._changes[worker].seen()):
            self._changes = None
        return self._changes is None

    # ------------------------------------------------------------ taking one

    def _take(self, first: bool) -> None:
        began, private = monotonic(), 0
        if self._shadows:
            private = own_memory(list(self._shadows.values())[-1]) or 0
            self._pace.copied(private // _PAGE)
            if not self._pace.due(first, began):
                return
        try:
            succession = self._fork(private, began)
        except (fork_fitness.NotFit, OSError) as reason:
            self._pace.wait(monotonic())
            self._refuse(f"it {reason}" if isinstance(reason, fork_fitness.NotFit) else f"the system said: {reason}")
            return
        if succession is not None:
            self._pace.wait(monotonic())
            self._host.succeed(*succession)
            self._own = self._own.adding({succession.channel})
            return
        now = monotonic()
        self._pace.taken(now - began, now)

    def _fork(self, private: int, began: float) -> sleeper.Succession | None:
        """Fork and tell of it; returns what to be in a successor, which wakes here."""
        self._check()
        own = self._own.adding(set(self._shadows))
        files = fork_fitness.ReopenedFiles(own)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link, pid = self._host.channel, -1
        with theirs:
            before = sleeper.Before.now()
            try:
                with warnings.catch_warnings(), user_forks.own():
                    warnings.simplefilter("ignore", DeprecationWarning)  # of threads: they are counted
                    pid = os.fork()
                if pid == 0:
                    for pidfd in self._shadows:  # they are another's children
                        os.close(pidfd)
                    self._shadows.clear()
                    return sleeper.sleep(theirs, files, self._own, before, [ours, link.socket])
            finally:
                if pid != 0:
                    before.let_signals_in()
                    files.close()
        with ours:
            if fork_safety.kernel_threads() > 1:  # those of OpenBLAS are put away by a fork, and come again
                self._threads_stay = True
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise fork_fitness.NotFit("has more than one thread")
            pidfd = os.pidfd_open(pid)
            self._shadows[pidfd] = pid
            link.send_descriptors(p.Shadowed(pid, private), [ours.fileno(), pidfd])
        return None

    def _check(self) -> None:
        torch: Any = sys.modules["torch"]
        if torch.cuda.is_initialized():
            raise fork_fitness.NotFit("has an accelerator open")
        if self._threads_stay and fork_safety.kernel_threads() > 1:  # it need not be tried again
            raise fork_fitness.NotFit("has more than one thread")
        if fork_fitness.strangers_children(list(self._shadows.values())):
            raise fork_fitness.NotFit("has started a program that runs")
        if system.share_of_memory_left() < _LITTLE_MEMORY:
            raise fork_fitness.NotFit("finds little memory left on the machine")

    def _refuse(self, why: str) -> None:
        """Tell the trainer, once."""
        if why != self._said:
            self._said = why
            self._host.channel.send(p.Unshadowed(why))
