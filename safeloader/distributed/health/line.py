"""A line to the store: one thread, so that nobody else ever waits for the store.

A call of the store has no time limit that holds: a host that is frozen, or a link that is cut in the middle of an
answer, blocks it for as long as TCP keeps hoping. Whoever has a line gives it one job at a time, looks whether it is
done, and leaves a line that has hung with its thread behind for a new one.
"""

from __future__ import annotations

import queue
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Line", "Outcome"]


class Outcome(NamedTuple):
    """How a job ended: with a value, or an error."""

    value: Any = None
    error: Exception | None = None


class Line:
    """One thread, begun with the first job.

    Args:
        ended: called, in that thread, when a job has ended.
    """

    def __init__(self, ended: Callable[[], object]) -> None:
        self._ended = ended
        self._jobs: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._since = 0.0
        self.busy = False

    def begin(self, job: Callable[[], Any]) -> None:
        """Begin a job. The line must not be busy."""
        self.busy, self._since = True, monotonic()
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="safeloader-board", daemon=True)
            self._thread.start()

    def outcome(self, wait: float = 0.0) -> Outcome | None:
        """How the job ended, told once; None while it lasts, or if there is none."""
        if not self.busy:
            return None
        try:
            ended = self._outcomes.get(timeout=wait) if wait else self._outcomes.get_nowait()
        except queue.Empty:
            return None
        self.busy = False
        return ended

    @property
    def seconds(self) -> float:
        """For how long the job has lasted."""
        return monotonic() - self._since if self.busy else 0.0

    @property
    def alive(self) -> bool:
        """Its thread has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """No job will come; a thread that hangs in one ends with it, or with the program."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                outcome = Outcome(job())
            except Exception as error:  # the store's errors have no common base
                outcome = Outcome(error=error)
            self._outcomes.put(outcome)
            self._ended()
