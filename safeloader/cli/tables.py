"""Tables and lines for people: rich, where it is installed and wanted."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from safeloader.observe.format import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

__all__ = ["console", "echo", "needs", "table"]


def needs(package: str) -> Any:
    """Import a package that only some commands need.

    Raises:
        click.ClickException: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise click.ClickException(f"this needs {package}: pip install psutil rich ({error})") from None


def echo(text: str, err: bool = False) -> None:
    """Write text whose names and messages are other people's: what would steer the terminal is shown, not obeyed."""
    click.echo(printable(text), err=err)


def console(stderr: bool = False) -> Console:
    """Where to write. Without a terminal there are no colours and lines are not folded."""
    made: Console
    rich = needs("rich.console")

    class Honest(rich.Console):  # type: ignore[misc, name-defined]
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the program with status 1, which says that something was found

        def print(self, *objects: Any, **options: Any) -> None:
            super().print(*(printable(one) if isinstance(one, str) else one for one in objects), **options)

    file = sys.stderr if stderr else sys.stdout
    width = None if file.isatty() or os.environ.get("COLUMNS") else 160
    made = Honest(file=file, width=width, highlight=False, markup=False, soft_wrap=False)
    return made


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], styles: Sequence[str | None] = ()) -> Any:
    """A table; a style for each row where ``styles`` gives one. Columns whose names begin with ``#`` are numbers."""
    made = needs("rich.table").Table(box=needs("rich.box").SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        made.add_column(name.lstrip("#"), justify="right" if name.startswith("#") else "left", overflow="fold")
    for number, row in enumerate(rows):
        made.add_row(*(printable(str(cell)) for cell in row), style=styles[number] if number < len(styles) else None)
    return made
