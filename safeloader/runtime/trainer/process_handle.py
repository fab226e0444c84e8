"""What a loader holds of a process, its own or its place in one of a pool's; and all that work for it."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from safeloader.core.messages import INLINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.runtime.channel import NonBlocking
    from safeloader.runtime.child.heartbeat import Heartbeat
    from safeloader.runtime.child.states import Base

__all__ = ["Exit", "ProcessHandle", "ProcessTable"]


class Exit(NamedTuple):
    """How a process ended."""

    detail: str
    killed: bool


class ProcessHandle(Protocol):
    """A process that has joined a loader.

    Attributes:
        number: the process's number in the supervisor's books.
        page: where it notes what it works on.
        channel: what it says, and is told.
        stacks: the pipe that faulthandler writes Python stacks to.
        started_at: seconds.
        ready: it had finished its imports when it joined.
        bases: by worker, the words of generators that it told last.
    """

    number: int
    page: Heartbeat
    channel: NonBlocking
    stacks: int
    started_at: float
    ready: bool
    bases: dict[int, Base]

    @property
    def pid(self) -> int:
        """0 while it is not known."""

    @property
    def pidfd(self) -> int:
        """Becomes readable when ``exited`` should be asked; -1 where the system has no such thing."""

    @property
    def phase(self) -> str:
        """How far its start is, for people."""

    def settle(self) -> None:
        """It spoke: know its pid."""

    @property
    def fell_back(self) -> bool:
        """True if it was to be on another host, where there was no room; known once it spoke."""

    @property
    def host(self) -> str:
        """The other host that it is on, for people; "" if it is on this one."""

    # ------------------------------------------------------------ its end

    def exited(self) -> bool:
        """True once the system has confirmed the exit, or the process works for this loader no more."""

    def kill(self) -> None:
        """SIGKILL; reaches a stopped process, too."""

    def release(self) -> None:
        """Be rid of it, now."""

    def turned_out(self) -> None:
        """It goes on without this loader; only a pool's says so."""

    def forfeited(self) -> bool:
        """True if it is lost, or about to be, through no doing of this loader."""

    def ask_to_end(self) -> None:
        """Let it end when it is done with what it has in work."""

    def how_it_ended(self) -> Exit:
        """The exit in words; only once ``exited``."""

    def memory_was_short(self) -> bool:
        """True if a SIGKILL looks like the kernel's: its counter moved, or there is little memory left."""

    def close(self) -> None:
        """Close our descriptors; the process must be gone, or abandoned."""

    # ------------------------------------------------------------ what it is at

    def state(self) -> str:
        """The kernel's letter for it."""

    def elsewhere(self, state: str) -> tuple[bool, float]:
        """Whether it works for another loader now, and when that progressed last."""

    def ask_for_stacks(self) -> None:
        """Let faulthandler write the Python stacks; works while the GIL is held, not while stopped."""

    def read_stacks(self) -> str:
        """What faulthandler has written so far, on request or in a crash."""

    def rest_of_stacks(self) -> str:
        """The same, once it has been begun, to its end: it is written piece by piece, within microseconds."""

    def stacks_soon(self) -> str:
        """The Python stacks, if they come within a moment."""


class ProcessTable(dict[int, ProcessHandle]):
    """Those that are there, by their numbers in the supervisor's books."""

    def __init__(self) -> None:
        super().__init__()
        self._pids: dict[int, int] = {INLINE: os.getpid()}  # of those that are gone
        self._poll = select.poll()
        self._sources: dict[int, tuple[Any, Callable[[Any], None]]] = {}

    def remove(self, process: ProcessHandle) -> None:
        """A process is gone, or abandoned."""
        self._pids[process.number] = process.pid
        del self[process.number]
        for descriptor in (process.channel.fileno(), process.pidfd, process.stacks):
            self.forget(descriptor)

    def pid_of(self, number: int) -> int | None:
        """The pid behind a number of the books, for people; None where it is not known."""
        process = self.get(number)
        return (process.pid if process is not None else self._pids.get(number)) or None

    def listen(self, descriptor: int, source: Any, hear: Callable[[Any], None]) -> None:
        """Have ``hear`` called with a process, or whatever the source is, when its descriptor can be read."""
        self._sources[descriptor] = (source, hear)
        self._poll.register(descriptor, select.POLLIN)

    def forget(self, descriptor: int) -> None:
        if self._sources.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def hear(self, seconds: float, wanted: Callable[[], bool]) -> None:
        """Hear what there is to hear, as long as it is wanted, waiting at most ``seconds`` for the first thing."""
        for descriptor, events in self._poll.poll(int(seconds * 1000) + (seconds > 0)):
            source = self._sources.get(descriptor)
            if source is None or not wanted():
                continue
            process, hear = source
            if events & select.POLLOUT and not process.channel.flush():
                self._poll.modify(descriptor, select.POLLIN)
            if events & ~select.POLLOUT:
                hear(process)

    def send(self, number: int, key: Any, message: tuple[Any, ...]) -> None:
        """Send a message, once for each key; what does not fit into the channel follows as soon as there is room."""
        process = self.get(number)
        if process is not None and process.channel.send(message, key) and process.channel.fileno() in self._sources:
            self._poll.modify(process.channel.fileno(), select.POLLIN | select.POLLOUT)
