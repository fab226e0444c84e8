"""One event for each batch, only where it is asked for (``SAFELOADER_TRACE``): what lanes and histograms need.

::

    process: taken, collated, finished ──message──▶ loaded() ─┐
    trainer: asks() ──────────────────────────────────────────┴─▶ got() ──▶ a line in a buffer ──▶ the file of events

Lines are written in blocks, at the end of a pass, before any other event, and when the program ends; a killed program
loses at most one block.
"""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, ClassVar

from safeloader.observe.happenings import Happening
from safeloader.observe.pulse import Pulse

if TYPE_CHECKING:
    from safeloader.observe.events import EventFile

__all__ = ["BatchGiven", "Tracer", "TracingPulse"]

_BLOCK = 256
"""Lines that are written together."""


@dataclass(frozen=True, slots=True)
class BatchGiven(Happening):
    """A batch was given to the consumer. Times in seconds since 1970; None where no process loaded it.

    Attributes:
        epoch: epoch, from 0.
        batch: its number, from 0.
        worker: its worker.
        process: pid of the process that loaded it.
        taken: the process took it up.
        collated: its samples were loaded, collating began.
        finished: it lay in shared memory.
        asked: the consumer asked for it.
        got: the consumer had it.
        nbytes: its bytes in shared memory.
    """

    event: ClassVar[str] = "batch"

    epoch: int
    batch: int
    worker: int | None
    process: int | None
    taken: float | None
    collated: float | None
    finished: float | None
    asked: float
    got: float
    nbytes: int


class Tracer:
    """Keeps what is known of each batch until it is given, and writes it down.

    Args:
        loader: name of the loader.
        file: where to.
    """

    def __init__(self, loader: str, file: EventFile) -> None:
        self._loader = loader
        self._file = file
        self._offset = time.time() - monotonic()
        self._pending: dict[int, tuple[int, int, int, int | None, float, float, float, int]] = {}
        self._due: int | None = None
        self._epoch = self._batch = 0
        self._block: list[Happening] = []
        weakref.finalize(self, _write, file, self._block)

    def loaded(
        self, task: int, epoch: int, batch: int, worker: int, process: int, taken: float, collated: float,
        finished: float, nbytes: int,
    ) -> None:  # fmt: skip
        """A process has loaded a batch. Times are monotonic seconds."""
        self._pending[task] = (epoch, batch, worker, process, taken, collated, finished, nbytes)

    def delivered(self, task: int) -> None:
        """It is the next that the consumer gets."""
        self._due = task

    def given(self, asked: float, got: float) -> None:
        """The consumer has it."""
        offset = self._offset
        found = None if self._due is None else self._pending.pop(self._due, None)
        if found is None:
            happening = BatchGiven(
                got + offset, self._loader, self._epoch, self._batch, None, None, None, None, None, asked + offset,
                got + offset, 0,
            )  # fmt: skip
        else:
            epoch, batch, worker, process, taken, collated, finished, nbytes = found
            self._epoch, self._batch = epoch, batch
            happening = BatchGiven(
                got + offset, self._loader, epoch, batch, worker, process, taken + offset, collated + offset,
                finished + offset, asked + offset, got + offset, nbytes,
            )  # fmt: skip
        self._due = None
        self._batch += 1
        self._block.append(happening)
        if len(self._block) >= _BLOCK:
            self.flush()

    def pass_ended(self) -> None:
        """The consumer's pass is over."""
        self._pending.clear()
        self._epoch, self._batch = self._epoch + 1, 0
        self.flush()

    def flush(self) -> None:
        """Write what is kept."""
        _write(self._file, self._block)


def _write(file: EventFile, block: list[Happening]) -> None:
    if block:
        taken, block[:] = block[:], []
        file.write_all(taken)


class TracingPulse(Pulse):
    """A pulse that tells a tracer of each batch."""

    __slots__ = ("_asked_at", "_tracer")

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer
        self._asked_at = 0.0

    def asks(self) -> None:
        """The consumer asks for a batch."""
        super().asks()
        self._asked_at = self.since

    def got(self) -> float:
        """It has one."""
        waited = super().got()
        self._tracer.given(self._asked_at, self.since)
        return waited

    def ended(self) -> None:
        """There is none left, or it ended with an error."""
        super().ended()
        self._tracer.pass_ended()
