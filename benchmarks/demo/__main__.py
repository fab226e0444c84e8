"""``python -m benchmarks.demo``: see the package's description."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.demo import photographs, plot, summary
from benchmarks.demo.train import BATCH_TIMEOUT
from benchmarks.speed.child import end

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "demo"
LIMIT = 300.0  # seconds for one training run
ROWS = "sigkill,shm_full,no_main_guard,epoch_2_after_validation"  # of the table of hangs; all: make bench-hangs

console = Console(highlight=False)


def heading(number: int, text: str) -> None:
    """Announce a part."""
    console.print(f"\n[bold]{number}. {text}[/bold]")


def train(name: str, loader: str, folder: Path, epochs: int, chaos: bool, limit: float = LIMIT) -> dict[str, Any]:
    """Train in a program of its own; one that does not end is killed with its workers: a hang."""
    path = RESULTS / f"{name}.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.demo.train", "--loader", loader, "--photographs", str(folder)]
    command += ["--epochs", str(epochs), "--json", str(path), *(["--chaos"] if chaos else [])]
    started = time.monotonic()
    program = subprocess.Popen(command, cwd=ROOT)
    try:
        code = program.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        end(program)
    if path.is_file():
        run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return run
    outcome = f"hang: no end within {limit:.0f} s" if code is None else f"error: exit code {code}"
    ended = {"loader": loader, "chaos": chaos, "outcome": outcome, "seconds": time.monotonic() - started, "due": 0}
    return {**ended, "batches": [], "epochs": [], "struck": [], "reports": {}, "digests": {}}


def hangs(rows: str) -> bool:
    """Run some rows of the hang-reproduction benchmark, two programs at a time; it prints its table."""
    command = [sys.executable, "-m", "benchmarks.hangs", "--only", rows, "--jobs", "2", "--loaders", "torch,safeloader"]
    command += ["--json", str(RESULTS / "hangs.json"), "--markdown", str(RESULTS / "hangs.md"), "--check"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main() -> int:
    """Run the demonstration; returns 0 where everything that it is to show was shown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument(
        "--epochs", type=int, default=4, help="epochs of train -> val (4; the faults lie in the first 4)"
    )
    parser.add_argument("--rows", default=ROWS, help="rows of the table of hangs (%(default)s; all: make bench-hangs)")
    parser.add_argument("--no-hangs", action="store_true", help="leave out the table of hangs")
    asked = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)

    heading(1, "Photographs")
    files = photographs.prepare(RESULTS / "photographs")
    console.print(
        f"{files.train} JPEG files for training and {files.val} for validation, {files.size / 1e6:.1f} MB, "
        f"cut from {len(files.labels)} photographs: {', '.join(files.labels)}."
    )
    heading(2, "Undisturbed: torch's DataLoader, 2 spawned workers")
    undisturbed = train("undisturbed", "torch", files.folder, asked.epochs, chaos=False)
    heading(3, "Under fire: safeloader, the same arguments, workers killed, stopped and hung")
    disturbed = train("safeloader", "safeloader", files.folder, asked.epochs, chaos=True)
    heading(4, "Under the same fire: torch's DataLoader")
    torch_disturbed = train("torch", "torch", files.folder, asked.epochs, chaos=True, limit=60)
    shown = summary.equal(undisturbed, disturbed)

    table = True
    if not asked.no_hangs:
        heading(5, "Ways to hang: torch's DataLoader against safeloader")
        table = hangs(asked.rows)

    picture = RESULTS / "batches.png"
    plot.draw(picture, undisturbed, disturbed, torch_disturbed, BATCH_TIMEOUT)
    heading(6, "What this shows")
    for sentence in summary.sentences(undisturbed, disturbed, torch_disturbed):
        console.print(sentence, markup=False, soft_wrap=True)
    if not table:
        console.print("The table of hangs shows something that safeloader owes, or did not end: see above.")
    console.print(f"Plot: {picture.relative_to(ROOT)}    records: {RESULTS.relative_to(ROOT)}/*.json")
    return 0 if shown and table else 1


if __name__ == "__main__":
    sys.exit(main())
