"""The trace event format of Chrome, which https://ui.perfetto.dev reads, too.

Source: "Trace Event Format", complete events (X), instants (i), metadata (M); times in microseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safeloader.observe.format import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from safeloader.tracing.lanes import Lane, LoaderLane, Span

__all__ = ["chrome"]

_COLOURS = {
    "wait": "terrible", "compute": "good", "start": "grey", "load": "thread_state_running", "collate": "rail_load",
    "idle": "thread_state_sleeping", "fault": "bad", "stall": "black",
}  # fmt: skip


def chrome(loaders: Sequence[LoaderLane], notes: Sequence[str]) -> dict[str, Any]:
    """The whole file. Each loader is a process, each lane one of its threads."""
    first = min(_times(loaders), default=0.0)
    events: list[dict[str, Any]] = []
    for number, loader in enumerate(loaders, 1):
        events.append(_name("process_name", number, 0, f"{loader.name}, trainer {loader.trainer}"))
        for place, lane in enumerate(loader.lanes.values()):
            events.append(_name("thread_name", number, place, lane.name))
            events += _lane(lane, number, place, first)
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"from": "safeloader", "notes": list(notes)}}


def _times(loaders: Sequence[LoaderLane]) -> Iterator[float]:
    for loader in loaders:
        for lane in loader.lanes.values():
            yield from (span.start for span in lane.spans)
            yield from (mark.time for mark in lane.marks)


def _name(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


def _lane(lane: Lane, process: int, thread: int, first: float) -> Iterator[dict[str, Any]]:
    place = {"pid": process, "tid": thread}
    for span, start, end in _nested(lane.spans, first):
        yield {
            "name": span.kind, "cat": "safeloader", "ph": "X", "ts": start, "dur": end - start,
            "cname": _COLOURS[span.kind], "args": plain(span.told), **place,
        }  # fmt: skip
    for mark in lane.marks:
        yield {
            "name": mark.kind, "cat": "safeloader", "ph": "i", "s": "t", "ts": round((mark.time - first) * 1e6),
            "args": plain(mark.told), **place,
        }  # fmt: skip


def _nested(spans: Sequence[Span], first: float) -> Iterator[tuple[Span, int, int]]:
    """Spans with their whole microseconds. One that begins in another ends in it, too: else Perfetto drops it."""
    around: list[int] = []
    start = 0
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        start, end = max(round((span.start - first) * 1e6), start), round((span.end - first) * 1e6)
        while around and (around[-1] <= start or end > around[-1]):
            start = max(start, around.pop())
        around.append(max(start, end))
        yield span, start, max(start, end)
