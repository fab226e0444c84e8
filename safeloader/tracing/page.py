"""A report in one HTML file that needs nothing else: tables, and plots as SVG."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from safeloader.observe.format import clock, duration, inline, many
from safeloader.tracing.lanes import title

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from safeloader.tracing.lanes import Lane, LoaderLane, Span

__all__ = ["page", "told"]

_COLOURS = {
    "wait": "#d95f5f", "compute": "#5fa55a", "start": "#9a9a9a", "load": "#4b86c2", "collate": "#8f6bb3",
    "idle": "#e4e4e4", "fault": "#b00000", "stall": "#000000",
}  # fmt: skip
_WIDTH, _LEFT, _ROW = 1160, 150, 18
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1320px; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .6em 0 } td, th { padding: .2em .8em .2em 0; text-align: left;
border-bottom: 1px solid #ddd; vertical-align: top } td.n, th.n { text-align: right }
svg { display: block; margin: .6em 0 }
svg text { font: 11px system-ui, sans-serif; fill: #444 } .key span { display: inline-block; width: .8em; height: .8em;
margin: 0 .3em 0 1em } pre { margin: 0; font-size: 12px; white-space: pre-wrap }
"""


def page(loaders: Sequence[LoaderLane], notes: Sequence[str], source: str) -> str:
    """The whole page."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>safeloader: ", html.escape(source), "</title><style>",
        _STYLE, f"</style><h1>{html.escape(source)}</h1>",
    ]  # fmt: skip
    parts += [f"<p>Note: {html.escape(note)}.</p>" for note in notes]
    parts += [_summary(loaders), _key()]
    for loader in loaders:
        parts.append(f"<h2>{html.escape(loader.name)}, trainer {loader.trainer}</h2>")
        parts += _loader(loader)
    return "".join([*parts, "</html>\n"])


def _loader(loader: LoaderLane) -> Iterator[str]:
    begin, end = _extent(loader)
    if end > begin:
        yield "<h3>Who did what</h3>" + _lanes(loader, begin, end)
    if len(loader.batches) > 1:
        yield "<h3>Batches a second, and the share of time that the trainer waited</h3>" + _rate(loader, begin, end)
        yield "<h3>Seconds a batch</h3>" + _quantiles(loader)
    if loader.faults:
        yield "<h3>Faults</h3>" + _faults(loader)


# ---------------------------------------------------------------- tables


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Cells are escaped. Columns whose names begin with ``#`` are numbers."""
    kinds = [" class=n" if name.startswith("#") else "" for name in columns]
    head = "".join(f"<th{kind}>{html.escape(name.lstrip('#'))}" for name, kind in zip(columns, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{html.escape(str(cell))}" for cell, kind in zip(row, kinds, strict=True))
        for row in rows
    )
    return f"<table><tr>{head}{body}</table>"


def _summary(loaders: Sequence[LoaderLane]) -> str:
    rows = []
    for loader in loaders:
        begin, end = _extent(loader)
        waited = sum(batch["got"] - batch["asked"] for batch in loader.batches)
        length = loader.batches[-1]["got"] - loader.batches[0]["asked"] if loader.batches else 0.0
        rows.append((
            loader.name, loader.trainer, clock(begin) if begin else "-", duration(end - begin),
            f"{len(loader.batches):,}", f"{len(loader.batches) / length:.3g}" if length else "-",
            f"{waited / length:.1%}" if length else "-",
            len(loader.lanes) - 1, len(loader.faults),
        ))  # fmt: skip
    columns = ("loader", "#trainer", "from", "#length", "#batches", "#a second", "#waited", "#processes", "#faults")
    return _table(columns, rows)


def _quantiles(loader: LoaderLane) -> str:
    """p50, p95, p99 of each part of a batch, for each worker and for all."""
    rows = []
    workers = sorted({batch["worker"] for batch in loader.batches if batch["worker"] is not None})
    for name, chosen in [("all", None), *((f"worker {worker}", worker) for worker in workers)]:
        batches = [batch for batch in loader.batches if chosen is None or batch["worker"] == chosen]
        loaded = [batch for batch in batches if batch["taken"] is not None]
        for part, values in (
            ("load", [batch["collated"] - batch["taken"] for batch in loaded]),
            ("collate", [batch["finished"] - batch["collated"] for batch in loaded]),
            ("ready before it was asked for", [max(batch["asked"] - batch["finished"], 0.0) for batch in loaded]),
            ("wait", [batch["got"] - batch["asked"] for batch in batches]),
        ):
            if values:
                values.sort()
                shown = [f"{_quantile(values, share):.2g}" for share in (0.5, 0.95, 0.99)]
                rows.append((name, part, len(values), *shown, f"{values[-1]:.2g}"))
    return _table(("worker", "part", "#batches", "#p50", "#p95", "#p99", "#most"), rows)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(math.ceil(share * len(ordered)), len(ordered)) - 1]


