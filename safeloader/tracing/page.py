"""A report in one HTML file that needs nothing else: the verdict in words, then plots as SVG, and tables."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from safeloader.observe.format import brief, clock, duration, inline, printable
from safeloader.tracing.assets import KINDS, SCRIPT, STYLE
from safeloader.tracing.plots import extent, lanes_plot, rate_plot
from safeloader.tracing.verdict import verdict, waits_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from safeloader.tracing.lanes import LoaderLane

__all__ = ["page"]

_CALM = 0.05
_ZOOM = (
    '<p class="zoom no-script"><button data-act="in">closer</button> <button data-act="out">wider</button> '
    '<button data-act="left">◀</button> <button data-act="right">▶</button> <button data-act="all">all</button> '
    "or drag over a part; double-click shows all; ctrl or shift with the wheel; hover for what it is</p>"
)


def page(loaders: Sequence[LoaderLane], notes: Sequence[str], source: str) -> str:
    """The whole page."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>safeloader: {_escaped(source)}</title><style>{STYLE}</style><h1>{_escaped(source)}</h1>",
    ]
    parts += [_verdict(loader) for loader in loaders]
    parts += [f"<p>Note: {_escaped(note)}.</p>" for note in notes]
    parts += [_summary(loaders), _key()]
    for loader in loaders:
        parts.append(f"<h2>{_escaped(loader.name)}, trainer {_escaped(loader.trainer)}</h2>")
        parts += _loader(loader)
    return "".join([*parts, f"<script>{SCRIPT}</script></html>\n"])


def _escaped(value: object) -> str:
    return html.escape(printable(str(value)))


def _verdict(loader: LoaderLane) -> str:
    calm = not loader.faults and waits_of(loader).share < _CALM
    first, *rest = verdict(loader)
    told = f"<p><b>{_escaped(loader.name)}</b>: {_escaped(first)}.</p>"
    told += "".join(f"<p>{_escaped(sentence[:1].upper() + sentence[1:])}.</p>" for sentence in rest)
    return f'<div class="verdict{" good" if calm else ""}">{told}</div>'


def _loader(loader: LoaderLane) -> Iterator[str]:
    begin, end = extent(loader)
    if end > begin:
        yield f'<div class="run" data-seconds="{end - begin:.6f}"><h3>Who did what</h3>{_ZOOM}'
        yield lanes_plot(loader, begin, end)
        if len(loader.batches) > 1:
            yield "<h3>Batches a second (line), and the share of time that the trainer waited (area)</h3>"
            yield rate_plot(loader, begin, end)
        yield "</div>"
    if len(loader.batches) > 1:
        yield "<h3>How long each part of a batch took</h3>" + _quantiles(loader)
    if loader.faults:
        yield "<h3>Faults</h3>" + _faults(loader)


# ---------------------------------------------------------------- tables


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Cells are escaped. Columns whose names begin with ``#`` are numbers."""
    kinds = [" class=n" if name.startswith("#") else "" for name in columns]
    head = "".join(f"<th{kind}>{_escaped(name.lstrip('#'))}" for name, kind in zip(columns, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{_escaped(cell)}" for cell, kind in zip(row, kinds, strict=True)) for row in rows
    )
    return f"<div class=wide><table><tr>{head}{body}</table></div>"


def _summary(loaders: Sequence[LoaderLane]) -> str:
    rows = []
    for loader in loaders:
        begin, end = extent(loader)
        waits = waits_of(loader)
        rows.append((
            loader.name, loader.trainer, clock(begin) if begin else "-", duration(end - begin),
            f"{len(loader.batches):,}", f"{len(loader.batches) / waits.total:.3g}" if waits.total else "-",
            f"{waits.share:.1%}" if waits.total else "-",
            len(loader.lanes) - 1, len(loader.faults),
        ))  # fmt: skip
    columns = ("loader", "#trainer (pid)", "from", "#length", "#batches", "#batches/s", "#waited", "#processes",
               "#faults")  # fmt: skip
    return _table(columns, rows)


def _quantiles(loader: LoaderLane) -> str:
    """p50, p95, p99 of each part of a batch, for each worker and for all."""
    rows = []
    workers = sorted({batch["worker"] for batch in loader.batches if batch.get("worker") is not None})
    for name, chosen in [("all", None), *((f"worker {worker}", worker) for worker in workers)]:
        batches = [batch for batch in loader.batches if chosen is None or batch.get("worker") == chosen]
        loaded = [batch for batch in batches if batch.get("taken") is not None]
        for part, values in (
            ("load", [batch["collated"] - batch["taken"] for batch in loaded]),
            ("collate", [batch["finished"] - batch["collated"] for batch in loaded]),
            ("ready before it was asked for", [max(batch["asked"] - batch["finished"], 0.0) for batch in loaded]),
            ("wait", [batch["got"] - batch["asked"] for batch in batches]),
        ):
            if values:
                values.sort()
                shown = [brief(_quantile(values, share)) for share in (0.5, 0.95, 0.99)]
                rows.append((name, part, f"{len(values):,}", *shown, brief(values[-1])))
    return _table(("worker", "part", "#batches", "#p50", "#p95", "#p99", "#longest"), rows)


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
        f"<details><summary>stack of process {_escaped(fault.get('process'))}</summary>"
        f"<pre>{_escaped(fault['stack'])}</pre></details>"
        for fault in loader.faults
        if isinstance(fault.get("stack"), str)
    )
    return _table(columns, rows) + stacks


def _key() -> str:
    """The legend: everything that is drawn, in words."""
    shapes = {kind: f'<rect class="{kind}" width="16" height="12"/>' for kind in KINDS}
    for kind in ("fault-mark", "mark"):
        shapes[kind] = f'<line class="{kind}" x1="8" x2="8" y1="0" y2="12"/>'
    names = {"fault-mark": "fault", "mark": "note"}
    rows = (
        f'<li><svg viewBox="0 0 16 12">{shapes[kind]}</svg><b>{names.get(kind, kind)}</b>: {html.escape(words)}</li>'
        for kind, words in KINDS.items()
    )
    return f'<ul class="key">{"".join(rows)}</ul>'
