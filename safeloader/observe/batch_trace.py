"""One event for each batch, only where it is asked for (``SAFELOADER_TRACE``): what lanes and histograms need.

::

    process: taken, collated, finished ──message──▶ loaded() ─┐
    trainer: asks() ──────────────────────────────────────────┴─▶ got() ──▶ a line in a buffer ──▶ the file of events

Lines are written in blocks, at the end of a pass, before any other event, and when the program ends; a killed program
loses at most one block.
"""

from __future__ import annotations

import json
import os
import time
import weakref
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, ClassVar

from safeloader.observe.event_file import as_record
from safeloader.observe.events import Happening
from safeloader.observe.timings import Pulse

if TYPE_CHECKING:
    from safeloader.observe.event_file import EventFile

__all__ = ["BatchGiven", "Tracer", "TracingPulse"]

_BLOCK = 256
"""Lines that are written together."""
_Given = tuple[
    int, int, int | None, int | None, float | None, float | None, float | None, int, float, float
]  # epoch, batch, worker, process, taken, collated, finished, nbytes, asked, got: monotonic seconds
_NOT_KNOWN = (None, None, None, None, None, 0)


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
        self._block: list[_Given] = []
        _tracers.add(self)
        weakref.finalize(self, _write, file, loader, self._offset, self._block)

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
        found = None if self._due is None else self._pending.pop(self._due, None)
        if found is not None:
            self._epoch, self._batch = found[:2]
        self._block.append((*(found or (self._epoch, self._batch, *_NOT_KNOWN)), asked, got))
        self._due = None
        self._batch += 1
        if len(self._block) >= _BLOCK:
            self.flush()

    def pass_ended(self) -> None:
        """The consumer's pass is over."""
        self._pending.clear()
        self._epoch, self._batch = self._epoch + 1, 0
        self.flush()

    def leave(self) -> None:
        """This is a fork of the program: what is kept is the parent's to write."""
        self._pending.clear()
        self._block.clear()

    def flush(self) -> None:
        """Write what is kept."""
        _write(self._file, self._loader, self._offset, self._block)


_tracers: weakref.WeakSet[Tracer] = weakref.WeakSet()


def _begin_anew() -> None:
    for tracer in list(_tracers):
        tracer.leave()


os.register_at_fork(after_in_child=_begin_anew)


def _write(file: EventFile, loader: str, offset: float, block: list[_Given]) -> None:
    if block:
        taken, block[:] = block[:], []
        file.append(loader, _lines(loader, offset, taken))


def _lines(loader: str, offset: float, block: list[_Given]) -> list[str]:
    """Lines as of `BatchGiven`, made by hand: they are one a batch, and a tenth as dear so."""
    record = as_record(BatchGiven(0.0, loader, 0, 0, None, None, None, None, None, 0.0, 0.0, 0))
    text = json.dumps(record, separators=(",", ":"))
    head, _, rest = text.partition('"t":0.0,')
    tail = rest.rpartition('"epoch":')[0]
    lines = []
    for epoch, batch, worker, process, taken, collated, finished, nbytes, asked, got in block:
        times = (
            '"taken":null,"collated":null,"finished":null'
            if taken is None or collated is None or finished is None
            else f'"taken":{taken + offset:.6f},"collated":{collated + offset:.6f},"finished":{finished + offset:.6f}'
        )
        lines.append(
            f'{head}"t":{got + offset:.3f},{tail}"epoch":{epoch},"batch":{batch},"worker":{_or_null(worker)},'
            f'"process":{_or_null(process)},{times},"asked":{asked + offset:.6f},"got":{got + offset:.6f},'
            f'"nbytes":{nbytes}}}\n'
        )
    return lines


def _or_null(number: int | None) -> int | str:
    return "null" if number is None else number


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
