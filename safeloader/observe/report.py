"""The report of a loader: what went wrong, where, what was done, what it cost; for people and as a dict."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from safeloader.observe.events import Fault, Replayed
from safeloader.observe.fault_lines import is_long, what_is_done
from safeloader.observe.format import brief, clock, duration, inline, many, plain, printable, samples, stack_lines
from safeloader.observe.messages import line_for
from safeloader.observe.timings import STAGES, Waits, WorkerTimes

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["VERSION", "Fault", "Report"]

VERSION = 1
"""Version of `Report.to_dict`. New keys do not change it; a changed or removed one does."""


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """What happened to a loader so far. ``print(report)`` is meant to be read.

    Attributes:
        name: Name of the loader.
        batches: Batches delivered.
        epochs: Epochs delivered to their end.
        faults: The faults, oldest first; the oldest of very many are only counted.
        causes: How many faults of each cause, the dropped ones included.
        restarts: Processes that took the place of one lost to a fault.
        fallbacks: Times that policy lowered the number of processes.
        recoveries: Times that policy raised it again.
        rung: Number of processes now; 0 is the main process alone.
        workers: Number of workers, which never changes.
        way: How batches are made now, for a loader that has several ways (FFCV); else "".
        skipped: (epoch, batch, index) of each sample left out.
        slow_batches: Batches that took longer than their deadline while samples still finished.
        seconds_lost: What the faults cost in all, in seconds, as far as known; where they overlap, it counts once.
        code_changed: Source files that changed since the first start.
        reopened: What each worker opens for itself, since the dataset holds it open.
        shadows: Times that a process copied itself, to go on from there after a fault.
        shadow_memory: The most bytes that one of these copies had to itself.
        unshadowed: Why a process could not be copied, first; "" where all could, or none was to be.
        uncovered: What would not be restored if a process were lost, and why; "" if all would.
        replays: What came of each time that a worker was brought to its place again, and where that is not exact.
        divergences: Times that a dataset gave something else when it was read again.
        waits: How the consumer has waited for batches.
        advice: What would make it faster, as far as these figures tell; "" if nothing.
        timings: For each worker, how long its batches were loaded, collated, transferred and waited for.
        memory: Bytes that the worker processes have to themselves now; None if there are none, or it is not known.
        shared_memory: Bytes of shared memory that batches take now.
    """

    name: str
    batches: int = 0
    epochs: int = 0
    faults: list[Fault] = field(default_factory=list)
    causes: dict[str, int] = field(default_factory=dict)
    restarts: int = 0
    fallbacks: int = 0
    recoveries: int = 0
    rung: int = 0
    workers: int = 0
    skipped: list[tuple[int, int, Any]] = field(default_factory=list)
    slow_batches: int = 0
    seconds_lost: float = 0.0
    code_changed: list[str] = field(default_factory=list)
    reopened: list[str] = field(default_factory=list)
    shadows: int = 0
    shadow_memory: int = 0
    unshadowed: str = ""
    uncovered: str = ""
    way: str = ""
    replays: list[Replayed] = field(default_factory=list)
    divergences: int = 0
    waits: Waits = field(default_factory=Waits)
    advice: str = ""
    timings: list[WorkerTimes] = field(default_factory=list)
    memory: int | None = None
    shared_memory: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The report as dicts, lists, numbers and text alone, fit for JSON."""
        shown: dict[str, Any] = {"v": VERSION}
        for item in fields(self):
            shown[item.name] = plain(getattr(self, item.name))
        shown["waits"] = self.waits._asdict()
        shown["timings"] = [times.as_dict() for times in self.timings]
        for name in ("faults", "replays"):
            rows = getattr(self, name)
            shown[name] = [{item.name: plain(getattr(row, item.name)) for item in fields(row)} for row in rows]
        return shown

    def __str__(self) -> str:
        return printable("\n".join(self._lines()))

    def __repr__(self) -> str:
        return f"<Report of {self.name!r}: {many(self.batches, 'batch')}, {many(self._all(), 'fault')}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython and notebooks show: the readable form."""
        printer.text(str(self))

    def _all(self) -> int:
        return max(sum(self.causes.values()), len(self.faults))

    def _lines(self) -> Iterator[str]:
        now = f"{many(self.rung, 'process')} now for {many(self.workers, 'worker')}"
        if self.workers and not self.rung:
            now = f"all {many(self.workers, 'worker')} now in the main process"
        elif not self.workers:
            now = "no workers"
        if self.way:
            now = f"now by {self.way}"
        yield f"{self.name}: {many(self.batches, 'batch')}, {many(self.epochs, 'epoch')}, {now}"
        dropped = self._all() - len(self.faults)
        if dropped:
            yield ""
            yield f"{many(dropped, 'earlier fault')} no longer kept in full"
        for number, fault in enumerate(self.faults, dropped + 1):
            yield ""
            yield from _block(number, fault)
        yield ""
        yield from self._totals()

    def _totals(self) -> Iterator[str]:
        causes = ", ".join(f"{count} {cause}" for cause, count in self.causes.items())
        faults = many(self._all(), "fault") if self._all() else "no faults"
        recoveries = "1 recovery" if self.recoveries == 1 else f"{self.recoveries:,} recoveries"
        parts = [
            faults + (f" ({causes})" if causes else ""),
            many(self.restarts, "restart"),
            many(self.fallbacks, "fallback"),
            recoveries,
            many(len(self.skipped), "skipped sample"),
            many(self.slow_batches, "slow batch"),
            *([many(self.divergences, "divergence")] if self.divergences else []),
            f"{duration(self.seconds_lost)} lost",
        ]
        yield f"total: {', '.join(parts)}"
        waits = self.waits
        if waits.batches:
            yield (
                f"waiting for data: {duration(waits.seconds)} in all, {waits.ready:.0%} of the batches were ready; "
                f"a batch: p50 {brief(waits.p50)}, p95 {brief(waits.p95)}, p99 {brief(waits.p99)}"
            )
        if self.timings:
            yield "time that a batch took, for each worker (p50 / p95 / p99):"
            yield from (_stages(times) for times in self.timings)
        if self.advice:
            yield f"advice: {self.advice}"
        if self.skipped:
            shown = [f"{inline(i, 60)} (epoch {epoch}, batch {batch})" for epoch, batch, i in self.skipped[:20]]
            rest = f", ... ({len(self.skipped):,} in all)" if len(self.skipped) > 20 else ""
            yield f"skipped: {', '.join(shown)}{rest}"
        if self.reopened:
            yield f"each worker opened for itself: {'; '.join(inline(text, 200) for text in self.reopened)}"
        yield from self._restored()

    def _restored(self) -> Iterator[str]:
        """How far what a dataset changes in itself survives a fault."""
        if self.shadows:
            most = f"of at most {self.shadow_memory:,} bytes each"
            yield f"shadows of processes: {many(self.shadows, 'time')} taken, {most}"
        if self.unshadowed:
            yield f"no shadow could be kept of a process: {inline(self.unshadowed)}"
        if self.uncovered:
            yield f"not restored after a fault: {inline(self.uncovered)}"
        for replay in self.replays[-20:]:
            if replay.outcome != "same":
                yield f"not exact: {line_for(replay).partition(': ')[2]}"
        if self.code_changed:
            yield f"code changed since the first start: {', '.join(self.code_changed)}"


