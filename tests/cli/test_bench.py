"""The benchmarks are run where they are, and said to be absent where they are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safeloader

PACKAGE = Path(safeloader.__file__).parent


def test_a_benchmark_is_run_with_its_own_arguments(process: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    said = process("bench", "hangs", "--list", "--only", "sigkill")
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("sigkill")
    said = process("bench", "hangs", "--only", "nothing-of-that-name")
    assert said.returncode == 2


def test_an_installed_package_says_that_it_has_none(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "installed" / "safeloader", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "elsewhere").mkdir()
    said = subprocess.run(
        [sys.executable, "-m", "safeloader", "bench", "speed"], cwd=tmp_path / "elsewhere", capture_output=True,
        text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
    )  # fmt: skip
    assert said.returncode == 1
    assert "not part of the installed package" in said.stderr
    assert "Traceback" not in said.stderr


def test_an_unknown_benchmark_is_wrong_use(command: Callable[..., Any]) -> None:
    assert (said := command("bench", "everything")).exit_code == 2
    assert "hangs" in said.output
