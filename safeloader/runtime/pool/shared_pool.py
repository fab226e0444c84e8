"""The processes of a pool, and which loaders each of them serves.

::

    WorkerPool ── SharedPool ──┬── PoolProcess: process, control channel ──┬── PoolHandle of "train" (driver, page)
                               │                                           └── PoolHandle of "val"
                               └── PoolProcess ...

Each driver runs its own loop over its own handles, in whichever thread asks it for a batch; nobody waits for another.
Only what a process does is common to all: who works there, who had it killed, how it ended. And since nobody reads
the clock of a loader that is not asked for batches, those who wait look after it, too: and after the standbys.
"""

from __future__ import annotations

import os
import select
import threading
import uuid
from typing import TYPE_CHECKING, Any

from safeloader.clock import now as clock_now
from safeloader.core import placement
from safeloader.runtime.child.worker import LoadSpec
from safeloader.runtime.memory.arena import Arena
from safeloader.runtime.payload import HostConfig, Payload, authkey
from safeloader.runtime.pool.pool_handle import PoolHandle
from safeloader.runtime.pool.pool_process import PoolProcess
from safeloader.runtime.pool.standbys import Standbys
from safeloader.runtime.trainer.process import Process

if TYPE_CHECKING:
    from safeloader.runtime.pool.ports import PoolClient
    from safeloader.runtime.start.launcher import Launcher

__all__ = ["SharedPool"]

_STOP_TIMEOUT = 1.0  # seconds for all processes together, at the end of the pool
_KILL_TIMEOUT = 10.0
_AGAIN = 1.0  # seconds until a look at a loader that is busy with what is due


