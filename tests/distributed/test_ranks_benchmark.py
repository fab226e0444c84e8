"""The benchmark of several ranks measures what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ranks.__main__ import row
from tests.programs import ROOT


def test_a_run_that_died_shows_how_far_it_came_and_no_figures() -> None:
    died = row("torch", 50, 400, {"batches": 49, "error": "RuntimeError: DataLoader worker is killed"})
    assert died == [
        "torch",
        "SIGKILL every 50 batches",
        "49 of 400: the run died",
        "–",
        "–",
        "RuntimeError: DataLoader worker is killed",
    ]
    calm = row("safeloader", 0, 400, {"batches": 400, "images": 812.4, "exposed": 1.239, "longest": 0.5})
    assert calm == ["safeloader", "none", "400 of 400", "812", "1.24 s", "0.50 s"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_torchs_run_dies_of_the_first_fault_and_safeloaders_comes_to_its_end(tmp_path: Path) -> None:
    small = ["--batches", "30", "--every", "10", "--batch-size", "4", "--out", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "benchmarks.ranks", *small], cwd=ROOT, check=True, timeout=390)
    runs = json.loads((tmp_path / "results.json").read_text())["tables"][0]["raw"]
    assert [(run["loader"], run["every"]) for run in runs] == [
        ("torch", 0), ("safeloader", 0), ("torch", 10), ("safeloader", 10)
    ]  # fmt: skip
    assert [run["batches"] for run in runs[:2]] == [30, 30]
    assert "error" in runs[2] and runs[2]["batches"] < 30
    assert "error" not in runs[3] and runs[3]["batches"] == 30
