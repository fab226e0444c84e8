"""Programs that nobody edits: ``safeloader.patch()`` and ``safeloader run``."""

from __future__ import annotations

import copy
import logging
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.utils.data
from torch.utils.data import DataLoader as NameImportedEarlier

import safeloader
from safeloader import patching

PROGRAM = Path(__file__).parent / "programs" / "plain.py"
BATCHES = "[0, 1, 4, 9]\n[16, 25, 36, 49]\n[64, 81, 100, 121]\n[144, 169, 196, 225]\n"


@pytest.fixture(autouse=True)
def torchs_again() -> Iterator[None]:
    """It is made before `patched`, so it looks after that is over."""
    yield
    assert torch.utils.data.DataLoader is torch.utils.data.dataloader.DataLoader is NameImportedEarlier


# ---------------------------------------------------------------- patch


@pytest.mark.usefixtures("patched")
def test_a_name_that_was_imported_before_makes_safeloaders() -> None:
    loader = NameImportedEarlier(range(5), batch_size=2, num_workers=0)  # type: ignore[arg-type]
    assert type(loader) is safeloader.DataLoader
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
    assert type(NameImportedEarlier[int](range(5))) is safeloader.DataLoader  # type: ignore[arg-type, comparison-overlap]
    assert type(copy.copy(loader)) is type(pickle.loads(pickle.dumps(loader))) is safeloader.DataLoader


@pytest.mark.usefixtures("patched")
def test_a_name_that_is_imported_later_is_safeloaders_and_so_are_its_subclasses() -> None:
    from torch.utils.data import DataLoader as NameImportedLater

    class Later(NameImportedLater[Any]):
        pass

    assert NameImportedLater is safeloader.DataLoader
    assert isinstance(Later(range(3)), safeloader.DataLoader)  # type: ignore[arg-type]


def test_a_subclass_that_was_defined_before_is_named_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Earlier(NameImportedEarlier[Any]):
        pass

    with caplog.at_level(logging.WARNING, "safeloader"):
        safeloader.patch()
    safeloader.patch()
    try:
        assert "too late for" in caplog.text
        assert "Earlier" in caplog.text
        assert not isinstance(Earlier(range(3)), safeloader.DataLoader)  # type: ignore[arg-type]
    finally:
        safeloader.unpatch()


def test_unpatched_torch_makes_its_own_again() -> None:
    safeloader.patch()
    assert patching.patched()
    safeloader.unpatch()
    safeloader.unpatch()
    assert not patching.patched()
    loader = NameImportedEarlier(range(5), batch_size=2)  # type: ignore[arg-type]
    assert type(loader) is NameImportedEarlier
    assert type(copy.copy(loader)) is NameImportedEarlier
    assert type(torch.utils.data.DataLoader(range(5))) is NameImportedEarlier  # type: ignore[arg-type, comparison-overlap]


# ---------------------------------------------------------------- run


def _run(*line: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "safeloader", "run", *map(str, line)],
        capture_output=True, text=True, timeout=100, check=False, cwd=cwd,
    )  # fmt: skip


def test_a_script_runs_through_a_killed_worker_and_ends_with_the_report(tmp_path: Path) -> None:
    said = _run(PROGRAM, tmp_path / "killed", "3")
    assert said.returncode == 3, said.stderr
    assert said.stdout == f"{BATCHES}__main__ ['{tmp_path}/killed', '3'] plain.py\n"
    assert "loader 1: 4 batches, 1 epoch" in said.stderr
    assert "died (SIGKILL)" in said.stderr


def test_a_module_runs_as_with_python_m(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("from .rows import rows\n" + PROGRAM.read_text() + "\n")
    (package / "rows.py").write_text("rows = 3\n")
    said = _run("--no-report", "-m", "package", tmp_path / "killed", "0", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stdout == f"{BATCHES}__main__ ['{tmp_path}/killed', '0'] __main__.py\n"
    assert "total:" not in said.stderr


def test_a_program_that_fails_fails_with_its_own_traceback(tmp_path: Path) -> None:
    program = tmp_path / "fails.py"
    program.write_text("import torch.utils.data\nraise KeyError('its own')\n")
    said = _run(program)
    assert said.returncode == 1
    assert f'File "{program}", line 2' in said.stderr
    assert "KeyError: 'its own'" in said.stderr
    assert "run.py" not in said.stderr


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        (["nowhere.py"], 2, "there is no file nowhere.py"),
        (["-m", "no_such.module"], 2, "no module no_such.module"),
        (["broken.py"], 1, "broken.py is not a Python program"),
        ([], 2, "Missing argument"),
    ],
)
def test_wrong_use_is_said_in_a_line(tmp_path: Path, line: list[str], status: int, words: str) -> None:
    (tmp_path / "broken.py").write_text("this is no program\n")
    said = _run(*line, cwd=tmp_path)
    assert (said.returncode, words in said.stderr, "Traceback" in said.stderr) == (status, True, False), said.stderr
