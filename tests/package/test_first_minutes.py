"""What a newcomer does, from the wheel, where only torch is: each step, and what is said where one fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import first_minutes
from tools.first_minutes import Failed, Newcomer


@pytest.mark.timeout(400)
def test_the_first_minutes_are_as_promised(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first_minutes.main(["--short", "--wheel", str(wheel)])
    said = capsys.readouterr().out
    for step in (
        "pip install: safeloader, version", "a first loader: 16 batches, equal torch's", "a kill and a hang survived",
        "`top` says what it needs", "it names the worker and the sample", "safeloader trace: train: ", "safeloader doctor: ",
    ):  # fmt: skip
        assert step in said
    assert said.splitlines()[-1].endswith("s  in all")


def test_a_step_that_is_not_as_promised_is_told_with_what_was_written(bare_python: Path, tmp_path: Path) -> None:
    new = Newcomer(tmp_path, short=True)
    (tmp_path / "env").symlink_to(bare_python.parents[1])
    with pytest.raises(Failed, match="`-c raise SystemExit\\(3\\)` ended with 3, not 0"):
        new.type("-c", "raise SystemExit(3)")
    with pytest.raises(Failed, match="'this' is not in:\nthat"):
        first_minutes.expect("this", "that")
