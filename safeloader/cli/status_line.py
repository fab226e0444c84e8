"""What a long command is at: a line on standard error that is written over in a terminal, and one a step elsewhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from time import monotonic
from typing import TYPE_CHECKING

import click

from safeloader.observe.format import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["StatusLine"]

_OFTEN = 0.5  # seconds between two changes
_CLEAR = "\r\x1b[2K"


class StatusLine:
    """One line about what goes on now; it leaves nothing behind in a terminal."""

    def __init__(self) -> None:
        self._live = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = 0.0

    def begin(self, text: str) -> None:
        """A step begins."""
        if self._live:
            self._draw(text)
        else:
            click.echo(f"{printable(text)} ...", err=True)

    @contextlib.contextmanager
    def shown(self, text: str, everywhere: bool = True) -> Iterator[None]:
        """A step, shown while it goes on; one that is short only in a terminal."""
        if everywhere or self._live:
            self.begin(text)
        try:
            yield
        finally:
            self.clear()

    def update(self, text: str) -> None:
        """It goes on; shown in a terminal only, and not more often than can be read."""
        if self._live and monotonic() - self._shown >= _OFTEN:
            self._draw(text)

    def clear(self) -> None:
        """The step has ended: what follows is written where the line was."""
        if self._live:
            click.echo(_CLEAR, nl=False, err=True)

    def _draw(self, text: str) -> None:
        self._shown = monotonic()
        width = shutil.get_terminal_size().columns - 1
        click.echo(_CLEAR + printable(text)[:width], nl=False, err=True)
