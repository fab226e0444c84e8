"""A process that is an interpreter of its own from the first instruction on."""

from __future__ import annotations

import contextlib
import os
import signal

from .. import system
from . import boot, turnstile
from .lifeline import lifeline

__all__ = ["Spawned"]


class Spawned:
    """A child of the trainer.

    Args:
        channel: the process's end; stays open here.
        stacks: where its Python stacks are written; stays open here.
        modules: what it imports before it says that it is ready.

    Raises:
        OSError: the system cannot start another process.
    """

    why_lost = ""

    def __init__(self, channel: int, stacks: int, modules: tuple[str, ...]) -> None:
        turns, place = turnstile.place()
        given = channel, stacks, lifeline(), turns
        self._popen = boot.launch("host", [*given], *given, place, modules)
        self.pidfd = system.pidfd(self._popen.pid)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it lives."""
        return self._popen.poll()

    def settle(self) -> None:
        """Nothing is open."""

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def close(self) -> None:
        """It is gone, or abandoned."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self._popen.returncode is None:
            self._popen.returncode = -signal.SIGKILL  # abandoned: keep Popen from waiting or warning