def _faults(loader: LoaderLane) -> str:
    columns = ("when", "cause", "detail", "#worker", "#process", "#epoch", "#batch", "sample", "done")
    rows = [
        (clock(fault["t"]), *(inline("-" if (value := fault.get(key)) is None else value, 80) for key in (
            "cause", "detail", "worker", "process", "epoch", "batch", "sample", "action"
        )))
        for fault in loader.faults
    ]  # fmt: skip
    stacks = "".join(
        f"<details><summary>stack of process {html.escape(str(fault.get('process')))}</summary>"
        f"<pre>{html.escape(fault['stack'])}</pre></details>"
        for fault in loader.faults
        if isinstance(fault.get("stack"), str)
    )
    return _table(columns, rows) + stacks


def _key() -> str:
    kinds = (f'<span style="background:{colour}"></span>{kind}' for kind, colour in _COLOURS.items())
    return f"<p class=key>{''.join(kinds)}</p>"


# ---------------------------------------------------------------- plots


def _extent(loader: LoaderLane) -> tuple[float, float]:
    starts = [span.start for lane in loader.lanes.values() for span in lane.spans]
    ends = [span.end for lane in loader.lanes.values() for span in lane.spans]
    moments = [mark.time for lane in loader.lanes.values() for mark in lane.marks]
    return min(starts + moments, default=0.0), max(ends + moments, default=0.0)


def _lanes(loader: LoaderLane, begin: float, end: float) -> str:
    scale = _WIDTH / (end - begin)
    rows = []
    for number, lane in enumerate(loader.lanes.values()):
        top = number * _ROW
        rows.append(f'<text x="0" y="{top + 13}">{html.escape(lane.name)}</text>')
        rows += [
            f'<rect x="{_LEFT + (s.start - begin) * scale:.2f}" y="{top + 2}" height="{_ROW - 4}" '
            f'width="{max((s.end - s.start) * scale, 0.4):.2f}" fill="{_COLOURS[s.kind]}">'
            f"<title>{html.escape(title(s))} ({duration(s.end - s.start)})</title></rect>"
            for s in _thinned(lane, 0.5 / scale)
        ]
        rows += [
            f'<circle cx="{_LEFT + (m.time - begin) * scale:.2f}" cy="{top + _ROW / 2}" r="4" '
            f'fill="{_COLOURS.get(m.kind, "#e0a030")}"><title>{html.escape(title(m))}</title></circle>'
            for m in lane.marks
        ]
    height = len(loader.lanes) * _ROW
    return _svg(height + 16, "".join(rows) + _axis(height + 12, end - begin))


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


def _rate(loader: LoaderLane, begin: float, end: float) -> str:
    bins, height = 120, 120
    width = (end - begin) / bins
    counts, waits = [0.0] * bins, [0.0] * bins
    for batch in loader.batches:
        place = min(int((batch["got"] - begin) / width), bins - 1)
        counts[place] += 1 / width
        _spread(waits, batch["asked"] - begin, batch["got"] - begin, width)
    most = max(counts) or 1.0
    step = _WIDTH / bins
    bars = "".join(
        f'<rect x="{_LEFT + i * step:.1f}" width="{step:.1f}" y="{height * (1 - share):.1f}" '
        f'height="{height * share:.1f}" fill="{_COLOURS["wait"]}" opacity=".35">'
        f"<title>waited {share:.0%}</title></rect>"
        for i, share in enumerate(min(seconds / width, 1.0) for seconds in waits)
        if share
    )
    line = " ".join(f"{_LEFT + (i + 0.5) * step:.1f},{height * (1 - n / most):.1f}" for i, n in enumerate(counts))
    label = f'<text x="0" y="12">{most:.3g} a second</text><text x="0" y="{height}">0</text>'
    plot = f'<polyline points="{line}" fill="none" stroke="{_COLOURS["load"]}" stroke-width="1.5"/>'
    return _svg(height + 16, bars + plot + label + _axis(height + 12, end - begin))


def _spread(bins: list[float], begin: float, end: float, width: float) -> None:
    """Add a span of time to the bins that it lies in."""
    first, last = max(int(begin / width), 0), min(int(end / width), len(bins) - 1)
    for place in range(first, last + 1):
        bins[place] += max(min(end, (place + 1) * width) - max(begin, place * width), 0.0)


def _axis(y: int, seconds: float) -> str:
    marks = (
        f'<text x="{_LEFT + share * _WIDTH:.0f}" y="{y}" text-anchor="{anchor}">{duration(share * seconds)}</text>'
        for share, anchor in ((0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end"))
    )
    return "".join(marks)


def _svg(height: float, inside: str) -> str:
    return f'<svg width="{_LEFT + _WIDTH}" height="{height:.0f}" role="img">{inside}</svg>'


def told(loaders: Sequence[LoaderLane]) -> str:
    """One line for people: what was found."""
    faults = many(sum(len(loader.faults) for loader in loaders), "fault")
    batches = many(sum(len(loader.batches) for loader in loaders), "batch")
    return f"{many(len(loaders), 'loader')}, {batches}, {faults}"
