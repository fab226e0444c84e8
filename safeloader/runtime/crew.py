"""The processes of a pool, and who has a seat in which.

::

    WorkerPool ── Crew ──┬── Member: process, control channel ──┬── Seat of "train" (its driver, its page)
                         │                                      └── Seat of "val"
                         └── Member ...

Each driver runs its own loop over its own seats, in whichever thread asks it for a batch; nobody waits for another.
Only what a process does is common to all: who works there, who had it killed, how it ended. And since nobody reads
the clock of a loader that is not asked for batches, those who wait look after it, too.
"""

from __future__ import annotations

import math
import os
import select
import threading
import uuid
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core import seats
from .arena import Arena
from .handover import hand_over
from .process import Exit, Process
from .seat import Seat
from .spec import HostConfig, Spec, authkey
from .worker import LoadSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .driver import Driver
    from .page import Page

__all__ = ["Crew", "Member"]

_STOP_TIMEOUT = 1.0  # seconds for all processes together, at the end of the pool
_KILL_TIMEOUT = 10.0
_AGAIN = 1.0  # seconds until a look at a loader that is busy with what is due


class Leftover(NamedTuple):
    """What a loader that left had in work: its page, and how long that may go without progress."""

    page: Page
    patience: float

    @property
    def deadline(self) -> float:
        return self.page.read().progressed_at + self.patience


class Fate(NamedTuple):
    """How a process of the pool ended, and in whose work, if in anybody's."""

    exit: Exit
    memory_short: bool
    culprit: Seat | Leftover | None


class Member:
    """One process of the pool.

    Args:
        process: it; its channel is the pool's own.
        lock: the crew's.
    """

    def __init__(self, process: Process, lock: threading.RLock) -> None:
        self.process = process
        self.seats: list[Seat] = []
        self.left: list[Leftover] = []
        self.killer: Seat | Leftover | None = None
        self._lock = lock
        self._fate: Fate | None = None
        self._ready = False

    def is_ready(self) -> bool:
        """True once it has finished its imports."""
        self._ready = self._ready or bool(self.process.channel.receive())
        return self._ready

    @property
    def condemned(self) -> bool:
        return self.killer is not None

    def admit(self, message: object, descriptors: Sequence[int]) -> None:
        """Give it a further loader to serve.

        Raises:
            OSError: it is gone, or does not read.
        """
        hand_over(self.process.channel.socket, message, descriptors)

    def condemn(self, culprit: Seat | Leftover) -> None:
        """End it, because of what it does for this one."""
        with self._lock:
            self.killer = self.killer or culprit
            self.process.kill()

    def fate(self) -> Fate | None:
        """How it ended; None while it lives. What is found first holds for all."""
        with self._lock:
            if self._fate is None and self.process.exited():
                self.process.read_stacks()
                culprit = self.killer or self._in_work()
                self._fate = Fate(self.process.how_it_ended(), self.process.memory_was_short(), culprit)
            return self._fate

    def lost_by(self, seat: Seat) -> bool:
        """True if it ended, or is about to, through the doing of another than this."""
        fate = self.fate()
        culprit = self.killer if fate is None else fate.culprit
        return culprit is not None and culprit is not seat

    def works_for_others(self, seat: Seat, stopped: bool) -> tuple[bool, float]:
        """Whether it works for somebody else now, and when it progressed with that, or finished it."""
        with self._lock:
            pages = [*(left.page for left in self.left), *(other.page for other in self.seats if other is not seat)]
            there = max([page.read().progressed_at for page in pages], default=0.0)
            who = self._in_work()
        if who is None or who is seat:
            return False, there
        if stopped:  # it will not move: that is for the other to see
            if isinstance(who, Leftover):
                self.condemn(who)
            else:
                who.driver.attend(stopped=True)
        return True, there

    def _in_work(self) -> Seat | Leftover | None:
        self.left = [left for left in self.left if left.page.in_work]
        whose: list[Seat | Leftover] = [*self.left, *(seat for seat in self.seats if seat.page.in_work)]
        return whose[0] if whose else None

    def vacate(self, seat: Seat) -> None:
        self.seats.remove(seat)
        if seat.released and seat.page.in_work:
            setting_up = seat.page.read().setup is not None
            self.left.append(Leftover(seat.page, seat.driver.supervisor.watch.patience(setting_up)))

    def next_deadline(self) -> float:
        """When what a loader left behind is overdue."""
        return min([left.deadline for left in self.left], default=math.inf) if self.killer is None else math.inf

    def look(self, now: float) -> None:
        """End it if it hangs in what a loader left behind."""
        if self.left and self.next_deadline() <= now:
            with self._lock:
                who = self._in_work()
                if isinstance(who, Leftover) and who.deadline <= now:
                    self.condemn(who)

    def place(self) -> seats.Place:
        """What decides who sits here next."""
        return seats.Place(
            self.process.number,
            tuple(id(seat.driver) for seat in self.seats if not seat.released),
            burdened=isinstance(self._in_work(), Leftover),
        )


