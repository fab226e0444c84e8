"""Run the incidents and print the table: ``python -m benchmarks.incidents [--only epoch_two] [--markdown FILE]``."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.incidents.watching import Row

INCIDENTS = ("silent_validation", "epoch_two", "never_learned", "ffcv_ranks", "collapse")
_HEAD = ("incident", "", "what happened", "noticed after", "lost", "finished", "final metric")


def main() -> None:
    """The command line. Exit status 1 if something is not as the project claims."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.incidents", description=__doc__)
    parser.add_argument("--only", choices=INCIDENTS, action="append", help="only this one; may be repeated")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    options = parser.parse_args()
    rows: list[Row] = []
    for name in tqdm(options.only or INCIDENTS, unit=" incidents"):
        rows += _measured(name)
    Console().print(_table(rows))
    if options.markdown:
        options.markdown.write_text(_markdown(rows), encoding="utf-8")
    for row in rows:
        if not row.as_claimed:
            print(f"not as claimed: {row.incident}, {row.side}", file=sys.stderr)
    sys.exit(not all(row.as_claimed for row in rows))


def _measured(name: str) -> list[Row]:
    """An incident's rows, each by itself (see `watching.judged`)."""
    module = importlib.import_module(f"benchmarks.incidents.{name}")
    rows: list[Row] = module.measure()
    return rows


def _cells(row: Row) -> list[str]:
    finished = "yes" if row.finished else "no"
    return [row.incident, row.side, row.happened, row.noticed, row.lost, finished, row.metric]


def _table(rows: Sequence[Row]) -> Table:
    table = Table(*_HEAD)
    for row in rows:
        table.add_row(*_cells(row), style="" if row.as_claimed else "red")
    return table


def _markdown(rows: Sequence[Row]) -> str:
    lines = [
        "# The incidents, without and with safeloader", "", "Made by `python -m benchmarks.incidents`.", "",
        f"| {' | '.join(_HEAD)} |", "|" + "---|" * len(_HEAD),
    ]  # fmt: skip
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in _cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
