"""Pictures of what a reader would see: a terminal's text, or a page, in headless Chromium."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from tests.browser import Browser, browser

__all__ = ["page", "terminal"]

_STYLE = "body { margin: 0; padding: 12px 16px; background: #14171a; } pre { margin: 0; font: 14px/1.3 monospace; }"


def terminal(text: str, path: Path, width: int = 110) -> None:
    """What a terminal of so many columns shows for a text with its colours."""
    from rich.console import Console
    from rich.terminal_theme import MONOKAI
    from rich.text import Text

    drawn = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    drawn.print(Text.from_ansi(text.strip("\n")))
    code = f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style>".replace("{", "{{").replace("}", "}}")
    code += "<pre style='color: {foreground}'>{code}</pre>"
    made = drawn.export_html(theme=MONOKAI, inline_styles=True, code_format=code)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "terminal.html"
        source.write_text(made, encoding="utf-8")
        page(source, path, 1000)


def page(source: Path, path: Path, width: int = 1200) -> None:
    """A page, as high as it is, or as a screen of 1,000 pixels where it is higher."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, browser(Path(name)) as made:
        _open(made, source, width, 400)
        height = int(made.run("Math.min(Math.ceil(document.body.getBoundingClientRect().bottom), 1000)"))
        _open(made, source, width, height)
        made.picture(path)


def _open(made: Browser, source: Path, width: int, height: int) -> None:
    made.open(source.resolve().as_uri(), width, height)
