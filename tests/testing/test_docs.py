"""docs/chaos.md tells of every kind."""

from __future__ import annotations

from pathlib import Path

from safeloader.testing import KINDS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "chaos.md").read_text()


def test_every_kind_is_on_the_page() -> None:
    assert all(f"| `{kind}` |" in PAGE for kind in KINDS)
