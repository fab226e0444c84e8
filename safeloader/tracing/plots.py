"""The plots of the page: lanes, and rates over time, as SVG that is stretched to the width there is."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from safeloader.observe.format import brief, clock, duration
from safeloader.tracing.lanes import title

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from safeloader.tracing.lanes import Lane, LoaderLane, Span

__all__ = ["extent", "lanes_plot", "rate_plot"]

_WIDTH, _ROW, _RATE_HEIGHT, _BINS = 1000, 18, 120, 120
_MOST_SHAPES = 20_000
_FINEST = 0.02  # of a unit of the width: what is shorter is drawn with its neighbours, so that one may look closer


def extent(loader: LoaderLane) -> tuple[float, float]:
    """When the first thing began, and when the last ended."""
    starts = [span.start for lane in loader.lanes.values() for span in lane.spans]
    ends = [span.end for lane in loader.lanes.values() for span in lane.spans]
    moments = [mark.time for lane in loader.lanes.values() for mark in lane.marks]
    return min(starts + moments, default=0.0), max(ends + moments, default=0.0)


def lanes_plot(loader: LoaderLane, begin: float, end: float) -> str:
    """Who did what: a line for the trainer and one for each process."""
    scale = _WIDTH / (end - begin)
    shapes: list[str] = []
    for number, (lane, spans) in enumerate(_fine(loader, scale)):
        top = number * _ROW
        shapes += [
            f'<rect class="{s.kind}" x="{(s.start - begin) * scale:.3f}" y="{top + 2}" height="{_ROW - 4}" '
            f'width="{max((s.end - s.start) * scale, _FINEST):.3f}"><title>{html.escape(title(s))} '
            f"({brief(s.end - s.start)}, {brief(s.start - begin)} after the beginning)</title></rect>"
            for s in spans
        ]
        shapes += [
            f'<line class="{"fault-mark" if m.kind == "fault" else "mark"}" x1="{(m.time - begin) * scale:.3f}" '
            f'x2="{(m.time - begin) * scale:.3f}" y1="{top + 1}" y2="{top + _ROW - 1}">'
            f"<title>{html.escape(title(m))} ({clock(m.time)})</title></line>"
            for m in lane.marks
        ]
    names = "".join(f"<div>{html.escape(lane.name)}</div>" for lane in loader.lanes.values())
    return _plot(names, len(loader.lanes) * _ROW, "".join(shapes), end - begin)


def _fine(loader: LoaderLane, scale: float) -> list[tuple[Lane, list[Span]]]:
    """As much as can be told apart when one looks closely, and no more than a browser bears."""
    least = _FINEST / scale
    while True:
        found = [(lane, list(_thinned(lane, least))) for lane in loader.lanes.values()]
        if sum(len(spans) for _, spans in found) <= _MOST_SHAPES or least > 1 / scale:
            return found
        least *= 2


def _thinned(lane: Lane, least: float) -> Iterator[Span]:
    """Spans as far as they can be told apart: neighbours of one kind, less than ``least`` seconds apart, are one."""
    last: dict[str, Span] = {}
    for span in lane.spans:
        before = last.get(span.kind)
        if before is not None and span.end - before.start < 2 * least:
            last[span.kind] = before._replace(end=max(before.end, span.end))
            continue
        if before is not None:
            yield before
        last[span.kind] = span
    yield from last.values()


def rate_plot(loader: LoaderLane, begin: float, end: float) -> str:
    """Batches a second, and the share of time that the trainer waited."""
    width, step = (end - begin) / _BINS, _WIDTH / _BINS
    counts, waits = [0.0] * _BINS, [0.0] * _BINS
    for batch in loader.batches:
        place = min(max(int((batch["got"] - begin) / width), 0), _BINS - 1)
        counts[place] += 1 / width
        _spread(waits, batch["asked"] - begin, batch["got"] - begin, width)
    most = max(counts) or 1.0
    bars = "".join(
        f'<rect class="share" x="{i * step:.2f}" width="{step:.2f}" y="{_RATE_HEIGHT * (1 - share):.1f}" '
        f'height="{_RATE_HEIGHT * share:.1f}"><title>waited {share:.0%} of {brief(width)}, {counts[i]:.3g} batches a '
        f"second</title></rect>"
        for i, share in enumerate(min(seconds / width, 1.0) for seconds in waits)
        if share
    )
    points = " ".join(
        f"{(i + 0.5) * step:.2f},{_RATE_HEIGHT * (1 - count / most) + 1:.1f}" for i, count in enumerate(counts)
    )
    line = f'<polyline class="rate" points="{points}"/>'
    names = f"<div>{most:.3g} batches/s (line)</div><div>100 % waited (area)</div>"
    return _plot(names, _RATE_HEIGHT + 2, bars + line, end - begin)


def _spread(bins: list[float], begin: float, end: float, width: float) -> None:
    """Add a span of time to the bins that it lies in."""
    first, last = max(int(begin / width), 0), min(int(end / width), len(bins) - 1)
    for place in range(first, last + 1):
        bins[place] += max(min(end, (place + 1) * width) - max(begin, place * width), 0.0)


def _plot(names: str, height: int, inside: str, seconds: float) -> str:
    ticks: Sequence[str] = [f"<span>{duration(share * seconds)}</span>" for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return (
        f'<div class="plot"><div class="names">{names}</div>'
        f'<svg viewBox="0 0 {_WIDTH} {height}" data-width="{_WIDTH}" height="{height}" preserveAspectRatio="none" '
        f'role="img">{inside}</svg><div class="ticks">{"".join(ticks)}</div></div>'
    )
