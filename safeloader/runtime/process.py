"""One operating-system process, from the trainer's side: started, listened to, ended, and its end explained."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from . import system
from .channel import NonBlocking
from .page import Page

if TYPE_CHECKING:
    from .arena import Arena
    from .spec import Spec

__all__ = ["Exit", "Process", "lifeline"]

_BOOT = (
    "import os, struct, marshal, sys; f = {spec}; "
    "sys.path[:], sys.argv[:], _ = marshal.loads(os.pread(f, struct.unpack('<I', os.pread(f, 4, 0))[0], 12)); "
    "from safeloader.runtime.host import main; main({channel}, f, {arena}, {stacks}, {lifeline}, {number})"
)
_STACK_LIMIT = 1 << 20
_LITTLE_MEMORY = 0.05  # share of all memory; a SIGKILL below it is taken for the kernel's own


class Exit(NamedTuple):
    """How a process ended."""

    detail: str
    killed: bool


class Process:
    """A fresh interpreter that runs ``safeloader.runtime.host.main``.

    Args:
        number: its number in the supervisor's books.
        spec: what it is given.
        arena: the trainer's arena.

    Raises:
        OSError: the system cannot start another process.
    """

    ready = False  # one that was just started is not; one of a pool may be

    def __init__(self, number: int, spec: Spec, arena: Arena) -> None:
        self.number = number
        self.page = Page(arena.page(number))
        self.started_at = time.monotonic()
        self._oom_kills = system.oom_kills()
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            stack_reader, stack_writer = os.pipe()
            undo.callback(os.close, stack_reader)
            try:
                self._popen = self._start(spec, arena, theirs.fileno(), stack_writer)
            finally:
                theirs.close()
                os.close(stack_writer)
            undo.pop_all()
        self.channel = NonBlocking(ours)
        self.stacks = stack_reader
        os.set_blocking(stack_reader, False)
        self._stack_text = b""
        self.pidfd = system.pidfd(self._popen.pid)

    def _start(self, spec: Spec, arena: Arena, channel: int, stacks: int) -> subprocess.Popen[bytes]:
        code = _BOOT.format(
            spec=spec.descriptor, channel=channel, arena=arena.descriptor, stacks=stacks, lifeline=lifeline(),
            number=self.number,
        )  # fmt: skip
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        return subprocess.Popen(
            [sys.executable, *flags, "-c", code],
            stdin=subprocess.DEVNULL,
            pass_fds=[channel, arena.descriptor, stacks, lifeline(), *spec.inherited],
            start_new_session=True,  # a signal to the trainer's group is not for us
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    # ------------------------------------------------------------ its end

    def exited(self) -> bool:
        """True once the system has confirmed the exit (and the process is reaped)."""
        return self._popen.poll() is not None

    def kill(self) -> None:
        """SIGKILL; reaches a stopped process, too."""
        if not self.exited():
            with contextlib.suppress(ProcessLookupError):
                self._popen.send_signal(signal.SIGKILL)

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
        """Close our side of the channel: the process ends when it has done what it has."""
        self.channel.shut()

    def ask_for_stacks(self) -> None:
        """Let faulthandler write the Python stacks; works while the GIL is held, not while stopped."""
        if not self.exited():
            with contextlib.suppress(ProcessLookupError):
                self._popen.send_signal(system.STACK_SIGNAL)

    def read_stacks(self) -> str:
        """What faulthandler has written so far, on request or in a crash."""
        with contextlib.suppress(BlockingIOError, OSError):
            while len(self._stack_text) < _STACK_LIMIT:
                data = os.read(self.stacks, 1 << 16)
                if not data:
                    break
                self._stack_text += data
        return self._stack_text.decode(errors="replace").strip()

    def state(self) -> str:
        return system.process_state(self.pid)

    def how_it_ended(self) -> Exit:
        """The exit in words; only once ``exited``."""
        code = self._popen.returncode
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
        for descriptor in (self.stacks, self.pidfd):
            if descriptor >= 0:
                os.close(descriptor)
        self.stacks = self.pidfd = -1
        if self._popen.returncode is None:
            self._popen.returncode = -signal.SIGKILL  # abandoned: keep Popen from waiting or warning


# ---------------------------------------------------------------- the lifeline

_pipe: tuple[int, int] | None = None


def lifeline() -> int:
    """The reading end of a pipe whose writing end only this trainer holds: it hangs up when the trainer is gone."""
    global _pipe  # noqa: PLW0603 - one per trainer, for its whole life
    if _pipe is None:
        _pipe = os.pipe()
    return _pipe[0]


def _forget_lifeline() -> None:
    """A fork of the trainer is not the trainer: it must not keep the processes alive."""
    global _pipe  # noqa: PLW0603
    if _pipe is not None:
        os.close(_pipe[1])
        os.close(_pipe[0])
        _pipe = None


os.register_at_fork(after_in_child=_forget_lifeline)
