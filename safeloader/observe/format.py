"""Small words for people: durations, plurals, lists of samples, and the telling part of a stack."""

from __future__ import annotations

import math
import re
import time
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "brief", "clock", "duration", "inline", "many", "ordinal", "plain", "printable", "samples", "stack_lines",
    "stack_place",
]  # fmt: skip

# A row of a traceback, `File "x.py", line 3, in f`, or of faulthandler's, `File "x.py", line 3 in f`.
_ROW = re.compile(r'^\s*File "(?P<file>.*)", line (?P<line>\d+),? in (?P<name>.+?)\s*$')
# What moves the cursor, changes colours, turns the direction of writing around, or cannot be encoded.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_THREAD = re.compile(r"^(Current thread|Thread) .*\(most recent call first\)")


def duration(seconds: float) -> str:
    """A time span as people say it: ``2.1 s``, ``130 s``, ``14 min``, ``8.1 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def brief(seconds: float) -> str:
    """A time span of any size: ``47 µs``, ``3.2 ms``, then as `duration`."""
    if seconds < 0.0995:
        number, unit = (seconds * 1e6, "µs") if seconds < 0.000995 else (seconds * 1e3, "ms")
        return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return duration(seconds)


def clock(unix_seconds: float) -> str:
    """Local date and time, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_seconds))


def many(number: int, thing: str) -> str:
    """A number of things: ``1 fault``, ``2 faults``, ``18,500 batches``."""
    ending = "" if number == 1 else "es" if thing.endswith(("ss", "tch")) else "s"
    return f"{number:,} {thing}{ending}"


def printable(text: str) -> str:
    r"""Text as it may go to a terminal or a log: control characters are shown as escapes, and do nothing there.

    Lines and tabs stay. A byte of a name that is no UTF-8 is shown as ``\xff``.
    """
    return text if text.isprintable() else _UNSAFE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that could not be decoded
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def ordinal(number: int) -> str:
    """A place in a row, from 1: ``1st``, ``2nd``, ``11th``."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def inline(value: object, most: int = 200) -> str:
    """Any value as text on one line, of at most `most` characters."""
    try:
        text = printable(" ".join(str(value).split()))
    except Exception:
        text = f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= most else text[: most - 3] + "..."


def samples(indices: Sequence[Any], most: int = 3) -> str:
    """A few samples by name: ``sample 17``; ``samples 17, 4, 99, ... (32 in all)``."""
    shown = ", ".join(inline(index, 60) for index in indices[:most])
    rest = f", ... ({len(indices):,} in all)" if len(indices) > most else ""
    return f"sample{'' if len(indices) == 1 else 's'} {shown}{rest}"


def stack_lines(stack: str, most: int = 16) -> list[str]:
    """The lines of a stack nearest to where it stands, at most `most` and a note about the rest.

    A traceback has its last call at the end; faulthandler's has it on top, and one block a thread.
    """
    if not any(_THREAD.match(line) for line in stack.splitlines()):
        lines = [line.rstrip() for line in stack.strip("\n").splitlines()]
        left_out = len(lines) - most
        return lines if left_out <= 0 else [f"... ({left_out} outer lines)", *lines[left_out:]]
    lines = _main_thread(stack)
    left_out = len(lines) - most
    return lines if left_out <= 0 else [*lines[:most], f"... ({left_out} outer lines)"]


def stack_place(stack: str | None) -> str:
    """Where a stack stands, for one line: ``data/photos.py:41 in __getitem__``; "" if that is not known."""
    if not stack:
        return ""
    newest_first = any(_THREAD.match(line) for line in stack.splitlines())
    lines = _main_thread(stack) if newest_first else stack.splitlines()
    rows = [row for row in map(_ROW.match, lines) if row]
    if not rows:
        return ""
    row = rows[0] if newest_first else rows[-1]
    file = "/".join(row["file"].replace("\\", "/").split("/")[-2:])
    return f"{file}:{row['line']} in {row['name']}"


def _main_thread(stack: str) -> list[str]:
    """The block of the current thread; else of the oldest, which faulthandler prints last."""
    blocks: list[list[str]] = []
    for line in stack.splitlines():
        if _THREAD.match(line):
            blocks.append([])
        if blocks and line.strip():
            blocks[-1].append(line.rstrip())
    current = [block for block in blocks if block[0].startswith("Current")]
    return (current or blocks)[-1]


def plain(value: object) -> Any:
    """The nearest value JSON can hold: numbers of any library as numbers, unknown objects as text."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, dict):
        return {inline(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return inline(value)
