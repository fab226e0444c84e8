"""``python -m benchmarks.ffcv``: measure, print the tables, write them to RESULTS.md beside this file."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmarks.ffcv import speed, starts
from benchmarks.ffcv.data import prepare
from benchmarks.hangs import ffcv as hangs

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
PARTS = ("speed", "starts", "hangs")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ffcv", description=__doc__)
    parser.add_argument("--sizes", default="128,224", help="pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cap", type=float, default=hangs.CAP, help="seconds until a program is said to hang")
    parser.add_argument("--only", default=",".join(PARTS), help="parts")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for RESULTS.md")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "results" / "ffcv", help="for the photographs")
    asked = parser.parse_args()
    console, begun = Console(stderr=True), time.monotonic()

    def say(what: str) -> None:
        console.print(f"[dim]{time.monotonic() - begun:6.0f} s  {what}[/dim]", highlight=False)

    from safeloader.ffcv.require import require

    require()
    path = prepare(asked.data)
    parts = asked.only.split(",")
    lines = ["# FFCV, bare and wrapped", "", *_made_by(), ""]
    for part in PARTS:
        if part in parts:
            lines += [*_MEASURED[part](asked, path, say), ""]
    text = "\n".join(lines).rstrip() + "\n"
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "RESULTS.md").write_text(text, encoding="utf-8")
    say("written: RESULTS.md")
    print(text)


def _made_by() -> list[str]:
    line = " ".join(["python -m benchmarks.ffcv", *sys.argv[1:]])
    versions = ", ".join(f"{name} {version(name)}" for name in ("ffcv", "numba", "torch"))
    machine = f"{platform.system()} {platform.release()}, {os.cpu_count()} cores"
    return [
        f"Made by `{line}`: Python {platform.python_version()}, {versions}, {machine}.",
        "2,000 JPEG photographs of 64 to 256 pixels, batches of 64; random resized crop, flip, normalize.",
    ]


def _speed(asked: Any, path: Path, say: Callable[[str], None]) -> list[str]:
    lines = []
    for size in map(int, asked.sizes.split(",")):
        lines += [f"## Images a second, {size} px, {asked.workers} workers", ""]
        lines += ["| loader | best | to bare FFCV in the same round: median | lowest to highest |", "|---|---|---|---|"]
        for found in speed.measure(path, size, asked.workers, asked.rounds, say):
            lines.append(
                f"| {found.name} | {found.best:,.0f} | {found.ratio:.2f} | {found.lowest:.2f} to {found.highest:.2f} |"
            )
        lines.append("")
    return lines[:-1]


def _starts(asked: Any, path: Path, say: Callable[[str], None]) -> list[str]:
    lines = ["## Seconds until the first batch", "", "| what | seconds | to bare |", "|---|---|---|"]
    for what, seconds, bare in starts.measure(path, asked.workers, say):
        lines.append(f"| {what} | {seconds:.2f} | {'' if bare is None else f'{seconds / bare:.2f}'} |")
    return lines


def _hangs(asked: Any, path: Path, say: Callable[[str], None]) -> list[str]:
    say("ways to hang or lie")
    return ["## Ways to hang or lie", "", *hangs.table(hangs.WAYS, tuple(hangs.SCENARIOS), asked.cap, say)]


_MEASURED: dict[str, Callable[[Any, Path, Callable[[str], None]], list[str]]] = {
    "speed": _speed,
    "starts": _starts,
    "hangs": _hangs,
}


if __name__ == "__main__":
    main()