class Crew:
    """All processes of a pool. Safe to use from several threads.

    Args:
        limit: how many there are at most.
        name: of the pool.
        accelerators: leave them visible.
    """

    def __init__(self, limit: int, name: str, accelerators: bool) -> None:
        self.limit = limit
        self.closed = False
        self._name, self._accelerators = name, accelerators
        self._lock = threading.RLock()
        self._members: dict[int, Member] = {}
        self._parting: list[Member] = []  # no further loader gets a seat there
        self._drivers: dict[int, Driver] = {}
        self._given: tuple[Spec, Arena] | None = None
        self._count = 0
        self._owner = os.getpid()

    @property
    def pids(self) -> list[int]:
        """The living processes, oldest first."""
        with self._lock:
            return [m.process.pid for m in [*self._parting, *self._members.values()] if m.fate() is None]

    # ------------------------------------------------------------ seats

    def join(self, driver: Driver) -> None:
        """A loader begins to use the pool."""
        with self._lock:
            self._drivers[id(driver)] = driver

    def part(self, driver: Driver) -> None:
        """It ends."""
        with self._lock:
            self._drivers.pop(id(driver), None)

    def start(self) -> None:
        """Start as many processes as there may be; does not wait for them.

        Raises:
            OSError: the system cannot start another.
        """
        with self._lock:
            self._sweep()
            while len(self._members) < self.limit and not self.closed:
                self._start()

    def seat(self, driver: Driver, number: int) -> Seat:
        """A seat for a loader.

        Raises:
            OSError: no process can be had.
        """
        with self._lock:
            while True:
                member = self._member_for(driver)
                try:
                    seat = Seat(number, member, driver, self)
                except (BrokenPipeError, ConnectionError):  # it has just ended
                    self._dismiss(member)
                    continue
                member.seats.append(seat)
                return seat

    def _member_for(self, driver: Driver) -> Member:
        if self.closed or os.getpid() != self._owner:
            raise OSError("the pool was closed" if self.closed else "the pool belongs to the process that made it")
        self._sweep()
        chosen = seats.choose([member.place() for member in self._members.values()], id(driver), self.limit)
        return self._start() if chosen is None else self._members[chosen]

    def _start(self) -> Member:
        if self._given is None:
            self._given = Spec(_config(self._name, self._accelerators), None, _nothing, None), Arena()
        self._count += 1
        member = self._members[self._count] = Member(Process(self._count, *self._given), self._lock)
        return member

    def _sweep(self) -> None:
        """Take those that are gone, or soon will be, off the books."""
        for member in list(self._members.values()):
            if member.condemned or member.fate() is not None:
                self._dismiss(member)
        for member in list(self._parting):
            self._bury(member)

    def _dismiss(self, member: Member) -> None:
        if self._members.pop(member.process.number, None) is not None:
            self._parting.append(member)
            self._bury(member)

    def _bury(self, member: Member) -> None:
        if not member.seats and member in self._parting and member.fate() is not None:
            self._parting.remove(member)
            member.process.close()

    def spare(self, member: Member) -> None:
        """A loader needs fewer processes: end this one, if no other needs it."""
        with self._lock:
            if all(seat.released for seat in member.seats):
                self._dismiss(member)
                member.process.ask_to_end()

    def vacate(self, seat: Seat) -> None:
        """A seat is empty."""
        with self._lock:
            seat.member.vacate(seat)
            self._bury(seat.member)

    # ------------------------------------------------------------ the others' deadlines

    def next_deadline(self, driver: Driver) -> float:
        """The earliest of all the others, and of what others left behind."""
        now, earliest = monotonic(), math.inf
        for other in list(self._drivers.values()):
            if other is not driver:
                due = other.due
                if due <= now and other.busy:  # with it, surely
                    due = now + _AGAIN
                earliest = min(earliest, due)
        return min([earliest, *(member.next_deadline() for member in list(self._members.values()) if member.left)])

    def look_after_others(self, driver: Driver) -> None:
        """Let those see to it for whom something is due."""
        now = monotonic()
        for other in list(self._drivers.values()):
            if other is not driver and other.due <= now:
                other.attend()
        for member in list(self._members.values()):
            member.look(now)

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """End all loaders that use the pool, then all processes: asked first, killed after the stop timeout."""
        if self.closed or os.getpid() != self._owner:
            return
        self.closed = True
        for driver in list(self._drivers.values()):
            driver.close()
        with self._lock:
            members = [*self._parting, *self._members.values()]
            for member in members:
                member.process.ask_to_end()
            _await_exits(members, _STOP_TIMEOUT)
            for member in members:
                member.process.kill()
            _await_exits(members, _KILL_TIMEOUT)
            for member in members:
                member.fate()
                member.process.close()
            self._members.clear()
            self._parting.clear()
            if self._given is not None:
                for given in self._given:
                    given.close()


def _await_exits(members: list[Member], seconds: float) -> None:
    end = monotonic() + seconds
    poll = select.poll()
    while alive := [member.process for member in members if not member.process.exited()]:
        left = end - monotonic()
        if left <= 0:
            return
        for process in alive:
            if process.pidfd >= 0:
                poll.register(process.pidfd, select.POLLIN)
        blind = any(process.pidfd < 0 for process in alive)
        for descriptor, _ in poll.poll(1000 * min(left, 0.05 if blind else left)):
            poll.unregister(descriptor)


def _nothing(samples: Any) -> Any:
    """A process of a pool has no dataset of its own."""
    return samples


def _config(name: str, accelerators: bool) -> HostConfig:
    load = LoadSpec(0, False, False, 1, False, 0, False)
    return HostConfig(load, uuid.uuid4().hex, authkey(), name, accelerators, shared=True)
