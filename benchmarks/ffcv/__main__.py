"""``python -m benchmarks.ffcv``: measure, print the tables, write them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

from benchmarks.ffcv import speed, starts
from benchmarks.ffcv.data import prepare

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ffcv", description=__doc__)
    parser.add_argument("--sizes", default="128,224", help="pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("speed", "starts"))
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "ffcv")
    asked = parser.parse_args()
    console, begun = Console(stderr=True), time.monotonic()

    def say(what: str) -> None:
        console.print(f"[dim]{time.monotonic() - begun:6.0f} s  {what}[/dim]", highlight=False)

    from safeloader.ffcv.need import require

    require()
    path = prepare(asked.out)
    lines = [f"`python -m benchmarks.ffcv --sizes {asked.sizes} --workers {asked.workers} --rounds {asked.rounds}`", ""]
    if asked.only != "starts":
        for size in map(int, asked.sizes.split(",")):
            lines += [f"## Images a second, {size} px, {asked.workers} workers", ""]
            lines += ["| loader | best | to bare FFCV (median) |", "|---|---|---|"]
            for name, best, ratio in speed.measure(path, size, asked.workers, asked.rounds, say):
                lines.append(f"| {name} | {best:,.0f} | {ratio:.2f} |")
            lines.append("")
    if asked.only != "speed":
        say("starts and changes of size")
        lines += ["## Seconds until the first batch", "", "| what | seconds |", "|---|---|"]
        lines += [f"| {what} | {seconds:.2f} |" for what, seconds in starts.measure(path, asked.workers)]
    text = "\n".join(lines) + "\n"
    (asked.out / "RESULTS.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
