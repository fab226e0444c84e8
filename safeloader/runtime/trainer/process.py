"""One operating-system process, from the trainer's side: started, listened to, ended, and its end explained."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from safeloader import clock
from safeloader.runtime import protocol as p
from safeloader.runtime import system
from safeloader.runtime.channel import NonBlocking
from safeloader.runtime.child.heartbeat import Heartbeat
from safeloader.runtime.start.launcher import LOST

if TYPE_CHECKING:
    from safeloader.runtime.memory.arena import Arena
    from safeloader.runtime.payload import Payload
    from safeloader.runtime.start.launcher import Launcher
    from safeloader.runtime.start.surroundings import Surroundings

__all__ = ["Exit", "Process"]

_STACK_LIMIT = 1 << 20
_MOMENT = 100  # milliseconds
_LITTLE_MEMORY = 0.05  # share of all memory; a SIGKILL below it is taken for the kernel's own


class Exit(NamedTuple):
    """How a process ended."""

    detail: str
    killed: bool


class Process:
    """A process that runs ``safeloader.runtime.child.process_main``. It serves nobody until it joins.

    Args:
        way: how it comes to be.
        given: what it takes over from the trainer.
        modules: what it imports before it says that it is ready.

    Raises:
        OSError: the system cannot start another process.
    """

    ready = False  # one that was just started is not; one of a pool may be
    number: int
    page: Heartbeat
    _joined = False

    def __init__(self, way: Launcher, given: Surroundings, modules: tuple[str, ...] = ()) -> None:
        self.started_at = clock.now()
        self._given = given
        self._oom_kills = system.oom_kills()
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            stack_reader, stack_writer = os.pipe()
            undo.callback(os.close, stack_reader)
            try:
                self._body = way.begin(given, theirs.fileno(), stack_writer, modules)
            finally:
                theirs.close()
                os.close(stack_writer)
            undo.pop_all()
        self.channel = NonBlocking(ours)
        self.stacks = stack_reader
        os.set_blocking(stack_reader, False)
        self._stack_text = b""

    def join(self, number: int, spec: Payload, arena: Arena) -> None:
        """Let it belong to a loader from now on, as number so and so of the supervisor's books."""
        self.number = number
        self.page, self._joined = Heartbeat(arena.page(number)), True
        file, *shared = spec.descriptors
        descriptors = [file, arena.descriptor, *shared]
        given, facts = spec.surroundings, None
        if given is not self._given and given.facts != self._given.facts:  # it was started before iteration began
            facts = tuple(given.facts)
            if given.folder >= 0:
                descriptors.insert(2, given.folder)
        message = (p.JOIN, number, spec.config, facts, facts is not None and given.folder >= 0, len(descriptors))
        try:
            self.channel.send_descriptors(message, (p.MORE,), descriptors)
        except OSError:  # if it is not gone already, it is of no use
            self.kill()

    def go_on(self, number: int, arena: Arena) -> None:
        """It has joined already: a shadow made it, as this number of the supervisor's books."""
        self.number = number
        self.page, self._joined = Heartbeat(arena.page(number)), True

    @property
    def pid(self) -> int:
        """0 while it is not known."""
        return self._body.pid

    @property
    def phase(self) -> str:
        """How far its start is, for people."""
        return self._body.phase

    def settle(self) -> None:
        """It spoke: know its pid."""
        self._body.settle()

    @property
    def pidfd(self) -> int:
        """Becomes readable when ``exited`` should be asked; -1 where the system has no such thing."""
        return self._body.pidfd

    # ------------------------------------------------------------ its end

    def exited(self) -> bool:
        """True once the system has confirmed the exit (and the process is reaped)."""
        return self._body.poll() is not None

    def kill(self) -> None:
        """SIGKILL; reaches a stopped process, too."""
        if not self.exited():
            self._body.send_signal(signal.SIGKILL)

    def release(self) -> None:
        """Be rid of it, now."""
        self.kill()

    def turned_out(self) -> None:
        """It goes on without this loader; only a pool's says so."""

    def elsewhere(self, state: str) -> tuple[bool, float]:
        """Whether it works for another loader now, and when that progressed last."""
        return False, 0.0

    def forfeited(self) -> bool:
        """True if it is lost, or about to be, through another loader's doing."""
        return False

    def ask_to_end(self) -> None:
        """Close our side of the channel: the process ends when it is done with what it has in work."""
        if self._joined:
            self.page.leave()
        self.channel.shut()

    def ask_for_stacks(self) -> None:
        """Let faulthandler write the Python stacks; works while the GIL is held, not while stopped."""
        if not self.exited():
            self._body.send_signal(system.STACK_SIGNAL)

    def read_stacks(self) -> str:
        """What faulthandler has written so far, on request or in a crash."""
        with contextlib.suppress(BlockingIOError, OSError):
            while len(self._stack_text) < _STACK_LIMIT:
                data = os.read(self.stacks, 1 << 16)
                if not data:
                    break
                self._stack_text += data
        return self._stack_text.decode(errors="replace").strip()

    def stacks_soon(self) -> str:
        """The Python stacks, if they come within a moment."""
        self.ask_for_stacks()
        poller = select.poll()
        poller.register(self.stacks, select.POLLIN)
        before, text = "", self.read_stacks() if poller.poll(_MOMENT) else ""
        while text != before:  # they are written piece by piece, within microseconds
            time.sleep(0.002)
            before, text = text, self.read_stacks()
        self._stack_text = b""  # what is asked for later is another matter
        return text

    def state(self) -> str:
        return system.process_state(self.pid)

    def how_it_ended(self) -> Exit:
        """The exit in words; only once ``exited``."""
        code = self._body.poll()
        if code == LOST:
            return Exit(self._body.why_lost, killed=True)
        if code is None or code >= 0:
            return Exit(f"exit code {code}", killed=False)
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return Exit(name, killed=name == "SIGKILL")

    def memory_was_short(self) -> bool:
        """True if a SIGKILL looks like the kernel's: its counter moved, or there is little memory left."""
        if not self.how_it_ended().killed:
            return False
        return system.oom_kills() > self._oom_kills or system.share_of_memory_left() < _LITTLE_MEMORY

    def close(self) -> None:
        """Close our descriptors; the process must be gone, or abandoned."""
        self.channel.close()
        self._body.close()
        if self.stacks >= 0:
            os.close(self.stacks)
            self.stacks = -1
