"""A loader's place in a process of a pool: to the loader's driver, a process like any other.

It has its own channel, page and number. Its end is the process's end, or comes before: a loader that leaves lets go
at once, and the process goes on for the others.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Protocol

from safeloader import clock
from safeloader.runtime.channel import NonBlocking
from safeloader.runtime.child.heartbeat import Heartbeat
from safeloader.runtime.protocol import Admit
from safeloader.runtime.trainer.process_handle import Exit

if TYPE_CHECKING:
    from safeloader.runtime.child.states import Base
    from safeloader.runtime.pool.pool_process import PoolProcess
    from safeloader.runtime.pool.ports import PoolClient

__all__ = ["PoolHandle"]


class Pool(Protocol):
    """Who is told that a loader leaves."""

    def spare(self, member: PoolProcess) -> None:
        """It needs fewer processes."""

    def vacate(self, handle: PoolHandle) -> None:
        """A loader has left its process."""


class PoolHandle:
    """One loader's part of a process that it shares.

    Args:
        number: the process's number in the supervisor's books.
        member: the process.
        driver: of the loader that it belongs to.
        shared_pool: the pool's processes.

    Raises:
        OSError: the process is gone, or the system has no descriptor left.
    """

    def __init__(self, number: int, member: PoolProcess, driver: PoolClient, shared_pool: Pool) -> None:
        self.number = number
        self.member = member
        self.driver = driver
        self.page = Heartbeat(driver.arena.page(number))
        self.started_at = clock.now()
        self.ready = member.is_ready()
        self.bases: dict[int, Base] = {}
        self.released = False
        self.useless = False  # the dataset cannot be rebuilt there
        self._shared_pool = shared_pool
        ours, theirs = socket.socketpair()
        with theirs:
            self.channel = NonBlocking(ours)
            self.stacks = member.process.stacks
            files = [theirs.fileno(), driver.spec.descriptor, driver.arena.descriptor]
            try:
                facts = driver.spec.surroundings.facts
                told = Admit(number, not self.ready, driver.spec.config, facts.path, facts.argv)
                member.admit(told, [*files, *driver.spec.descriptors[1:]])
            except BaseException:
                ours.close()
                raise
        self._end = os.dup(member.process.pidfd) if member.process.pidfd >= 0 else -1

    @property
    def pid(self) -> int:
        return self.member.process.pid

    @property
    def pidfd(self) -> int:
        return self._end

    @property
    def phase(self) -> str:
        return self.member.process.phase

    def settle(self) -> None:
        self.member.process.settle()

    @property
    def fell_back(self) -> bool:
        return False

    @property
    def host(self) -> str:
        return ""

    # ------------------------------------------------------------ its end

    def exited(self) -> bool:
        """True once the process is gone, or this loader has left it."""
        return self.released or self.member.fate() is not None

    def kill(self) -> None:
        """End the process, for all loaders there: a verdict of this loader's supervisor."""
        if not self.released:
            self.member.condemn(self)

    def ask_to_end(self) -> None:
        """Leave; a process that policy wants to be rid of ends when nobody is left."""
        self.release()
        if not self.driver.supervisor.closed:
            self._shared_pool.spare(self.member)

    def release(self) -> None:
        """Let go of the process: it takes up nothing of what it was sent, and its channel ends."""
        self.released = True
        self.page.leave()
        try:
            self.channel.socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # the process was quicker
            pass

    def turned_out(self) -> None:
        self.useless = True
        self.release()

    def forfeited(self) -> bool:
        return not self.released and self.member.lost_by(self)

    def elsewhere(self, state: str) -> tuple[bool, float]:
        return self.member.works_for_others(self, stopped=state == "T")

    def ask_for_stacks(self) -> None:
        self.member.process.ask_for_stacks()

    def read_stacks(self) -> str:
        return self.member.process.read_stacks()

    def rest_of_stacks(self) -> str:
        return self.member.process.rest_of_stacks()

    def stacks_soon(self) -> str:
        return self.member.process.stacks_soon()

    def state(self) -> str:
        return self.member.process.state()

    def how_it_ended(self) -> Exit:
        fate = self.member.fate()
        if fate is not None:
            return fate.exit
        return Exit("cannot rebuild the dataset" if self.useless else "left", killed=False)

    def memory_was_short(self) -> bool:
        fate = self.member.fate()
        return fate is not None and fate.memory_short

    def close(self) -> None:
        self.channel.close()
        if self._end >= 0:
            os.close(self._end)
        self.stacks = self._end = -1
        self._shared_pool.vacate(self)
