"""What `safeloader top` shows of made-up programs: the order, the summary, few columns, scrolling."""

from __future__ import annotations

import io
import re
from typing import Any

from safeloader.cli.toplive import Screen
from safeloader.cli.toplook import Look, in_order
from safeloader.cli.topview import render


def program(pid: int, waits: float = 0.0, name: str = "train", **more: Any) -> dict[str, Any]:
    """A made-up answer."""
    crew = [{"worker": w, "process": 100 + w, "state": "idle" if w else "loading", "batch": None if w else 7,
             "sample": None if w else 31, "age": 2.0, "attempts": 0, "queued": 1, "memory": 1 << 27,
             "os_state": "sleeping"} for w in range(4)]  # fmt: skip
    loader = {"name": name, "epoch": 0, "batch": 3, "length": 9, "rate": 2.0, "wait_share": 0.5, "waiting": waits > 0,
              "busy": True, "since": waits or 0.1, "workers": 4, "processes": 4, "faults": 0, "restarts": 0,
              "fallbacks": 0, "skipped": 0, "crew": crew}  # fmt: skip
    made = {"v": 1, "pid": pid, "program": ["/home/me/train.py"], "loaders": [loader | more], "memory": 1 << 28}
    return made | {"os_state": "running"}


def shown(look: Look, width: int) -> str:
    from rich.console import Console

    console = Console(width=width, file=io.StringIO(), markup=False)
    console.print(render(look, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_programs_that_wait_come_first_and_are_counted() -> None:
    look = Look(
        [program(1), program(2, 3.0), program(3, 0.2), program(4, 60.0), program(5, faults=3)], ["process 9 ..."]
    )
    assert [one["pid"] for one in in_order(look.programs, "waiting")] == [4, 2, 3, 1, 5]
    assert [one["pid"] for one in in_order(look.programs, "faults")] == [5, 1, 2, 3, 4]
    assert look.summary == "2 of 5 programs wait for data, 1 does not answer, 3 faults so far"
    text = shown(look, 160)
    assert text.startswith(look.summary)
    assert text.index("process 9") < text.index("\n4: train.py") < text.index("\n2: ") < text.index("\n1: ")


def test_fifty_columns_are_enough() -> None:
    text = shown(Look([program(4_194_304, 60.0, name="n" * 60)]), 50)
    assert max(map(len, text.splitlines())) <= 50
    assert "waits for a batch, 60 s" in text
    assert "3 idle" in text
    assert not re.search(r"^ *\S{1,3}$", text, re.M), f"no word is broken:\n{text}"


def test_nothing_that_a_name_says_steers_the_terminal() -> None:
    odd = program(1, name="\x1b[31mred\x07")
    odd["program"] = ["\x1b]0;title\x07.py", "\udcff"]
    for width in (50, 160):
        text = shown(Look([odd], ["process \x1b[2J"]), width)
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\\x1b[31mred" in text


def test_a_screen_scrolls_between_its_ends() -> None:
    from rich.console import Console

    console, screen = Console(width=120, height=12, file=io.StringIO()), Screen()
    look = Look([program(number) for number in range(9)])
    lines = len(console.render_lines(render(look, 120), console.options.update(height=None), pad=False))
    for key, top in (("k", 0), ("j", 1), (" ", 10), ("b", 1), ("G", lines - 1 - 10), ("j", lines - 1 - 10), ("g", 0)):
        assert not screen.press(key)
        screen.draw(look, console)
        assert screen.top == top, key
    assert screen.press("q")
