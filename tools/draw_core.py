"""Draw the core from its own tables: ``python -m tools.draw_core`` writes docs/core.md and docs/core-*.svg.

Which part takes an event is read from the supervisor's table of handlers, which part gives a command from its source,
who carries it out from the runtime's table of actions. What can become of a process is read from the table of
transitions; the events on which each happens are those of so many random walks through the simulated world of
tests/core/.
"""

from __future__ import annotations

import ast
import importlib
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import Any

from safeloader.core import messages as m
from safeloader.core.policy import CoreSettings
from safeloader.core.records import TRANSITIONS, ProcessState
from safeloader.core.supervisor import Supervisor

__all__ = ["WALKS", "changes", "files", "parts"]

DOCS = Path(__file__).resolve().parents[1] / "docs"
CORE = Path(__file__).resolve().parents[1] / "safeloader" / "core"
WALKS = 400
_ORDER = (
    "schedule", "consumer", "dispatch", "answers", "restoring", "deadlines", "shadows", "recovery",
    "quarantine", "fleet", "books", "supervisor",
)  # fmt: skip
_PLACES = {
    "": (20, 80), "STARTING": (130, 80), "READY": (400, 80), "CAPTURING": (250, 220), "KILLING": (250, 360),
    "STOPPING": (610, 220), "GONE": (500, 360),
}  # fmt: skip


def parts() -> list[tuple[str, str, list[str], list[str]]]:
    """For each part of the core its name, its words, the events it takes and the commands it gives."""
    supervisor = Supervisor(CoreSettings(num_workers=1))
    takes: dict[str, list[str]] = defaultdict(list)
    for event in m.EVENTS:
        part = type(supervisor._handlers[event].__self__)  # type: ignore[attr-defined]
        takes[part.__module__.rpartition(".")[2]].append(event.__name__)
    found = []
    for name in _ORDER:
        source = (CORE / f"{name}.py").read_text(encoding="utf-8")
        made = {
            node.func.attr
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_command(node.func)
        }
        words = (importlib.import_module(f"safeloader.core.{name}").__doc__ or "").splitlines()[0]
        found.append((name, words, takes.pop(name, []), [c.__name__ for c in m.COMMANDS if c.__name__ in made]))
    assert not takes, f"no place in the picture for {set(takes)}"
    left = {command.__name__ for command in m.COMMANDS}.difference(*(gives for _, _, _, gives in found))
    assert not left, f"no place in the picture for {left}"
    return found


def _is_command(call: ast.Attribute) -> bool:
    commands = {command.__name__ for command in m.COMMANDS}
    return isinstance(call.value, ast.Name) and call.value.id == "m" and call.attr in commands


def changes(walks: int = WALKS) -> dict[tuple[str, str], list[str]]:
    """From which state of a process to which, and on which events, in order.

    Raises:
        AssertionError: the walks show a transition that the table lacks, or lack one that it has.
    """
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)

    class Watched(Supervisor):
        def handle(self, event: m.Event, now: float) -> list[m.Command]:
            before = self._states()
            commands = super().handle(event, now)
            after = self._states()
            for number in before.keys() | after.keys():
                old, new = before.get(number, ""), after.get(number, "GONE")
                if old != new:
                    seen[old, new].add(type(event).__name__)
            return commands

        def _states(self) -> dict[int, str]:
            return {number: p.state.name for number, p in self.fleet.processes.items() if number != m.INLINE}

    walk = importlib.import_module("tests.core.walker").walk
    for seed in range(walks):
        walk(seed, Watched)
    listed = {(old.name, new.name) for old, reasons in TRANSITIONS.items() for new in reasons} | {("", "STARTING")}
    assert seen.keys() == listed, f"only walked: {seen.keys() - listed}; only in the table: {listed - seen.keys()}"
    places = list(_PLACES)
    order = sorted(seen, key=lambda pair: (places.index(pair[0]), places.index(pair[1])))
    return {pair: sorted(seen[pair]) for pair in order}


# ---------------------------------------------------------------- drawing


def _svg(width: int, height: int, body: list[str]) -> str:
    style = (
        "text{font:13px sans-serif;fill:#1f2937}.s{font-size:11px;fill:#6b7280}.b{font-weight:600}"
        ".n{fill:#eef2ff;stroke:#4f46e5}.p{fill:#fff;stroke:#9ca3af}.l{stroke:#6b7280;fill:none}"
    )
    arrow = '<marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    arrow += '<path d="M0 0 8 4 0 8z" fill="#6b7280"/></marker>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">'
    back = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join([head, f"<style>{style}</style><defs>{arrow}</defs>{back}", *body, "</svg>", ""])


