"""``python -m benchmarks.ranks``: 2 ranks with 2 workers each, calm and with a fault every 50 batches."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.speed import report
from benchmarks.speed.plan import Table

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["loader", "faults", "batches", "images a second", "exposed stall", "longest wait for a batch"]


def run(loader: str, asked: argparse.Namespace, every: int) -> dict[str, Any]:
    """One epoch on all ranks.

    Args:
        loader: "torch" or "safeloader".
        asked: The command line.
        every: Batches from one fault to the next; 0: none.

    Returns:
        ``batches``, ``images`` (a second, without the first batch), ``exposed`` and ``longest`` (seconds); of a run
        that ended early, only ``batches`` that it came to, and ``error``.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(asked.ranks),
            "-m", "benchmarks.ranks.program", loader, folder, "--every", str(every), "--batches", str(asked.batches),
            "--batch-size", str(asked.batch_size), "--workers", str(asked.workers),
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "SAFELOADER_LOG_LEVEL": "ERROR"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=asked.patience, check=False
        )
        if done.returncode == 0:
            told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return told
        progress = Path(folder) / "progress"
        reached = int(progress.read_text()) if progress.exists() else 0
        errors = [line for line in done.stderr.splitlines() if "Error: " in line and "ChildFailed" not in line]
        error = errors[0].rpartition("]: ")[2].strip() if errors else f"exit code {done.returncode}"
        return {"batches": reached, "error": error}


def row(loader: str, every: int, due: int, told: dict[str, Any]) -> list[str]:
    """One row of the table."""
    faults = f"SIGKILL every {every} batches" if every else "none"
    if "error" in told:
        return [loader, faults, f"{told['batches']} of {due}: the run died", "–", "–", told["error"][:90]]
    figures = [f"{told['images']:.0f}", f"{told['exposed']:.2f} s", f"{told['longest']:.2f} s"]
    return [loader, faults, f"{told['batches']} of {due}", *figures]


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranks", description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="of each rank")
    parser.add_argument("--batches", type=int, default=400, help="of each rank")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--every", type=int, default=50, help="batches from one fault to the next")
    parser.add_argument("--patience", type=float, default=900, help="seconds for one run")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "ranks")
    asked = parser.parse_args()
    console, raw = Console(stderr=True), []
    for every in (0, asked.every):
        for loader in ("torch", "safeloader"):
            console.print(f"[dim]{loader}, {'a fault every ' + str(every) if every else 'calm'}[/dim]", highlight=False)
            raw.append({"loader": loader, "every": every, **run(loader, asked, every)})
    table = Table(
        title=f"{asked.ranks} ranks, {asked.workers} workers each, DistributedDataParallel with gloo",
        note="Exposed stall: for how long, in all, the step waited for the slowest rank's batch, the first one apart. "
        "The faults hit workers of the last rank.",
        columns=COLUMNS,
        rows=[row(told["loader"], told["every"], asked.batches, told) for told in raw],
        raw=raw,
    )
    report.show([table])
    for path in report.write(asked.out, [table], "python -m benchmarks.ranks"):
        print(f"written: {path}")


if __name__ == "__main__":
    main()
