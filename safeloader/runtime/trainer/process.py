"""One operating-system process, from the trainer's side: started, listened to, ended, and its end explained."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING

from safeloader import clock
from safeloader.runtime import system
from safeloader.runtime.channel import NonBlocking
from safeloader.runtime.child.heartbeat import Heartbeat
from safeloader.runtime.protocol import Join
from safeloader.runtime.start.launcher import LOST
from safeloader.runtime.trainer.process_handle import Exit

if TYPE_CHECKING:
    from safeloader.runtime.child.states import Base
    from safeloader.runtime.memory.arena import Arena
    from safeloader.runtime.payload import Payload
    from safeloader.runtime.start.launcher import Starter
    from safeloader.runtime.start.surroundings import Surroundings

__all__ = ["Process"]

_STACK_LIMIT = 1 << 20
_MOMENT = 100  # milliseconds
_NO_PROCESSOR = 0.5  # seconds; so long a process may wait for one while it writes down its stacks
_LITTLE_MEMORY = 0.05  # share of all memory; a SIGKILL below it is taken for the kernel's own


class Process:
    """A process that runs ``safeloader.runtime.child.process_main``. It serves nobody until it joins; then it is
    the ``ProcessHandle`` of one loader.

    Args:
        launcher: how it comes to be.
        given: what it takes over from the trainer.
        modules: what it imports before it says that it is ready.

    Raises:
        OSError: the system cannot start another process.
    """

    ready = False  # one that was just started is not; one of a pool may be
    number: int
    page: Heartbeat
    _joined = False

    def __init__(self, launcher: Starter, given: Surroundings, modules: tuple[str, ...] = ()) -> None:
        self.started_at = clock.now()
        self.bases: dict[int, Base] = {}
        self._given = given
        self._oom_kills = system.oom_kills()
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            stack_reader, stack_writer = os.pipe()
            undo.callback(os.close, stack_reader)
            try:
                self._body = launcher.begin(given, theirs.fileno(), stack_writer, modules)
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
        message = Join(number, spec.config, facts, facts is not None and given.folder >= 0, len(descriptors))
        try:
            self.channel.send_descriptors(message, descriptors)
        except OSError:  # if it is not gone already, it is of no use
            self.kill()

    def go_on(self, number: int, arena: Arena) -> None:
        """It has joined already: a shadow made it, as this number of the supervisor's books."""
        self.number = number
        self.page, self._joined = Heartbeat(arena.page(number)), True

    @property
    def pid(self) -> int:
        return self._body.pid

    @property
    def phase(self) -> str:
        return self._body.phase

    def settle(self) -> None:
        self._body.settle()

    @property
    def fell_back(self) -> bool:
        return self._body.fell_back

    @property
    def host(self) -> str:
        return self._body.host

    @property
    def pidfd(self) -> int:
        return self._body.pidfd

    # ------------------------------------------------------------ its end

    def exited(self) -> bool:
        """The process is reaped then, too."""
        return self._body.poll() is not None

    def kill(self) -> None:
        if not self.exited():
            self._body.send_signal(signal.SIGKILL)

    def release(self) -> None:
        self.kill()

    def turned_out(self) -> None:
        """It never says so."""

    def elsewhere(self, state: str) -> tuple[bool, float]:
        return False, 0.0

    def forfeited(self) -> bool:
        return self._body.forfeited()

    def ask_to_end(self) -> None:
        """Close our side of the channel."""
        if self._joined:
            self.page.leave()
        self.channel.shut()

    def ask_for_stacks(self) -> None:
        if not self.exited():
            self._body.send_signal(system.STACK_SIGNAL)

    def read_stacks(self) -> str:
        with contextlib.suppress(BlockingIOError, OSError):
            while len(self._stack_text) < _STACK_LIMIT:
                data = os.read(self.stacks, 1 << 16)
                if not data:
                    break
                self._stack_text += data
        return self._stack_text.decode(errors="replace").strip()

    def stacks_soon(self) -> str:
        self.ask_for_stacks()
        poller = select.poll()
        poller.register(self.stacks, select.POLLIN)
        text = self.rest_of_stacks() if poller.poll(_MOMENT) else ""
        self._stack_text = b""  # what is asked for later is another matter
        return text

    def rest_of_stacks(self) -> str:
        begun, before, text = time.monotonic(), "", self.read_stacks()
        while text != before or not (_is_whole(self._stack_text) or time.monotonic() - begun > _NO_PROCESSOR):
            time.sleep(0.002)
            before, text = text, self.read_stacks()
        return text

    def state(self) -> str:
        own = system.process_state(self.pid)
        return own if own in "Tt" or not self._joined else self.page.state or own

    def how_it_ended(self) -> Exit:
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
        if not self.how_it_ended().killed:
            return False
        return system.oom_kills() > self._oom_kills or system.share_of_memory_left() < _LITTLE_MEMORY

    def close(self) -> None:
        self.channel.close()
        self._body.close()
        if self.stacks >= 0:
            os.close(self.stacks)
            self.stacks = -1


def _is_whole(stacks: bytes) -> bool:
    """True if the last thread that faulthandler names has a line of its own below it."""
    return stacks.endswith(b"\n") and b"\n  " in stacks.rpartition(b"hread 0x")[2]
