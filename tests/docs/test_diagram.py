"""The pictures of the core are those of today's core."""

from __future__ import annotations

from tools.draw_core import DOCS, files


def test_the_pictures_are_current() -> None:
    for name, text in files().items():
        stale = f"docs/{name} is not what the core is today: python -m tools.draw_core"
        assert (DOCS / name).read_text(encoding="utf-8") == text, stale
