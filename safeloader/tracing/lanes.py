"""Who did what when: events as spans and marks on lanes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.observe.format import inline

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["TRAINER", "Lane", "LoaderLane", "LaneMoment", "Span", "lanes", "title"]

TRAINER = "trainer"
_ON_TRAINER = (
    "epoch", "fallback", "recovery", "slow", "skip", "stall", "code_changed", "not_undone", "resume", "close",
)  # fmt: skip
_LEFT_OUT = ("v", "t", "loader", "event", "trainer", "rank", "stack", "indices")


class Span(NamedTuple):
    """Something that took from ``start`` to ``end``, in seconds since 1970.

    ``kind``: ``wait``, ``compute``, ``start``, ``load``, ``collate``, ``idle``, ``fault`` or ``stall``.
    """

    kind: str
    start: float
    end: float
    told: dict[str, Any]


class LaneMoment(NamedTuple):
    """Something that happened at a moment."""

    kind: str
    time: float
    told: dict[str, Any]


@dataclass
class Lane:
    """One line of the picture: the trainer, or a process."""

    name: str
    spans: list[Span] = field(default_factory=list)
    marks: list[LaneMoment] = field(default_factory=list)


@dataclass
class LoaderLane:
    """One loader of one trainer.

    Attributes:
        name: its name, with its rank where there are several.
        trainer: pid.
        lanes: the trainer's first, then the processes' in the order in which they came.
        batches: its batch events, in the order in which they were given.
        faults: its fault events.
        resumed: when the batch that a fault held up was there, by the number of the fault.
    """

    name: str
    trainer: int
    lanes: dict[object, Lane] = field(default_factory=dict)
    batches: list[dict[str, Any]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    resumed: dict[int, float] = field(default_factory=dict)

    def lane(self, key: object, name: str) -> Lane:
        """The lane of this key; made if there is none."""
        return self.lanes.setdefault(key, Lane(name))


def lanes(events: Iterable[dict[str, Any]]) -> list[LoaderLane]:
    """Sort events into lanes, by trainer and loader.

    Args:
        events: as `safeloader.tracing.read.read` gives them: each has what its kind needs, of the right types.
    """
    found: dict[tuple[Any, Any], LoaderLane] = {}
    for event in events:
        rank = f" (rank {event['rank']})" if "rank" in event else ""
        key = (event.get("trainer"), event.get("loader"))
        loader = found.setdefault(key, LoaderLane(f"{event.get('loader')}{rank}", event.get("trainer") or 0))
        loader.lane(TRAINER, "trainer")
        _put(loader, event)
    for loader in found.values():
        _batches(loader)
    return list(found.values())


def _put(loader: LoaderLane, event: dict[str, Any]) -> None:
    kind, time, told = event["event"], float(event["t"]), _told(event)
    if kind == "batch":
        loader.batches.append(event)
    elif kind in ("start", "restart"):
        _process(loader, event["process"]).spans.append(Span("start", time - event["seconds"], time, told))
    elif kind == "fault":
        loader.faults.append(event)
        process = event.get("process")
        lane = loader.lanes[TRAINER] if process is None else _process(loader, process)
        lane.marks.append(LaneMoment("fault", time, told))
        if event.get("stalled"):
            lane.spans.append(Span("fault", time - event["stalled"], time, told))
    elif kind == "stall_ended":
        loader.lanes[TRAINER].spans.append(Span("stall", time - event["seconds"], time, told))
    elif kind in _ON_TRAINER:
        if kind == "resume" and event.get("fault") is not None:
            loader.resumed[event["fault"]] = time
        loader.lanes[TRAINER].marks.append(LaneMoment(kind, time, told))


def _told(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in _LEFT_OUT and value not in (None, "")}


def _process(loader: LoaderLane, pid: int) -> Lane:
    return loader.lane(pid, "in the trainer" if pid == loader.trainer else f"process {pid}")


def _batches(loader: LoaderLane) -> None:
    """Spans of the batches, and of the time between them."""
    trainer = loader.lanes[TRAINER]
    loader.batches.sort(key=lambda event: event["asked"])
    before: dict[str, Any] | None = None
    for event in loader.batches:
        about = {key: event[key] for key in ("epoch", "batch", "worker") if event.get(key) is not None}
        if before is not None and before["epoch"] == event["epoch"]:
            trainer.spans.append(Span("compute", before["got"], event["asked"], {"with batch": before["batch"]}))
        trainer.spans.append(Span("wait", event["asked"], event["got"], about))
        before = event
        if event.get("taken") is not None and event.get("process") is not None:
            lane = _process(loader, event["process"])
            lane.spans.append(Span("load", event["taken"], event["collated"], about))
            lane.spans.append(
                Span("collate", event["collated"], event["finished"], about | {"bytes": event.get("nbytes")})
            )
    for key, lane in loader.lanes.items():
        lane.spans.sort(key=lambda span: (span.start, span.end))
        if key != TRAINER:
            lane.spans.extend(_idle(lane.spans))
            lane.spans.sort(key=lambda span: (span.start, span.end))


def _idle(spans: list[Span]) -> list[Span]:
    """The time in which a process that has begun had nothing to do."""
    gaps, end = [], None
    for span in spans:
        if end is not None and span.start > end and span.kind != "collate":
            gaps.append(Span("idle", end, span.start, {}))
        end = span.end if end is None else max(end, span.end)
    return gaps


def title(span: Span | LaneMoment) -> str:
    """Words for a span or mark: ``load: epoch 0, batch 3``."""
    return f"{span.kind}: " + ", ".join(f"{key} {inline(value, 60)}" for key, value in span.told.items())
