"""``python -m benchmarks.speed``: measure, print the tables, write them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

from benchmarks.speed import report
from benchmarks.speed.measure import GROUPS
from benchmarks.speed.plan import Plan

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--only", help=f"comma-separated: {', '.join(GROUPS)}")
    parser.add_argument("--repeats", type=int, default=None, help="pairs per measurement (5; quick: 3)")
    parser.add_argument("--quick", action="store_true", help="shorter epochs, fewer variants")
    parser.add_argument("--loaders", default="torch,safeloader", help="the pair; torch,torch shows the noise")
    parser.add_argument("--out", type=Path, help="folder for RESULTS.md and results.json")
    asked = parser.parse_args()
    asked.groups = asked.only.split(",") if asked.only else list(GROUPS)
    unknown = [name for name in asked.groups if name not in GROUPS]
    if unknown:
        parser.error(f"no group is called {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    asked.pair = tuple(asked.loaders.split(","))
    if len(asked.pair) != 2:
        parser.error("--loaders takes two names")
    return asked


def main() -> None:
    """Measure what the command line asks for."""
    asked = arguments()
    complete = not (asked.only or asked.quick) and asked.pair == ("torch", "safeloader")
    folder: Path = asked.out or (HERE if complete else ROOT / "results" / "speed")
    console = Console(stderr=True)
    begun = time.monotonic()

    def say(what: str) -> None:
        console.print(f"[dim]{time.monotonic() - begun:6.0f} s  {what}[/dim]", highlight=False)

    plan = Plan(asked.pair, asked.repeats or (3 if asked.quick else 5), asked.quick, say)
    tables = [GROUPS[name](plan) for name in asked.groups]
    report.show(tables)
    how = "python -m benchmarks.speed"
    how += f" --only {asked.only}" if asked.only else ""
    how += f" --repeats {plan.repeats}" + (" --quick" if asked.quick else "")
    for path in report.write(folder, tables, how):
        print(f"written: {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")


if __name__ == "__main__":
    main()
