"""What a page of the documentation claims that can be checked: its programs and its commands.

In a page, beside fenced blocks::

    <!-- setup                     what its programs need and no reader wants to see, run where it stands
    dataset = ...
    -->
    <!-- not run: why -->          the block that follows is not run
    <!-- prints: some text -->     the page's program prints this

All ``python`` blocks of a page are one program, from top to bottom. In all other blocks, and in code within a line,
``safeloader ...``, ``make ...`` and ``pip install '.[...]'`` are commands.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["ROOT", "Page", "commands", "pages", "read"]

ROOT = Path(__file__).resolve().parents[2]

_PIECE = re.compile(
    r"<!-- setup\n(?P<setup>.*?)^-->$"
    r"|<!-- not run: (?P<why>[^\n]+) -->\n+```python\n.*?^```$"
    r"|<!-- prints: (?P<prints>[^\n]*) -->"
    r"|^```python\n(?P<program>.*?)^```$",
    re.S | re.M,
)
_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.S | re.M)
_INLINE = re.compile(r"`((?:safeloader|make|python -m|pip install) [^`]+)`")
_LINE = re.compile(r"^\$? ?((?:[A-Z_]+=\S+ )*(?:safeloader|make|pip install|python -m safeloader\S*) .*)$")


class Page(NamedTuple):
    """One page.

    Attributes:
        path: of the file, from the root of the tree.
        program: its programs, one after the other, on the lines where they stand; "" if there are none.
        prints: what that has to print.
        not_run: why some are not run.
    """

    path: str
    program: str
    prints: list[str]
    not_run: list[str]


def pages() -> list[str]:
    """All pages, as paths from the root of the tree."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(path.relative_to(ROOT)) for path in found]


def read(path: str) -> Page:
    """What a page's programs are."""
    text = (ROOT / path).read_text(encoding="utf-8")
    program = ["\n"] * (text.count("\n") + 1)
    prints, not_run = [], []
    for found in _PIECE.finditer(text):
        for kind in ("setup", "program"):
            if found[kind] is not None:
                first = text.count("\n", 0, found.start(kind))
                lines = found[kind].splitlines(keepends=True)
                program[first : first + len(lines)] = lines
        if found["prints"] is not None:
            prints.append(found["prints"])
        if found["why"] is not None:
            not_run.append(found["why"])
    joined = "".join(program)
    return Page(path, joined if joined.strip() else "", prints, not_run)


def commands(path: str) -> list[str]:
    """The commands that a page shows, each once, without comments and variables set for them."""
    text = (ROOT / path).read_text(encoding="utf-8")
    found = []
    for language, block in _BLOCK.findall(text):
        if language.startswith(("python", "{")):
            continue
        lines = block.splitlines()
        typed = [line for line in lines if line.startswith("$ ")]  # the others are then what it answers
        found += [line for one in typed or lines for line in _LINE.findall(one)]
    found += _INLINE.findall(text)
    plain = (re.sub(r"^(?:[A-Z_]+=\S+ )+", "", re.split(r"\s+#|\s\|\s|\s>", one)[0]).strip() for one in found)
    return list(dict.fromkeys(plain))