def _flow() -> str:
    """Events, the parts that take them, and the commands that these give."""
    body = [
        '<text class="b" x="20" y="24">events</text>',
        '<text class="b" x="300" y="24">the supervisor\'s parts</text>',
        '<text class="b" x="640" y="24">commands</text>',
    ]
    top = 40
    for name, words, takes, gives in parts():
        rows = max(len(takes), len(gives), 2)
        height = 18 * rows + 12
        middle = top + height / 2
        body.append(f'<rect class="n" x="290" y="{top}" width="280" height="{height - 6}" rx="6"/>')
        body.append(f'<text class="b" x="302" y="{middle - 6:.0f}">{name}</text>')
        body.append(f'<text class="s" x="302" y="{middle + 10:.0f}">{escape(_short(words))}</text>')
        for column, end, listed in ((20, 290, takes), (640, 570, gives)):
            begin = middle - 9 * len(listed)
            for row, word in enumerate(listed):
                y = begin + 18 * row + 10
                body.append(f'<text x="{column}" y="{y:.0f}">{word}</text>')
                start, stop = (172, end) if column < end else (end, column - 6)
                body.append(f'<path class="l" marker-end="url(#a)" d="M{start} {y - 4:.0f}H{stop}"/>')
        top += height
    return _svg(800, top + 10, body)


def _short(words: str) -> str:
    words = words.replace("``", "").partition(":")[0].rstrip(".")
    return words if len(words) < 44 else words[:42].rsplit(" ", 1)[0].rstrip(",;:") + " ..."


def _states(found: dict[tuple[str, str], list[str]]) -> str:
    """A process's states, with numbers on the ways between them."""
    body = []
    for number, (old, new) in enumerate(found, 1):
        (x1, y1), (x2, y2) = _PLACES[old], _PLACES[new]
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        aside = 9 if (new, old) in found else 0
        dx, dy = (y2 - y1) / length * aside, (x1 - x2) / length * aside
        shorten = min(52 / max(abs(x2 - x1) / length, 0.01), 18 / max(abs(y2 - y1) / length, 0.01))
        ex, ey = x2 - (x2 - x1) / length * shorten + dx, y2 - (y2 - y1) / length * shorten + dy
        body.append(f'<path class="l" marker-end="url(#a)" d="M{x1 + dx:.0f} {y1 + dy:.0f}L{ex:.0f} {ey:.0f}"/>')
        share = 0.35 if not old else 0.42 if number % 2 else 0.6
        mx, my = x1 + dx + (ex - x1 - dx) * share, y1 + dy + (ey - y1 - dy) * share
        body.append(f'<circle class="p" cx="{mx:.0f}" cy="{my:.0f}" r="9"/>')
        body.append(f'<text class="s" text-anchor="middle" x="{mx:.0f}" y="{my + 4:.0f}">{number}</text>')
    for name, (x, y) in _PLACES.items():
        if name:
            body.append(f'<rect class="n" x="{x - 50}" y="{y - 16}" width="100" height="32" rx="6"/>')
            body.append(f'<text class="b" text-anchor="middle" x="{x}" y="{y + 5}">{name}</text>')
        else:
            body.append(f'<circle cx="{x}" cy="{y}" r="6" fill="#4f46e5"/>')
    return _svg(700, 410, body)


def _reason(old: str, new: str) -> str:
    return TRANSITIONS[ProcessState[old]][ProcessState[new]] if old else "there are fewer than policy wants"


def _page(found: dict[tuple[str, str], list[str]]) -> str:
    rows = [
        f"| {number} | {old or '(new)'} | {new} | {_reason(old, new)} | {', '.join(f'`{event}`' for event in events)} |"
        for number, ((old, new), events) in enumerate(found.items(), 1)
    ]
    return "\n".join([
        "# The core, drawn from its tables",
        "",
        "Made by `python -m tools.draw_core` from the code itself; a test sees to it that it is current.",
        "",
        "## Who takes which event, who gives which command",
        "",
        "![events, the parts of the supervisor that take them, and the commands that these give](core-flow.svg)",
        "",
        "Each part may ask another: an event that one takes can end in a command that another gives.",
        "",
        "## What becomes of a process",
        "",
        "![the states of a process](core-states.svg)",
        "",
        "The table is `TRANSITIONS` in `safeloader/core/records.py`; no other change is possible. The events are",
        f"those of {WALKS} random walks through the simulated world of `tests/core/`, in which each must happen.",
        "`ProcessExited` of one process can begin or end others, as the ladder goes.",
        "",
        "| # | from | to | because | on |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip


def files() -> dict[str, str]:
    """What the files in docs/ should hold, by name."""
    found: Any = changes()
    return {"core.md": _page(found), "core-flow.svg": _flow(), "core-states.svg": _states(found)}


def main() -> None:
    """Write them."""
    for name, text in files().items():
        (DOCS / name).write_text(text, encoding="utf-8")
        print(f"written: docs/{name}")


if __name__ == "__main__":
    main()
