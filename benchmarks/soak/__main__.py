"""``python -m benchmarks.soak --minutes 10``: loaders of all kinds beside each other, under faults; see the package."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.soak.strikes import Striker
from benchmarks.speed import report
from benchmarks.speed.child import end
from benchmarks.speed.plan import Table

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["loader", "loaders", "epochs", "batches", "interrupts", "faults survived", "bytes"]
GROWTH = 256e6
"""Bytes by which a trainer may have grown in all: arenas and allocators keep what they once used."""
WARM_UP, WIND_DOWN = 300.0, 240.0


def start(asked: argparse.Namespace, folder: Path, rank: int) -> subprocess.Popen[str]:
    """One trainer."""
    command = [
        sys.executable, "-m", "benchmarks.soak.trainer", str(folder), "--seconds", str(60 * asked.minutes),
        "--every", str(asked.every), "--rank", str(rank), "--world", str(asked.ranks),
    ]  # fmt: skip
    command += ["--no-forks"] if asked.no_forks else []
    command += ["--kinds", *asked.kinds] if asked.kinds else []
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)


def line(trainer: subprocess.Popen[str]) -> dict[str, Any]:
    """The next thing that a trainer tells; empty where it ended without a word."""
    assert trainer.stdout is not None
    told: dict[str, Any] = json.loads(trainer.stdout.readline() or "{}")
    return told


def soak(asked: argparse.Namespace, console: Console) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Run the trainers and strike until their time is over. Returns what each told, and the faults."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = [start(asked, Path(folder), rank) for rank in range(asked.ranks)]
        striker = Striker(Path(folder), random.Random(asked.seed))
        try:
            for trainer in trainers:
                line(trainer)
            console.print(f"[dim]{asked.ranks} trainers are warm; {asked.minutes:g} minutes of faults[/dim]")
            limit = time.monotonic() + 60 * asked.minutes - 10.0
            while time.monotonic() < limit and all(trainer.poll() is None for trainer in trainers):
                time.sleep(asked.every * striker.dice.uniform(0.5, 1.5))
                striker.strike([trainer.pid for trainer in trainers])
            striker.close()
            return [line(trainer) for trainer in trainers], dict(striker.struck)
        finally:
            for trainer in trainers:
                _end(trainer)


def _end(trainer: subprocess.Popen[str]) -> None:
    try:
        trainer.wait(WIND_DOWN)
    except subprocess.TimeoutExpired:
        end(trainer)


def problems(told: list[dict[str, Any]]) -> list[str]:
    """What should not have been."""
    found = []
    for rank, last in enumerate(told):
        if "rows" not in last:
            found.append(f"rank {rank} ended without a word")
            continue
        found += [f"rank {rank}: {what}" for what in last["problems"]]
        found += [f"rank {rank}, {row['kind']}: {what}" for row in last["rows"] for what in row["problems"]]
        found += [f"rank {rank} holds more than at the start: {name} ({count})" for name, count in last["left"].items()]
        before, after = last["memory"]
        if after - before > GROWTH:
            found.append(f"rank {rank} grew by {(after - before) / 1e6:.0f} MB")
    return found


def rows(told: list[dict[str, Any]]) -> list[list[str]]:
    """The table: a row a kind and rank."""
    table = []
    for rank, last in enumerate(told):
        for row in last.get("rows", ()):
            faults = ", ".join(f"{count} {cause}" for cause, count in sorted(row["faults"].items())) or "none"
            named = f"; {row['named']} ended by a DivergenceError" if row.get("named") else ""
            equal = "; ".join(row["problems"]) or f"equal to torch's{named}"
            counts = [str(row.get(name, 0)) for name in ("loaders", "epochs", "batches", "interrupts")]
            name = row["kind"] + (f", rank {rank}" if len(told) > 1 else "")
            table.append([name, *counts, faults, equal])
    return table


def main() -> int:
    """Run, show, write; 0 where nothing went wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("MINUTES", "10")))
    parser.add_argument("--every", type=float, default=2.0, help="seconds from one fault to the next, on average")
    parser.add_argument("--ranks", type=int, default=2, help="trainers beside each other")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the faults; their moments are chance")
    parser.add_argument("--kinds", nargs="*", help="only these kinds of loaders")
    parser.add_argument("--no-forks", action="store_true", help="trainers do not fork")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "soak")
    asked = parser.parse_args()
    console = Console(stderr=True, highlight=False)
    console.print(f"[dim]seed {asked.seed}; torch's batches are computed first[/dim]")
    told, struck = soak(asked, console)
    wrong = problems(told)
    forks = sum(last.get("forks", 0) for last in told)
    done = ", ".join(f"{count} {deed}" for deed, count in sorted(struck.items()))
    table = Table(
        title=f"{asked.minutes:g} minutes, {asked.ranks} trainers, a fault about every {asked.every:g} seconds",
        note=f"Faults from outside: {done}; {forks} forks of the trainer. {'; '.join(wrong) or 'Nothing was left.'}",
        columns=COLUMNS,
        rows=rows(told),
        raw=told,
    )
    report.show([table])
    for path in report.write(asked.out, [table], "python -m benchmarks.soak"):
        print(f"written: {path}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
