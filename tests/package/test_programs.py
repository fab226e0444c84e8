"""The programs that some tests look with are brought where they can be, and never against a machine's owner."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools import programs


@pytest.mark.parametrize("manager", [False, True])
def test_what_is_missing_and_cannot_be_had_is_named(
    manager: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))  # no browser, no apt-get
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(programs, "MANAGER", tmp_path if manager else tmp_path / "none")
    assert programs.missing() == (("chromium",) if manager else ("chromium", "prometheus"))
    assert programs.main() == 1
    told = capsys.readouterr().err
    assert "Not installed: there is no apt-get; needed are chromium" in told
    assert ("prometheus" in told) is not manager


def test_what_is_there_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("chromium", "prometheus", "promtool"):
        (tmp_path / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert programs.main() == 0
