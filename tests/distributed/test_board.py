"""Real ranks, held up in one place after another: the board names the right rank, and what it is at."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from safeloader import SafeLoaderError
from safeloader.distributed import board
from tests.programs import Program, run
from tests.until import until

SOON = {"SAFELOADER_STALL_REPORT": "2", "SAFELOADER_BOARD_INTERVAL": "0.2"}


@pytest.mark.timeout(300)
def test_the_line_names_the_rank_that_holds_the_others_wherever_it_stands(tmp_path: Path) -> None:
    with Program.of_ranks("tests.distributed.held", str(tmp_path), ranks=3, **SOON) as ranks:
        late = ranks.line("rank 1 has published nothing yet: no epoch begun there")
        assert late.endswith(" in the step [SL034]")  # perhaps not for rank 2, whose worker may still be starting
        (tmp_path / "late").touch()

        step = ranks.line("rank 1's loader is healthy; its trainer has stood at held.py:")
        assert " in hold for " in step
        assert step.endswith("; ranks 0, 2 wait in the step [SL034]")
        _others_read_it(ranks, tmp_path)
        (tmp_path / "step").touch()

        sample = ranks.line("rank 2 waits for batch 3 of train: worker 0 has worked on sample 13 for ")
        assert sample.endswith("; ranks 0, 1 wait in the step [SL034]")
        (tmp_path / "sample").touch()

        stopped = ranks.line("rank 2 has published nothing for ")
        assert "it is stopped, gone or cut off (last seen: train, epoch 0, batch " in stopped
        assert stopped.endswith("; ranks 0, 1 wait in the step [SL034]")
        os.kill(int((tmp_path / "2.pid").read_text()), signal.SIGCONT)
        assert ranks.wait() == 0
        assert f"sum {3 * sum(range(32))}" in ranks.lines
        for said in (late, step, sample, stopped):
            assert sum(said.partition(" for ")[0] in line for line in ranks.lines) <= 2, "once a stall, here and there"
        assert not any("Traceback" in line for line in ranks.lines)


def _others_read_it(ranks: Program, folder: Path) -> None:
    """Any rank, in a word of Python; and ``safeloader top``, which asks a rank of this machine."""
    (folder / "ask").touch()
    assert until((folder / "board").exists)
    told = (folder / "board").read_text()
    assert "rank 0 (" in told and "rank 1 (" in told and "rank 2 (" in told
    assert "rank 1's loader is healthy; its trainer has stood at held.py:" in told

    command = ["-m", "safeloader", "top", "--once", "--pid", (folder / "2.pid").read_text()]

    def shown() -> bool:
        text = run(*command, COLUMNS="250").out
        return "all 3 ranks at localhost:" in text and "its trainer has stood at held.py:" in text

    def rows() -> list[int] | None:
        (program,) = json.loads(run(*command, "--json").out)["programs"]
        return [row["rank"] for row in program["ranks"]["rows"]] if program["ranks"]["holders"] == [1] else None

    assert until(shown), "on a busy machine a rank may be late with a row, and count as silent for a moment"
    assert until(rows) == [0, 1, 2]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.timeout(300)
def test_a_store_that_is_gone_or_frozen_holds_up_no_rank(tmp_path: Path, end: signal.Signals) -> None:
    """Rank 0 hosts the store. Rank 1 needs none of it to train on, and ends well."""
    port = _free_port()
    with _rank(0, port, tmp_path) as host, _rank(1, port, tmp_path) as other:
        other.line("both are on the board")
        host.line("both are on the board")
        os.kill(host.pid, end)
        if end == signal.SIGKILL:
            line = other.line(
                f"the store of the process group (127.0.0.1:{port}) does not answer: ConnectionRefusedError"
            )
            assert line.endswith("training continues [SL117]")
        before = len(other.lines)
        other.line("another epoch", after=before)
        other.line("another epoch", after=before + 1)
        (tmp_path / "end").touch()
        assert other.wait() == 0
        assert other.lines[-1] == "done"
        assert sum("does not answer" in line for line in other.lines) <= 1
        assert not any("Traceback" in line for line in other.lines)


@pytest.mark.timeout(300)
def test_who_died_is_told_from_who_left(tmp_path: Path) -> None:
    """Rank 0 stands still, as in a collective that an accelerator waits for."""
    for number, killed in enumerate((True, False)):
        folder, port = tmp_path / str(number), _free_port()
        folder.mkdir()
        with _rank(0, port, folder) as host, _rank(1, port, folder) as other:
            host.line("both are on the board")
            other.line("another epoch")
            if killed:
                os.kill(other.pid, signal.SIGKILL)
            else:
                (folder / "end1").touch()
            other.wait()
            (folder / "stand").touch()
            line = host.line("rank 1 has published nothing for " if killed else "rank 1 left the group ")
            assert ("it is stopped, gone or cut off" in line) == killed
            (folder / "stand").unlink()
            host.line("goes on, after standing still")
            (folder / "end").touch()
            assert host.wait() == 0
            assert host.lines[-1] == "done"


def _rank(number: int, port: int, folder: Path) -> Program:
    """One of two, without torchrun, which would end both when one dies."""
    variables = {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return Program([sys.executable, "-m", "tests.distributed.goes_on", str(folder)], **variables, **SOON)


def _free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def test_a_program_of_one_rank_is_on_no_board() -> None:
    with pytest.raises(SafeLoaderError, match="this program is on no board"):
        board()