def _stages(times: WorkerTimes) -> str:
    told = ", ".join(
        f"{stage} {brief(value.p50)} / {brief(value.p95)} / {brief(value.p99)}"
        for stage, value in ((stage, getattr(times, stage)) for stage in STAGES)
        if value.p50
    )
    return f"  worker {times.worker}: {told}"


def _block(number: int, fault: Fault) -> Iterator[str]:
    yield f"fault {number}, {clock(fault.time)}: {_what(fault)}"
    where = _where(fault)
    if where:
        yield f"  where: {where}"
    if fault.stack and fault.stack.strip():
        yield "  stack:"
        yield from (f"    {line}" for line in stack_lines(fault.stack))
    yield f"  done:  {what_is_done(fault) or 'nothing'}"
    yield f"  lost:  {_lost(fault)}"


def _lost(fault: Fault) -> str:
    if fault.seconds_lost is not None:
        return duration(fault.seconds_lost)
    never = fault.verdict in ("raised", "ended") or fault.action == "raised"
    return "this batch" if never and fault.batch is not None else "not known yet"


def _what(fault: Fault) -> str:
    detail = f" ({inline(fault.detail)})" if fault.detail else ""
    shown = bool(fault.stalled) if fault.cause == "hung" else is_long(fault.stalled)
    silent = f", silent for {duration(fault.stalled or 0.0)}" if shown else ""
    return f"{fault.cause}{detail}{silent}"


def _where(fault: Fault) -> str:
    parts = []
    for word, value in (("epoch", fault.epoch), ("batch", fault.batch), ("worker", fault.worker)):
        if value is not None:
            parts.append(f"{word} {value}")
    if fault.process is not None:
        parts.append(f"pid {fault.process}")
    if fault.sample is not None:
        parts.append(samples([fault.sample]))
    elif fault.indices:
        parts.append(samples(fault.indices))
    if fault.attempts > 1:
        parts.append(f"attempt {fault.attempts}")
    return ", ".join(parts)
