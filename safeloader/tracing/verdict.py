"""What a run came to, in words: how long its trainer waited for data, and for what."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from safeloader.observe.format import brief, inline, many, samples
from safeloader.tracing.lanes import TRAINER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from safeloader.tracing.lanes import LoaderLane

__all__ = ["Waits", "told", "verdict", "waits_of"]

_LITTLE = 0.05
"""Share of its time that a trainer may wait without a word about why."""
_WORTH_A_WORD = 0.02
_CAUSES = {"hung": "hang", "died": "death", "stopped": "stop", "oom": "OOM kill", "failed_start": "failed start",
           "raised": "error", "unpicklable": "unpicklable sample", "bad_sample": "bad sample"}  # fmt: skip
Interval = tuple[float, float]


class Waits(NamedTuple):
    """For what a trainer waited, in seconds: each moment counts once.

    Attributes:
        total: from the first batch that was asked for to the last that was given.
        faults: while a fault was being survived.
        starts: while processes started, faults apart.
        loading: while batches were loaded, and nothing was wrong.
    """

    total: float
    faults: float
    starts: float
    loading: float

    @property
    def waited(self) -> float:
        """In all."""
        return self.faults + self.starts + self.loading

    @property
    def share(self) -> float:
        """Of the total."""
        return self.waited / self.total if self.total > 0 else 0.0


def waits_of(loader: LoaderLane) -> Waits:
    """Divide the time that a trainer waited by what happened meanwhile."""
    if not loader.batches:
        return Waits(0.0, 0.0, 0.0, 0.0)
    waits = _united((batch["asked"], batch["got"]) for batch in loader.batches)
    faults = _united(
        (fault["t"] - (fault.get("stalled") or 0.0), max(loader.resumed.get(number, 0.0), fault["t"]))
        for number, fault in enumerate(loader.faults)
    )
    starts = _united(
        (span.start, span.end)
        for key, lane in loader.lanes.items()
        if key != TRAINER
        for span in lane.spans
        if span.kind == "start"
    )
    in_faults = _common(waits, faults)
    either = _common(waits, _united([*faults, *starts]))
    waited = sum(end - begin for begin, end in waits)
    total = max(batch["got"] for batch in loader.batches) - min(batch["asked"] for batch in loader.batches)
    return Waits(total, in_faults, either - in_faults, waited - either)


def _united(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time as intervals that are in order and apart."""
    found: list[Interval] = []
    for begin, end in sorted(intervals):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def _common(some: Sequence[Interval], others: Sequence[Interval]) -> float:
    """Seconds that lie in both; each is in order and apart."""
    seconds, place = 0.0, 0
    for begin, end in some:
        while place < len(others) and others[place][1] <= begin:
            place += 1
        at = place
        while at < len(others) and others[at][0] < end:
            seconds += max(min(end, others[at][1]) - max(begin, others[at][0]), 0.0)
            at += 1
    return seconds


# ---------------------------------------------------------------- in words


def verdict(loader: LoaderLane) -> list[str]:
    """Sentences: the share of the time that the trainer waited, why, what went wrong, what to do."""
    if not loader.batches:
        return [*_faults(loader)] or ["nothing went wrong; no batch was recorded (SAFELOADER_TRACE=1 records them)"]
    waits = waits_of(loader)
    count = many(len(loader.batches), "batch")
    if waits.share < _LITTLE:
        first = f"{waits.share:.0%} of the time the trainer waited for data: the loader kept up ({count}"
        return [f"{first} in {brief(waits.total)})", *_faults(loader)]
    told = f"{waits.share:.0%} of the time the trainer waited for data ({brief(waits.waited)} of {brief(waits.total)})"
    return [f"{told}: {'; '.join(_reasons(loader, waits))}", *_faults(loader), *_advice(loader, waits)]


def _reasons(loader: LoaderLane, waits: Waits) -> Iterator[str]:
    if waits.starts > _WORTH_A_WORD * waits.total:
        starts = sum(span.kind == "start" for lane in loader.lanes.values() for span in lane.spans)
        yield f"{brief(waits.starts)} while processes started ({many(starts, 'start')})"
    if waits.faults > _WORTH_A_WORD * waits.total:
        yield f"{brief(waits.faults)} for {_causes(loader)}"
    if waits.loading > _WORTH_A_WORD * waits.total or waits.waited < 2 * _WORTH_A_WORD * waits.total:
        yield f"{brief(waits.loading)} because loading was slower than training"


def _causes(loader: LoaderLane) -> str:
    counts = Counter(_CAUSES.get(fault["cause"], inline(fault["cause"], 30)) for fault in loader.faults)
    return " and ".join(many(count, cause) for cause, count in counts.items())


def _faults(loader: LoaderLane) -> Iterator[str]:
    if not loader.faults:
        return
    named = list(dict.fromkeys(inline(f["sample"], 60) for f in loader.faults if f.get("sample") is not None))
    said = f" at {samples(named)}" if named else ""
    end = ""
    if any(fault.get("action") == "raised" for fault in loader.faults):
        end = "; the run ended with it"
    elif len(loader.resumed) == len(loader.faults):
        end = "; survived"
    yield f"{_causes(loader)}{said}{end}"


def _advice(loader: LoaderLane, waits: Waits) -> Iterator[str]:
    reasons = {waits.faults: "faults", waits.starts: "starts", waits.loading: "loading"}
    worst = reasons[max(reasons)]
    if worst == "starts":
        yield 'keep the processes (persistent_workers=True), or start them quickly: Policy(start_method="forkserver")'
    elif worst == "faults":
        yield "mend what fails, or keep a spare process ready: Policy(standby=1)"
    elif any(batch.get("taken") is not None for batch in loader.batches):
        yield "take more workers, or make samples cheaper: see the seconds of a batch, load against compute"


def told(loaders: Sequence[LoaderLane]) -> str:
    """One line for people: what was found."""
    faults = many(sum(len(loader.faults) for loader in loaders), "fault")
    batches = many(sum(len(loader.batches) for loader in loaders), "batch")
    return f"{many(len(loaders), 'loader')}, {batches}, {faults}"
