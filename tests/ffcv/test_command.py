"""``safeloader beton``: files checked and written from the command line."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from safeloader.cli import main
from tests.runtime.harness import environment

Command = Callable[..., Result]


@pytest.fixture
def command(ffcv_is_here: None) -> Command:
    return lambda *line: CliRunner().invoke(main, ["beton", *map(str, line)])


class Pairs:
    """What is written."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        from tests.ffcv.data import Photographs

        return Photographs(20)[index][:2]


class Unwilling(Pairs):
    """It has a sample that cannot be had."""

    def act(self) -> None:
        raise ValueError("sample 17 is not liked")

    def __getitem__(self, index: int) -> Any:
        if index == 17:
            self.act()
        return super().__getitem__(index)


class Deadly(Unwilling):
    """It has one that kills."""

    def act(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Shapeless:
    """No dataset."""


def test_a_file_is_written_and_found_whole(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "pairs.beton"
    written = command("write", path, "--dataset", f"{__name__}:Pairs", "--workers", 0)
    assert (written.exit_code, written.stdout) == (0, f"{path}: 20 samples\n")
    found = command(path, "--full")
    assert found.exit_code == 0
    assert "20 samples; image (image), label (int); 20 JPEG headers looked at, 20 images decoded" in found.stdout
    assert found.stdout.endswith("no problem found\n")


def test_options_come_before_the_file_or_after_it(command: Command, beton: Path) -> None:
    before, after, long = (
        command("--full", "--json", beton),
        command(beton, "--json", "--full"),
        command("check", beton),
    )
    assert before.exit_code == after.exit_code == long.exit_code == 0
    assert before.stdout == after.stdout


def test_a_damaged_file_is_exit_status_1_and_the_report_as_json_says_where(
    command: Command, beton: Path, tmp_path: Path
) -> None:
    from tests.ffcv.test_matrix import corrupted, zero_half

    bad = corrupted(beton, tmp_path / "bad.beton", zero_half, (3, 50))
    assert command(bad).exit_code == 0, "its headers are whole"
    found = command("--full", "--json", bad)
    assert found.exit_code == 1
    told = json.loads(found.stdout)
    assert (told["v"], told["ok"], told["samples"], told["count"], told["images"]) == (1, False, 120, 2, 120)
    what = "its JPEG data does not decode"
    assert told["problems"] == [{"what": what, "sample": sample, "field": "image"} for sample in (3, 50)]
    os.truncate(bad, 5000)
    found = command(bad)
    assert (found.exit_code, "cut off" in found.stdout) == (1, True)


def test_a_sample_that_raises_is_one_clear_error_and_the_older_file_stays(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "pairs.beton"
    path.write_bytes(b"old")
    failed = command("write", path, "--dataset", f"{__name__}:Unwilling", "--workers", 0)
    assert failed.exit_code == 1
    assert f"{path} is not written: ValueError: sample 17 is not liked" in failed.stderr
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("pairs.beton", b"old")]


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        (["none.beton"], 2, "'none.beton' does not exist"),
        (["."], 2, "is a directory"),
        (["write", "a.beton"], 2, "Missing option '--dataset'"),
        (["write", "a.beton", "--dataset", "nothing"], 2, "names no object"),
        (["write", "a.beton", "--dataset", f"{__name__}:none"], 2, f"{__name__} has no none"),
        (["write", "a.beton", "--dataset", f"{__name__}:Shapeless"], 2, "has no length or cannot be indexed"),
        (["write", "a.beton", "--dataset", f"{__name__}:Pairs", "--quality", "101"], 2, "1<=x<=100"),
        (["write", "no/such/folder/a.beton", "--dataset", f"{__name__}:Pairs"], 1, "is not written: FileNotFoundError"),
    ],
)
def test_wrong_use(command: Command, line: list[str], status: int, said: str) -> None:
    failed = command(*line)
    assert (failed.exit_code, said in " ".join(failed.stderr.split())) == (status, True), failed.stderr


@pytest.mark.slow
def test_a_worker_that_dies_is_one_clear_error(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    failed = command("write", tmp_path / "a.beton", "--dataset", "tests.ffcv.test_command:Deadly", "--workers", 1)
    assert failed.exit_code == 1
    assert "BadSampleError: sample 17 " in failed.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_terminal_sees_a_progress_bar(beton: Path) -> None:
    terminal, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "safeloader", "beton", "--full", str(beton)], stdout=subprocess.PIPE, stderr=theirs,
        text=True, timeout=100, check=True, env=environment(TERM="xterm"),
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    try:
        while more := os.read(terminal, 4096):
            seen += more
    except OSError:  # the end of a terminal
        pass
    os.close(terminal)
    assert b"images" in seen and b"120/120" in seen
    assert done.stdout.endswith("no problem found\n")


WITHOUT = """
import sys; sys.modules["ffcv"] = None
from safeloader.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_without_ffcv_files_can_be_checked_and_writing_says_how_to_install_it(beton: Path, tmp_path: Path) -> None:
    def run(*line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WITHOUT, "beton", *line], capture_output=True, text=True, timeout=100, check=False,
            env=environment(),
        )  # fmt: skip

    assert "120 samples" in run(str(beton), "--full").stdout
    failed = run("write", str(tmp_path / "a.beton"), "--dataset", "tests.ffcv.test_command:Pairs")
    assert failed.returncode == 1
    assert "FFCVMissingError" in failed.stderr and "make ffcv" in failed.stderr
