"""The one object the driver tells what happens. It counts, keeps the rows, writes the event, logs the line.

Its methods are called a few times a fault and never per batch. None of them raises: a run must not end
because somebody could not be told about it.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from safeloader import codes
from safeloader.observe import events as h
from safeloader.observe import log
from safeloader.observe.batch_trace import Tracer, TracingPulse
from safeloader.observe.event_file import EventFile
from safeloader.observe.report import Report
from safeloader.observe.timings import Lost, Pulse, Timings, Waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from safeloader.config import Settings
    from safeloader.observe.stall_place import Stall

__all__ = ["MOST_FAULTS", "Recorder", "keep_recorders"]

MOST_FAULTS = 1000
"""Faults kept whole; of older ones only the counts stay, and their lines in the file of events."""

_kept: list[list[Recorder]] = []


def keep_recorders() -> list[Recorder]:
    """A list to which every recorder made from now on is added, so that it outlives its loader."""
    kept: list[Recorder] = []
    _kept.append(kept)
    return kept


class Recorder:
    """Records what happens to one loader.

    The driver counts delivered batches itself: ``recorder.batches += 1`` is all that a batch costs here.

    Attributes:
        batches: Batches delivered.
        workers: Number of workers.
        rung: Number of processes that policy wants now; `fell_back` and `recovered` keep it.
        way: How batches are made now, in words, for a loader that has several ways; else "".
        pulse: Where the loader's consumer is; the iterators keep it.
        tracer: Who writes down each batch; None unless that is asked for.
        uncovered: What is not restored if a process is lost, for people.
        timings: What the stages of batches take; the driver and the iterators keep it.

    Args:
        name: Name of the loader.
        settings: Settings in effect; `log_level` and `events` are used.
        workers: Number of workers.
        clock: Seconds since 1970.
    """

    def __init__(
        self, name: str, settings: Settings, *, workers: int = 0, clock: Callable[[], float] = time.time
    ) -> None:
        self.name = name
        self.batches = 0
        self.workers = workers
        self.rung = workers if settings.max_processes is None else min(workers, settings.max_processes)
        self.way = ""
        self._clock = clock
        self._faults: dict[int, h.Fault] = {}
        self._causes: Counter[str] = Counter()
        self._lost_workers: set[int | None] = set()
        self._skipped: list[tuple[int, int, Any]] = []
        self._code_changed: list[str] = []
        self._shadows = self._shadow_memory = 0
        self._unshadowed = ""
        self.uncovered = ""
        self._differences: list[str] = []
        self._reopened: list[str] = []
        self._epochs = self._restarts = self._fallbacks = self._recoveries = self._slow = 0
        self._lost = Lost()
        self._replays: list[h.Replayed] = []
        self._divergences = 0
        self._closed = self._told_own_fault = False
        self._owner = os.getpid()
        self._waits_before = Waits()  # of the epochs before
        self._events = EventFile(settings.events) if settings.events else None
        self.tracer = Tracer(name, self._events) if settings.trace and self._events else None
        self.pulse = Pulse() if self.tracer is None else TracingPulse(self.tracer)
        self.timings = Timings()
        for kept in _kept:
            kept.append(self)
        with self._unharmed():
            log.configure(settings)
            if settings.trace and self._events is None:
                codes.log_warning(
                    "SL113",
                    "SAFELOADER_TRACE writes to the file of events: set SAFELOADER_EVENTS, too",
                )

    def fault(self, fault: h.Fault) -> int:
        """Record a fault.

        Returns:
            Its number, from 0, for `resumed`.
        """
        number = self._causes.total()
        self._causes[fault.cause] += 1
        with self._unharmed():
            fault = replace(fault, time=fault.time or self._clock(), loader=fault.loader or self.name)
            self._faults[number] = fault
            self._faults.pop(number - MOST_FAULTS, None)
            self._lost.add(time.monotonic(), fault.seconds_lost or 0.0)
            if fault.action == "handed over":
                self._restarts += 1
            elif fault.cause in h.LOSSES:
                self._lost_workers.add(fault.worker)
            self._tell(fault)
        return number

    def resumed(self, fault_index: int, seconds_lost: float) -> None:
        """The batch that a fault held up is there, so many seconds after the fault."""
        with self._unharmed():
            row = self._faults.get(fault_index)
            self._lost.add(time.monotonic(), seconds_lost)
            if row is not None:
                self._faults[fault_index] = replace(row, seconds_lost=seconds_lost)
            exact = row is not None and row.again is None
            if row is not None and any(told.time >= row.time and told.outcome != "same" for told in self._replays):
                exact = False  # a worker came to its place, and it is not known to be that
            self._tell(h.Resumed(self._clock(), self.name, fault_index, seconds_lost, exact))

    def replayed(
        self, worker: int, epoch: int, outcome: str, source: str, at: int, of: int, compared: int, detail: str,
        action: str,
    ) -> None:  # fmt: skip
        """A worker was brought to its place again: what came of it."""
        with self._unharmed():
            self._divergences += outcome in ("differs", "ended", "raised") and action != "reads again"
            told = h.Replayed(
                self._clock(), self.name, worker, epoch, outcome, source, at, of, compared, detail, action
            )  # fmt: skip
            self._replays = [*self._replays, told][-MOST_FAULTS:]
            self._tell(told)

    def started(self, process_pid: int, workers: Sequence[int], seconds: float) -> None:
        """A process is ready, for these workers, so many seconds after it was begun."""
        with self._unharmed():
            hosted = list(workers)
            again = self._takes_over(hosted)
            self._restarts += again
            happening = h.Restarted if again else h.Started
            self._tell(happening(self._clock(), self.name, process_pid, hosted, seconds))

    def _takes_over(self, workers: list[int]) -> bool:
        """Whether a process for these workers stands in for a lost one; a loss is answered once."""
        answered = self._lost_workers.intersection(workers)
        if not answered and None in self._lost_workers:  # it was lost while it worked for nobody in particular
            answered = {None}
        self._lost_workers -= answered
        return bool(answered)

    def fell_back(self, old: int, new: int, why: str, way: str = "") -> None:
        """Policy lowers the number of processes, or takes another `way`, named in words."""
        with self._unharmed():
            self._fallbacks += 1
            self.rung, old_way, self.way = new, self.way, way
            self._tell(h.FellBack(self._clock(), self.name, old, new, why, old_way, way))

    def stays(self, rung: int) -> None:
        """Policy would lower the number of processes, and lets it be, since they keep what datasets have changed."""
        with self._unharmed():
            self._tell(h.Stayed(self._clock(), self.name, rung))

    def recovered(self, old: int, new: int, why: str = "", way: str = "") -> None:
        """Policy raises the number of processes, or takes another `way`."""
        with self._unharmed():
            self._recoveries += 1
            self.rung, old_way, self.way = new, self.way, way
            self._tell(h.Recovered(self._clock(), self.name, old, new, why, old_way, way))

    def resized(self, epoch: int, old: int, new: int, seconds: float) -> None:
        """The images of this epoch have another size; the change took so many seconds."""
        with self._unharmed():
            self._tell(h.Resized(self._clock(), self.name, epoch, old, new, seconds))

    def slow(self, batch: int | None, worker: int | None, seconds: float, sample: Any = None) -> None:
        """A batch is over its deadline, but its samples still finish."""
        with self._unharmed():
            self._slow += 1
            self._tell(h.Slow(self._clock(), self.name, batch, worker, seconds, sample, self._slow))

    def stalled(self, stall: Stall, due: Any = None) -> None:
        """Nothing moves. Called from the watch's thread.

        Args:
            stall: what the watch saw.
            due: the batch that is due (`safeloader.runtime.trainer.inspection.DueBatch`), or None.
        """
        with self._unharmed():
            facts = {} if due is None else due._asdict()
            working = facts.pop("seconds", 0.0)
            place = stall.place
            self._tell(
                h.Stalled(
                    self._clock(), self.name, stall.holder, stall.seconds, stall.busy, working=working,
                    place=place.line if place else "", stack=place.stack if place else None, **facts,
                )
            )  # fmt: skip

    def ranks_stalled(self, said: str, ranks: Sequence[int], why: str) -> None:
        """What the board of all ranks says of a stall, on rank 0. Called from the watch's thread."""
        with self._unharmed():
            self._tell(h.RanksStalled(self._clock(), self.name, said, list(ranks), why))

    def stall_ended(self, seconds: float) -> None:
        """Something moves again."""
        with self._unharmed():
            self._tell(h.StallEnded(self._clock(), self.name, seconds))

    def skipped(self, epoch: int, batch: int, index: Any, cause: str) -> None:
        """A bad sample is left out of its batch."""
        with self._unharmed():
            self._skipped.append((epoch, batch, index))
            self._tell(h.Skipped(self._clock(), self.name, epoch, batch, index, cause))

    def epoch(self, n: int, batches: int) -> None:
        """Epoch `n` was delivered to its end, with so many batches."""
        with self._unharmed():
            self._epochs += 1
            waits, before = self.pulse.waits(), self._waits_before
            self._waits_before = waits
            asked = waits.batches - before.batches
            ready = (waits.ready * waits.batches - before.ready * before.batches) / asked if asked else None
            timings = [times.as_dict() for times in self.timings.workers()]
            waited = waits.seconds - before.seconds
            self._tell(h.EpochEnded(self._clock(), self.name, n, batches, waited, ready, self.rung, timings))

    def not_undone(self, worker: int, what: str, action: str) -> None:
        """A worker in the main process did, or was about to do, what could not be undone; see `NotUndone`."""
        with self._unharmed():
            self._tell(h.NotUndone(self._clock(), self.name, worker, what, action))

    def code_changed(self, files: Sequence[str]) -> None:
        """These source files differ from those of the first start. A file is told once."""
        with self._unharmed():
            new = [file for file in files if file not in self._code_changed]
            self._code_changed += new
            if new:
                self._tell(h.CodeChanged(self._clock(), self.name, new))

    def shadowed(self, private: int) -> None:
        """A process has copied itself; the copy before it had so many bytes to itself."""
        self._shadows += 1
        self._shadow_memory = max(self._shadow_memory, private)

    def unshadowed(self, why: str) -> None:
        """A process cannot copy itself, for this reason. The first is told."""
        with self._unharmed():
            if not self._unshadowed:
                self._unshadowed = why
                self._tell(h.Unshadowed(self._clock(), self.name, why))

    def reopened(self, what: Sequence[str]) -> None:
        """Each worker opens these for itself, since the dataset holds them open. The same is told once."""
        with self._unharmed():
            if list(what) != self._reopened:
                self._reopened = list(what)
                self._tell(h.Reopened(self._clock(), self.name, self._reopened))

    def differs(self, process_pid: int, what: Sequence[str]) -> None:
        """A process could not take over all that it should. The same words are told once."""
        with self._unharmed():
            new = [text for text in what if text not in self._differences]
            self._differences += new
            if new:
                self._tell(h.Differs(self._clock(), self.name, process_pid, new))

    def slow_start(self, process_pid: int | None, seconds: float, phase: str, stack: str | None) -> None:
        """A process takes longer to start than others did."""
        with self._unharmed():
            self._tell(h.SlowStart(self._clock(), self.name, process_pid, seconds, phase, stack))

    def closed(self) -> None:
        """The loader ended. Only the first call counts."""
        with self._unharmed():
            if self._closed or os.getpid() != self._owner:
                return  # of a fork of the program, the parent's loader does not end
            self._closed = True
            faults = self._causes.total()
            self._tell(h.Closed(self._clock(), self.name, self.batches, self._epochs, faults, self._lost.seconds))

    def report(self) -> Report:
        """What happened so far; a copy that later happenings do not change."""
        return Report(
            name=self.name,
            batches=self.batches,
            epochs=self._epochs,
            faults=list(self._faults.values()),
            causes=dict(self._causes),
            restarts=self._restarts,
            fallbacks=self._fallbacks,
            recoveries=self._recoveries,
            rung=self.rung,
            workers=self.workers,
            way=self.way,
            skipped=list(self._skipped),
            slow_batches=self._slow,
            seconds_lost=self._lost.seconds,
            code_changed=list(self._code_changed),
            reopened=list(self._reopened),
            shadows=self._shadows,
            shadow_memory=self._shadow_memory,
            unshadowed=self._unshadowed,
            uncovered=self.uncovered,
            replays=list(self._replays),
            divergences=self._divergences,
            waits=self.pulse.waits(),
            timings=self.timings.workers(),
        )

    def _tell(self, happening: h.Happening) -> None:
        try:
            if self.tracer is not None:
                self.tracer.flush()
            if self._events is not None:
                self._events.write(happening)
        finally:
            log.tell(happening)

    @contextmanager
    def _unharmed(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            with suppress(Exception):
                if not self._told_own_fault:
                    self._told_own_fault = True
                    codes.log_warning(
                        "SL114", "%s: safeloader could not record what happened", self.name, exc_info=True
                    )
