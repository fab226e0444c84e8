"""Processes that were started before anybody needs them: when the loader was built (``prestart=True``).

They have imported what every process needs, and wait for a loader to join. The dataset is serialised when iteration
begins, as torch does it: what was changed in it until then is in its copies.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from typing import TYPE_CHECKING

from safeloader.runtime.trainer.process import Process

if TYPE_CHECKING:
    from safeloader.runtime.start.launcher import Launcher
    from safeloader.runtime.start.surroundings import Surroundings

__all__ = ["Prestarted"]

_END = 5.0  # seconds for killed processes to be gone


class Prestarted:
    """Starts processes, and gives them away one by one.

    Args:
        launcher: how they come to be.
        given: what they take over from the trainer.
        count: how many.
        modules: what they import before they say that they are ready.
    """

    def __init__(self, launcher: Launcher, given: Surroundings, count: int, modules: tuple[str, ...]) -> None:
        self._owner = os.getpid()
        self.processes: deque[Process] = deque()
        with contextlib.suppress(OSError):  # those that are missing are started when they are needed
            for _ in range(count):
                self.processes.append(Process(launcher, given, modules))

    def take(self) -> Process | None:
        """The one that was started first, dead or alive: whoever takes it will notice. None if all are given away."""
        if not self.processes or os.getpid() != self._owner:
            return None
        process = self.processes.popleft()
        if process.state() in "Tt":  # it would never be ready
            process.kill()
        return process

    def close(self) -> None:
        """End those that nobody took."""
        if os.getpid() != self._owner:
            return  # in a fork of the trainer they are not its processes
        for process in self.processes:
            process.kill()
        end = time.monotonic() + _END
        while self.processes and time.monotonic() < end:
            process = self.processes[0]
            if process.exited():
                process.close()
                self.processes.popleft()
            else:
                _wait(process.pidfd)
        while self.processes:
            self.processes.popleft().close()


def _wait(pidfd: int) -> None:
    """Until it may be gone."""
    if pidfd < 0:
        time.sleep(0.005)
        return
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.poll(100)
