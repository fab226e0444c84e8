"""A process that is an interpreter of its own from the first instruction on."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from safeloader.runtime import system
from safeloader.runtime.start import bootstrap, import_slots, phases
from safeloader.runtime.start.parent_watch import lifeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.runtime.start.surroundings import Surroundings

__all__ = ["LOST", "Spawned"]

LOST = 1 << 16
"""In place of an exit code: nobody knows it any more."""


class Spawned:
    """A child of the trainer.

    Args:
        given: what it takes over from the trainer.
        channel: the process's end; stays open here.
        stacks: where its Python stacks are written; stays open here.
        modules: what it imports before it says that it is ready.
        program: the module whose ``main`` it runs.
        further: descriptors that this main function is given besides.

    Attributes:
        row: where it tells how far its start is.

    Raises:
        OSError: the system cannot start another process.
    """

    why_lost = "how is not known, as the program ignores SIGCHLD"
    fell_back = False
    host = ""

    def __init__(
        self,
        given: Surroundings,
        channel: int,
        stacks: int,
        modules: tuple[str, ...],
        program: str = "runtime.child.process_main",
        further: Sequence[int] = (),
    ) -> None:
        turns, place = import_slots.place()
        starts, self.row = phases.row()
        descriptors = [channel, stacks, lifeline(), turns, starts, *further]
        self._popen = bootstrap.launch(program, given, descriptors, place, self.row, modules)
        self.pidfd = system.pidfd(self._popen.pid)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it lives."""
        code = self._popen.poll()
        if code == 0 and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            return LOST  # the kernel reaped it, and told nobody how it ended
        return code

    def settle(self) -> None:
        """Nothing is open."""

    @property
    def phase(self) -> str:
        """How far its start is, for people."""
        return phases.WORDS[phases.read(self.row)]

    def send_signal(self, number: int) -> None:
        if number == system.STACK_SIGNAL and phases.read(self.row) == phases.ASKED:
            return  # it would end it: nobody there knows what to do with it
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def forfeited(self) -> bool:
        """It is lost alone."""
        return False

    def close(self) -> None:
        """It is gone, or abandoned."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self._popen.returncode is None:
            self._popen.returncode = -signal.SIGKILL  # abandoned: keep Popen from waiting or warning
