"""The FFCV benchmarks run through their entry points."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.harness import environment

pytestmark = [pytest.mark.ffcv, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(autouse=True)
def ffcv() -> None:
    if importlib.util.find_spec("ffcv") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("FFCV is not installed: run make ffcv")


def said(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *command], capture_output=True, text=True, timeout=390, check=False,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_speed(tmp_path: Path) -> None:
    short = ("--only", "speed", "--sizes", "32", "--rounds", "1", "--workers", "1")
    table = said("benchmarks.ffcv", *short, "--out", str(tmp_path), "--data", str(tmp_path))
    assert "| bare FFCV |" in table and "| wrapped, in a process |" in table and "ways to hang" not in table
    assert (tmp_path / "RESULTS.md").read_text().strip() == table.strip()


def test_hangs() -> None:
    table = said("benchmarks.hangs.ffcv", "--only", "keeps,stops", "--ways", "bare,trainer", "--cap", "150")
    kept, stopped = (line for line in table.splitlines() if line.startswith("| a"))
    assert "200 of 200 kept labels right |" in kept and kept.count("200 of 200") == 1
    assert "finished: 5 of 20 batches" in stopped and "RuntimeError" in stopped
