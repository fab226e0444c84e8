"""``safeloader top`` in a terminal: the view is drawn anew at each look, and keys scroll, sort and end it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from safeloader.cli.tables import console, needs
from safeloader.cli.toplook import ORDERS
from safeloader.cli.topview import body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from safeloader.cli.toplook import Look

__all__ = ["Screen", "live"]

_KEYS = {
    "\x1b[A": "k", "\x1bOA": "k", "\x1b[B": "j", "\x1bOB": "j", "\x1b[5~": "b", "\x1b[6~": " ", "\x1b[H": "g",
    "\x1b[F": "G", "\x1b[1~": "g", "\x1b[4~": "G", "h": "?",
}  # fmt: skip
_KEY = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO.|.", re.DOTALL)  # of what was typed since the last look
_HELP = """\
q        end
s, S     sort by the next, the last: {orders}
j, k     a line down, up (arrows, too)
space, b a page down, up
g, G     to the top, to the end
?        this, and back

Programs that wait for data come first. A loader that
waits is yellow; a worker that is stopped, gone, or whose
batch has failed before is red. `age`: seconds on this
sample. `attempts`: processes that this batch has cost.
"""


class Screen:
    """What is seen of the view, and what keys do to it."""

    def __init__(self, order: str = "waiting") -> None:
        self.order = order
        self.top = 0
        self.help = False
        self._lines = self._room = 0

    def press(self, key: str) -> bool:
        """A key; returns whether it ends the view."""
        key = _KEYS.get(key, key)
        orders = list(ORDERS)
        if key in ("s", "S"):
            self.order = orders[(orders.index(self.order) + (1 if key == "s" else -1)) % len(orders)]
        elif key == "?":
            self.help = not self.help
        page = max(self._room - 1, 1)
        moves = {"j": self.top + 1, "k": self.top - 1, " ": self.top + page, "b": self.top - page, "g": 0}
        self.top = moves.get(key, self._lines if key == "G" else self.top)
        return key in ("q", "Q", "\x04")

    def draw(self, look: Look, made: Any) -> Any:
        """What is to be shown, for rich: the summary, as many lines as there is room for, and the keys."""
        group, segments = needs("rich.console").Group, needs("rich.segment")
        text = needs("rich.text").Text
        width, height = made.size
        parts = [_HELP.format(orders=", ".join(ORDERS))] if self.help else body(look, width, self.order)
        lines = made.render_lines(group(*parts), made.options.update(height=None), pad=False)
        self._room = max(height - 2, 1)
        self._lines = len(lines)
        self.top = min(max(self.top, 0), max(self._lines - self._room, 0))
        shown = lines[self.top : self.top + self._room]
        rest = self._lines - self.top - len(shown)
        below = f"; {rest} lines below" if rest > 0 else ""
        keys = f"q end  ? help  s sort ({self.order}){below}"
        flat = [piece for line in shown for piece in (*line, segments.Segment.line())]
        return group(
            text(look.summary, style="bold", no_wrap=True, overflow="ellipsis"),
            segments.Segments(flat),
            text(keys, style="reverse", no_wrap=True, overflow="ellipsis"),
        )


def live(look: Callable[[], Look], interval: float, order: str) -> None:
    """Show it until a key, or Ctrl-C, ends it."""
    made, screen = console(), Screen(order)
    seen = look()
    with _keys() as keys, needs("rich.live").Live(
        screen.draw(seen, made), console=made, screen=True, auto_refresh=False
    ) as shown:  # fmt: skip
        due = monotonic() + interval
        while True:
            key = keys(max(due - monotonic(), 0.0))
            if any(screen.press(one) for one in _KEY.findall(key or "")):
                return
            if monotonic() >= due:
                seen, due = look(), monotonic() + interval
            shown.update(screen.draw(seen, made), refresh=True)


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """What waits for a key for so many seconds; where standard input is no terminal, none ever comes."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield sleep
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)  # Ctrl-C still interrupts

    def key(seconds: float) -> str | None:
        if not select.select([descriptor], [], [], seconds)[0]:
            return None
        return os.read(descriptor, 16).decode(errors="replace") or "q"  # the terminal has gone

    try:
        yield key
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