class SharedPool:
    """All processes of a pool. Safe to use from several threads.

    Args:
        limit: how many there are at most, standbys apart.
        name: of the pool.
        accelerators: leave them visible.
        launcher: how processes come to be.
        reserve: how many stand by.
    """

    def __init__(
        self, limit: int, name: str, accelerators: bool, launcher: Launcher, reserve: placement.Reserve
    ) -> None:
        self.limit = limit
        self.closed = False
        self.launcher = launcher
        self.standbys = Standbys(reserve)
        self._name, self._accelerators = name, accelerators
        self._lock = threading.RLock()
        self._members: dict[int, PoolProcess] = {}
        self._parting: list[PoolProcess] = []  # no further loader comes there
        self._drivers: dict[int, PoolClient] = {}
        self._given: tuple[Payload, Arena] | None = None
        self._count = 0
        self._owner = os.getpid()

    @property
    def foreign(self) -> bool:
        """True in a fork of the process that made it: there the pool begins anew."""
        return os.getpid() != self._owner

    @property
    def pids(self) -> list[int]:
        """The living processes, oldest first."""
        with self._lock:
            return [m.process.pid for m in [*self._parting, *self._members.values()] if m.fate() is None]

    # ------------------------------------------------------------ places

    def join(self, driver: PoolClient) -> None:
        """A loader begins to use the pool."""
        with self._lock:
            self._drivers[id(driver)] = driver

    def part(self, driver: PoolClient) -> None:
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
            while sum(not m.standby for m in self._members.values()) < self.limit and not self.closed:
                self._start()

    def handle(self, driver: PoolClient, number: int) -> PoolHandle:
        """A place for a loader in one of the processes.

        Raises:
            OSError: no process can be had.
        """
        with self._lock:
            while True:
                member = self._member_for(driver)
                try:
                    handle = PoolHandle(number, member, driver, self)
                except (BrokenPipeError, ConnectionError):  # it has just ended
                    self._dismiss(member)
                    continue
                member.handles.append(handle)
                self._keep_standbys()
                return handle

    def _member_for(self, driver: PoolClient) -> PoolProcess:
        if self.closed or self.foreign:
            raise OSError("the pool was closed" if self.closed else "the pool belongs to the process that made it")
        self._sweep()
        member = self._choice(driver)
        if member is None:
            return self._start()
        member.standby = False
        return member

    def _choice(self, driver: PoolClient) -> PoolProcess | None:
        places = [member.place() for member in self._members.values()]
        chosen = placement.choose(places, id(driver), self.limit)
        return None if chosen is None else self._members[chosen]

    def _start(self, standby: bool = False) -> PoolProcess:
        if self._given is None:
            self._given = Payload(_config(self._name, self._accelerators), None, _nothing, None), Arena()
        self._count += 1
        needed = dict.fromkeys(name for driver in self._drivers.values() for name in driver.spec.modules)
        process = Process(self.launcher, self._given[0].surroundings, tuple(needed) if standby else ())
        process.join(self._count, *self._given)
        member = self._members[self._count] = PoolProcess(process, self._lock)
        member.standby = standby
        self.standbys.watch(member)
        return member

    def _sweep(self) -> None:
        """Take those that are gone, or soon will be, off the books."""
        for member in list(self._members.values()):
            if member.condemned or member.fate() is not None:
                self._dismiss(member)
        for member in list(self._parting):
            self._bury(member)

    def _dismiss(self, member: PoolProcess) -> None:
        if self._members.pop(member.process.number, None) is not None:
            self.standbys.forget(member)
            if member.standby:
                self.standbys.gone(member)
            self._parting.append(member)
            self._bury(member)

    def _bury(self, member: PoolProcess) -> None:
        if not member.handles and member in self._parting and member.fate() is not None:
            self._parting.remove(member)
            member.process.close()

    def spare(self, member: PoolProcess) -> None:
        """A loader needs fewer processes: end this one, if no other needs it."""
        with self._lock:
            if all(handle.released for handle in member.handles):
                self._dismiss(member)
                member.process.ask_to_end()
            self._keep_standbys()

    def vacate(self, handle: PoolHandle) -> None:
        """A loader has left its process."""
        with self._lock:
            handle.member.vacate(handle)
            self._bury(handle.member)

    # ------------------------------------------------------------ standbys

    def relieves(self, driver: PoolClient) -> bool:
        """Whether the next place of this loader is in a process that is ready, so that it need not wait for a start."""
        with self._lock:
            self._sweep()
            member = None if self.closed else self._choice(driver)
            return member is not None and member.is_ready()

    def notice(self) -> None:
        """A process is ready, or a standby is gone: see that there are as many as there should be."""
        with self._lock:
            self._sweep()
            self._keep_standbys()

    def _keep_standbys(self) -> None:
        if self.closed or not self.standbys.kept:
            return
        fleets = [driver.supervisor.fleet for driver in list(self._drivers.values())]
        calm = all(fleet.rung == fleet.rungs[0] for fleet in fleets)
        changes = self.standbys.changes(self._members.values(), calm)
        for number in changes.end:
            member = self._members.pop(number)
            self.standbys.forget(member)
            self._parting.append(member)
            member.process.kill()
        for _ in range(changes.start):
            try:
                self._start(standby=True)
            except OSError:  # there is none, then: nobody is harmed
                self.standbys.reserve.lost(clock_now())

    # ------------------------------------------------------------ the others' deadlines

    def next_deadline(self, driver: PoolClient) -> float:
        """The earliest of all the others, and of what others left behind."""
        now, earliest = clock_now(), self.standbys.due
        for other in list(self._drivers.values()):
            if other is not driver:
                due = other.due
                if due <= now and other.busy:  # with it, surely
                    due = now + _AGAIN
                earliest = min(earliest, due)
        return min([earliest, *(member.next_deadline() for member in list(self._members.values()) if member.left)])

    def look_after_others(self, driver: PoolClient) -> None:
        """Let those see to it for whom something is due."""
        now = clock_now()
        for other in list(self._drivers.values()):
            if other is not driver and other.due <= now:
                other.attend()
        for member in list(self._members.values()):
            member.look(now)
        if self.standbys.due <= now:
            self.notice()

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """End all loaders that use the pool, then all processes: asked first, killed after the stop timeout."""
        if self.closed or self.foreign:
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
            self.standbys.close()
            self.launcher.close()
            if self._given is not None:
                for given in self._given:
                    given.close()


def _await_exits(members: list[PoolProcess], seconds: float) -> None:
    end = clock_now() + seconds
    poll = select.poll()
    while alive := [member.process for member in members if not member.process.exited()]:
        left = end - clock_now()
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
