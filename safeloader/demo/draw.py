"""One picture: batches over time with the faults, in characters or as SVG."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from safeloader.demo.run import Run

__all__ = ["html", "svg", "text"]

_LEVELS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:-=+*#@"
_MARKS = {"kill": "K", "hang": "H", "stop": "S"}
_WORDS = {"kill": "a worker is killed", "hang": "a sample hangs", "stop": "a worker is stopped"}


def _span(runs: Sequence[Run]) -> float:
    return max(1.0, *(run.seconds for run in runs))


def text(runs: Sequence[Run], width: int = 100, plain: bool = False) -> str:
    """The picture in characters: a row a run, a column a moment, as high as batches came in it.

    Args:
        runs: what to draw.
        width: columns of the terminal.
        plain: ASCII alone.
    """
    levels = _ASCII if plain else _LEVELS
    names = max(len(run.title) for run in runs)
    columns = max(20, min(width, 120) - names - 12)
    step = _span(runs) / columns
    rows = [f"batches over time, {step:.2g} s a column; K killed, H hangs, S stopped, X over"]
    counts = [_counts(run, columns, step) for run in runs]
    most = max(1, *(max(count) for count in counts))
    for run, count in zip(runs, counts, strict=True):
        cells = [levels[0 if not n else max(1, round(n / most * 8))] for n in count]
        marks = [(at, _MARKS[fault]) for at, fault in run.struck] + ([] if run.finished else [(run.seconds, "X")])
        for at, mark in marks:
            column = min(columns - 1, int(at / step))
            while cells[column] in "KHSX" and column < columns - 1:  # none hides another
                column += 1
            cells[column] = mark
        rows.append(f"{run.title:<{names}} {''.join(cells)} {len(run.batches):>3}/{run.due}")
    return "\n".join(row.rstrip() for row in rows)


def _counts(run: Run, columns: int, step: float) -> list[int]:
    count = [0] * columns
    for at in run.batches:
        count[min(columns - 1, int(at / step))] += 1
    return count


# ---------------------------------------------------------------- SVG

_WIDE, _LEFT, _TOP, _HIGH, _ROW = 900, 52, 34, 250, 20
_RIGHT = 18
# Colours that can be told apart on light and dark ground, and without colours by their dashes and marks.
_STYLE = """
text{font:13px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#24292f}
.s{font-size:11.5px;fill:#57606a}.g{stroke:#d0d7de;stroke-width:1}
.l{fill:none;stroke-width:2}.torch{stroke:#8c959f;stroke-dasharray:6 3}.safe{stroke:#0969da}.bad{stroke:#cf222e}
.m{fill:#bf8700;stroke:#fff}.x{stroke:#cf222e;stroke-width:2.2}.b{fill:#fff}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}.g{stroke:#3d444d}.torch{stroke:#9198a1}
.safe{stroke:#4493f8}.bad,.x{stroke:#f85149}.m{fill:#d29922;stroke:#0d1117}.b{fill:#0d1117}}
"""


def svg(runs: Sequence[Run]) -> str:
    """The picture as SVG: for each run the batches that it has, over the seconds since the first one."""
    span, due = _span(runs), max(1, *(run.due for run in runs))
    high = _TOP + _HIGH + 40 + _ROW * len(runs)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {high}" role="img">',
        f"<title>{escape(_label(runs))}</title>",
        f'<style>{_STYLE}</style><rect class="b" width="{_WIDE}" height="{high}"/>',
        f'<text x="{_LEFT}" y="20">batches delivered, over seconds since the first one</text>',
        *_grid(span, due),
    ]
    for number, run in enumerate(runs):
        parts += _curve(run, span, due)
        parts += _legend(run, _TOP + _HIGH + 44 + _ROW * number)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _label(runs: Sequence[Run]) -> str:
    return "Batches over time. " + " ".join(f"{run.title}: {len(run.batches)} of {run.due}." for run in runs)


def _x(at: float, span: float) -> float:
    return round(_LEFT + at / span * (_WIDE - _LEFT - _RIGHT), 1)


def _y(count: float, due: int) -> float:
    return round(_TOP + _HIGH - count / due * _HIGH, 1)


def _grid(span: float, due: int) -> Iterator[str]:
    every = next((step for step in (1, 2, 5, 10, 20, 50) if span / step <= 10), 100)
    for second in range(0, int(span) + 1, every):
        x = _x(second, span)
        yield f'<line class="g" x1="{x}" y1="{_TOP}" x2="{x}" y2="{_TOP + _HIGH}"/>'
        yield f'<text class="s" x="{x}" y="{_TOP + _HIGH + 16}" text-anchor="middle">{second} s</text>'
    for count in (0, due // 2, due):
        y = _y(count, due)
        yield f'<line class="g" x1="{_LEFT}" y1="{y}" x2="{_WIDE - _RIGHT}" y2="{y}"/>'
        yield f'<text class="s" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{count}</text>'


def _kind(run: Run) -> str:
    return "safe" if run.loader == "safeloader" else "bad" if run.faults else "torch"


def _curve(run: Run, span: float, due: int) -> Iterator[str]:
    path = f"M{_x(0, span)} {_y(0, due)}"
    for count, at in enumerate(run.batches, start=1):
        path += f"H{_x(at, span)}V{_y(count, due)}"
    if not run.finished:
        path += f"H{_x(run.seconds, span)}"
    yield f'<path class="l {_kind(run)}" d="{path}"/>'
    for at, fault in run.struck:
        x, y = _x(at, span), _y(sum(when <= at for when in run.batches), due)
        yield f'<circle class="m" cx="{x}" cy="{y}" r="5.5"><title>{_WORDS[fault]}</title></circle>'
        if run.loader == "safeloader":
            yield f'<text class="s" x="{x + 9}" y="{y + 13}">{_WORDS[fault]}</text>'
    if not run.finished:
        x, y = _x(run.seconds, span), _y(len(run.batches), due)
        yield f'<path class="x" d="M{x - 5} {y - 5}l10 10m0 -10l-10 10"/>'


def _legend(run: Run, y: int) -> Iterator[str]:
    end = "" if run.finished else f": {run.ended}"
    yield f'<line class="l {_kind(run)}" x1="{_LEFT}" y1="{y - 4}" x2="{_LEFT + 26}" y2="{y - 4}"/>'
    said = f"{run.title}: {len(run.batches)} of {run.due} batches{end}"
    yield f'<text class="s" x="{_LEFT + 34}" y="{y}">{escape(said if len(said) < 130 else said[:126] + " ...")}</text>'


def html(runs: Sequence[Run], sentences: Sequence[str]) -> str:
    """The picture and the verdict as a page that needs nothing else."""
    said = "".join(f"<p>{escape(sentence)}</p>\n" for sentence in sentences)
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">\n'
        '<meta name="viewport" content="width=device-width"><title>safeloader demo</title>\n'
        "<style>body{font:16px system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;"
        "overflow-wrap:anywhere}svg{width:100%;height:auto}</style>\n"
        f"<h1>safeloader demo</h1>\n{svg(runs)}{said}</html>\n"
    )
