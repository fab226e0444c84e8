"""The processes of a loader, and the descriptors that it listens to."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Any

from safeloader.core.messages import INLINE
from safeloader.runtime.trainer.process_handle import ProcessHandle

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.runtime.trainer.journal import Key

__all__ = ["ProcessTable"]


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

    def send(self, number: int, key: Key, message: tuple[Any, ...]) -> None:
        """Send a message, once for each key; what does not fit into the channel follows as soon as there is room."""
        process = self.get(number)
        if process is not None and process.channel.send(message, key) and process.channel.fileno() in self._sources:
            self._poll.modify(process.channel.fileno(), select.POLLIN | select.POLLOUT)
