"""``make matrix``: what is here is found and run, and what is not is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.package.conftest import REQUIRED, ROOT
from tools import bare, matrix

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_the_rows_are_the_oldest_torch_and_every_supported_python() -> None:
    made = matrix.rows(None)
    assert [row.python for row in made if row.torch == "newest"] == [f"3.{n}" for n in range(10, 15)]
    oldest = [row for row in made if row.torch == matrix.OLDEST_TORCH]
    assert len(oldest) == 1
    assert oldest[0].path is not None
    assert all(row.came == "not here" and row.path is None for row in made if row.python not in matrix.pythons())


def test_the_supported_versions_are_those_of_the_metadata() -> None:
    told = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"torch>={matrix.OLDEST_TORCH}"' in told
    assert f'requires-python = ">=3.{matrix.OLDEST_PYTHON}"' in told


def test_the_tests_requirements_are_those_of_the_extra_without_torch() -> None:
    oldest, newer = (
        {one.split(">")[0].split("<")[0] for one in matrix.requirements(python)} for python in ("3.10", "3.12")
    )
    assert {"numpy", "cloudpickle", "click", "tqdm", "pytest", "hypothesis"} <= oldest
    assert "torch" not in oldest
    assert newer - oldest == {"grafana-foundation-sdk"}  # which is not made for 3.10


def test_a_torch_that_cannot_be_had_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    row = matrix.Row(HERE, "0.0.1", sys.executable)
    assert matrix.prepare(row, tmp_path / "env") is None
    assert row.came.startswith("cannot be set up: ERROR")


@pytest.mark.parametrize(("test", "code"), [("assert True", 0), ("assert False", 1)])
def test_tests_are_run_and_their_outcome_is_the_rows(tmp_path: Path, test: str, code: int) -> None:
    folder = tmp_path / f"py{HERE}-torchnewest"
    bare.make(folder, [*REQUIRED, "pytest", "pytest-timeout", "psutil"])
    (folder / "complete").touch()
    program = tmp_path / "test_it.py"
    program.write_text(f"import torch\n\ndef test_it():\n    {test}\n")
    command = [sys.executable, "-m", "tools.matrix", "--only", f"{HERE}-newest", "--folder", tmp_path, "--"]
    words = [*map(str, command), str(program), "--rootdir", str(tmp_path), "-c", "/dev/null"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    row = (tmp_path / "RESULTS.md").read_text(encoding="utf-8").splitlines()[-1]
    assert "with torch" in row
    assert ("1 failed" if code else "1 passed") in row
