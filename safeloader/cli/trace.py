"""``safeloader trace``: from the file of events to pictures."""

from __future__ import annotations

import json
from pathlib import Path

import click

from safeloader.cli.tables import echo

__all__ = ["trace"]

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(epilog="Example: safeloader trace events.jsonl -o trace.json --html report.html")
@click.argument("events", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=_FILE, help="Trace for chrome://tracing and ui.perfetto.dev.")
@click.option("--html", "report", type=_FILE, help="Report with plots, in one file.")
def trace(events: Path, output: Path | None, report: Path | None) -> None:
    """Draw a run from EVENTS, the file that SAFELOADER_EVENTS named.

    With SAFELOADER_TRACE=1 each batch is in it, too, and the lanes show who loaded, waited and computed when. A file
    that breaks off is shown up to there.
    """
    from safeloader.tracing.chrome import chrome
    from safeloader.tracing.lanes import lanes
    from safeloader.tracing.page import page
    from safeloader.tracing.read import lines_of, read
    from safeloader.tracing.verdict import told, verdict

    if output is None and report is None:
        raise click.UsageError("say what to write: -o trace.json, or --html report.html, or both")
    named = [path.resolve() for path in (events, output, report) if path is not None]
    if len(set(named)) < len(named):
        raise click.UsageError("EVENTS, -o and --html must be different files: one would be written over another")
    try:
        with events.open("rb") as file:
            story = read(lines_of(file))
    except OSError as error:
        raise click.ClickException(f"{events} cannot be read: {error.strerror}") from None
    for note in story.notes:
        echo(f"note: {note}", err=True)
    if not story.events:
        raise click.ClickException(f"{events} holds no event of safeloader")
    loaders = lanes(story.events)
    if output is not None:
        _write(output, json.dumps(chrome(loaders, story.notes)))
    if report is not None:
        _write(report, page(loaders, story.notes, events.name))
    for loader in loaders:
        echo(f"{loader.name}: {'; '.join(verdict(loader))}")
    echo(told(loaders))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None
    echo(f"written: {path}")
