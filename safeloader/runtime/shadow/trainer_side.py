"""Shadows from the trainer's side: asked for successors, and let go of."""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Any

from safeloader.core import messages as m
from safeloader.runtime import system
from safeloader.runtime.start.forked import Forked
from safeloader.runtime.start.launcher import LOST
from safeloader.runtime.trainer.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.runtime.memory.arena import Arena
    from safeloader.runtime.trainer.process_handle import ProcessTable

__all__ = ["ShadowProcesses"]


class ShadowProcess:
    """One: where it listens, and its pidfd."""

    def __init__(self, number: int, pid: int, control: int, pidfd: int) -> None:
        self.number = number
        self.pid = pid
        self.control = socket.socket(fileno=control)
        self.pidfd = pidfd
        self.made: list[Successor] = []

    @property
    def is_parent(self) -> bool:
        """True while something that it made is there, whose end it alone is told of."""
        return any(successor.returncode is None for successor in self.made)

    def close(self) -> None:
        """Kill it; what it made goes on."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.let_go()

    def let_go(self) -> None:
        self.control.close()
        os.close(self.pidfd)


class ShadowProcesses:
    """One driver's.

    Args:
        processes: what listens to them.
        do_and_tell: does something to its end, and tells what came of it.
        note: told of each, with the bytes that the one before it had to itself.
    """

    def __init__(
        self,
        processes: ProcessTable,
        do_and_tell: Callable[[Callable[[], m.Event]], None],
        note: Callable[[int], None],
    ) -> None:
        self._processes = processes
        self._do_and_tell = do_and_tell
        self._note = note
        self._shadows: dict[int, ShadowProcess] = {}
        self._taken = 0

    @property
    def pids(self) -> list[int]:
        return [shadow.pid for shadow in self._shadows.values()]

    def taken(self, process: int, pid: int, private: int, control: int, pidfd: int) -> m.Event:
        """A process says that it has copied itself; the copy's descriptors came with that."""
        self._taken += 1
        shadow = self._shadows[self._taken] = ShadowProcess(self._taken, pid, control, pidfd)
        self._processes.listen(pidfd, shadow, self._ended)
        self._note(private)
        return m.ShadowTaken(process, shadow.number)

    def _ended(self, shadow: ShadowProcess) -> None:
        self._do_and_tell(lambda: self._lost(shadow))

    def _lost(self, shadow: ShadowProcess) -> m.Event:
        self.drop(shadow.number)
        return m.ShadowLost(shadow.number)

    def drop(self, number: int) -> None:
        """End one, unless it is gone. A parent ends itself, after its children: it is told of how they end."""
        shadow = self._shadows.pop(number, None)
        if shadow is not None:
            self._processes.forget(shadow.pidfd)
            if shadow.is_parent:
                shadow.let_go()
            else:
                shadow.close()

    def leave(self) -> None:
        """This process is a fork of the trainer: they are the parent's."""
        for shadow in self._shadows.values():
            shadow.let_go()

    def drop_all(self) -> None:
        for number in list(self._shadows):
            self.drop(number)

    def make(self, number: int, process: int, arena: Arena) -> Process:
        """Have a shadow make a process.

        Raises:
            OSError: it is gone.
        """
        shadow = self._shadows.get(number)
        if shadow is None:
            raise ProcessLookupError("its shadow is gone")
        made = Process(_Making(shadow, process), None)  # type: ignore[arg-type]
        made.go_on(process, arena)
        return made


class _Making:
    """What a process is told of how it comes to be, in place of a ``Way``."""

    def __init__(self, shadow: ShadowProcess, number: int) -> None:
        self._shadow = shadow
        self._number = number

    def begin(self, given: Any, channel: int, stacks: int, modules: tuple[str, ...]) -> Successor:
        return Successor(self._shadow, self._number, channel, stacks)


class Successor(Forked):
    """A process that a shadow was asked to make.

    Args:
        shadow: its parent.
        number: what it is to be in the supervisor's books.
        channel: its end.
        stacks: where its Python stacks are written.
    """

    def __init__(self, shadow: ShadowProcess, number: int, channel: int, stacks: int) -> None:
        self._shadow: ShadowProcess | None = shadow
        self._number = number
        shadow.made.append(self)
        super().__init__(None, None, channel, stacks, ())  # type: ignore[arg-type]
        self.why_lost = "how is not known, as its shadow was gone"

    def _begin(self) -> None:
        assert self._shadow is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                request = marshal.dumps((self._number,))
                self._shadow.control.setblocking(False)
                socket.send_fds(self._shadow.control, [request], [theirs.fileno(), *self._ends])
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._link = ours
        self._watch.register(ours, select.EPOLLIN)
        self._let_go_of_ends()

    @property
    def phase(self) -> str:
        return "its shadow is to make it"

    def send_signal(self, number: int) -> None:
        if self._exit >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._exit, number)
        else:
            super().send_signal(number)

    def _born(self, pidfd: int, pid: int, failed: dict[str, str] | None = None) -> None:
        self.pid, self._exit = pid, pidfd
        self._watch.register(pidfd, select.EPOLLIN)

    def _refused(self, why: str, modules: Any, files: Any) -> None:
        self._drop_link()
        self.returncode, self.why_lost = LOST, why

    def _hung_up(self) -> None:
        self._drop_link()
        if not self.pid and self.returncode is None:
            self.returncode = LOST

    def _await_status(self) -> None:
        super()._await_status()
        if self.returncode == LOST:
            self.returncode = system.reap(self._exit, LOST)
