"""One process of a pool: who sits there, in whose work it is, and whose doing its end was."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

from safeloader import clock
from safeloader.core import placement
from safeloader.runtime.child.fd_passing import hand_over

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from safeloader.runtime.child.heartbeat import Heartbeat
    from safeloader.runtime.pool.ports import PoolClient
    from safeloader.runtime.trainer.process import Process
    from safeloader.runtime.trainer.process_handle import Exit

__all__ = ["Leftover", "PoolProcess"]


class Handle(Protocol):
    """A loader's place in the process.

    Attributes:
        driver: whose.
        page: what the process does for it.
        released: it has left.
    """

    driver: PoolClient
    page: Heartbeat
    released: bool


class Leftover(NamedTuple):
    """What a loader that left had in work: its page, and how long that may go without progress."""

    page: Heartbeat
    patience: float

    @property
    def deadline(self) -> float:
        return clock.at(self.page.read().progressed_at) + self.patience


class Fate(NamedTuple):
    """How a process of the pool ended, and in whose work, if in anybody's."""

    exit: Exit
    memory_short: bool
    culprit: Handle | Leftover | None


class PoolProcess:
    """One process of the pool.

    Args:
        process: it; its channel is the pool's own.
        lock: the pool's.
    """

    def __init__(self, process: Process, lock: threading.RLock) -> None:
        self.process = process
        self.handles: list[Handle] = []
        self.left: list[Leftover] = []
        self.killer: Handle | Leftover | None = None
        self.standby = False  # kept for when another is lost
        self._lock = lock
        self._fate: Fate | None = None
        self._ready = False

    def is_ready(self) -> bool:
        """True once it has finished its imports."""
        if not self._ready and self.process.channel.receive():
            self.process.settle()
            self._ready = True
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

    def condemn(self, culprit: Handle | Leftover) -> None:
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

    def lost_by(self, handle: Handle) -> bool:
        """True if it ended, or is about to, through the doing of another than this."""
        fate = self.fate()
        culprit = self.killer if fate is None else fate.culprit
        return culprit is not None and culprit is not handle

    def works_for_others(self, handle: Handle, stopped: bool) -> tuple[bool, float]:
        """Whether it works for somebody else now, and when it progressed with that, or finished it."""
        with self._lock:
            pages = [*(left.page for left in self.left), *(other.page for other in self.handles if other is not handle)]
            there = max([page.read().progressed_at for page in pages], default=0.0)
            who = self._in_work()
        if who is None or who is handle:
            return False, there
        if stopped:  # it will not move: that is for the other to see
            if isinstance(who, Leftover):
                self.condemn(who)
            else:
                who.driver.attend(stopped=True)
        return True, there

    def _in_work(self) -> Handle | Leftover | None:
        self.left = [left for left in self.left if left.page.in_work]
        whose: list[Handle | Leftover] = [*self.left, *(handle for handle in self.handles if handle.page.in_work)]
        return whose[0] if whose else None

    def vacate(self, handle: Handle) -> None:
        self.handles.remove(handle)
        if handle.released and handle.page.in_work:
            setting_up = handle.page.read().setup is not None
            self.left.append(Leftover(handle.page, handle.driver.supervisor.watch.patience(setting_up)))

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

    def place(self) -> placement.Placement:
        """What decides who sits here next."""
        return placement.Placement(
            self.process.number,
            tuple(id(handle.driver) for handle in self.handles if not handle.released),
            burdened=isinstance(self._in_work(), Leftover),
            ready=self.is_ready(),
            standby=self.standby,
            stopped=self.standby and self.process.state() == "T",
            started_at=self.process.started_at,
        )
