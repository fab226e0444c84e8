"""``safeloader demo``: a first run of a minute."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from safeloader.demo.run import Run

__all__ = ["demo"]


class _Shown:
    """The runs, shown while they go: a bar each in a terminal, and what safeloader logs."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}
        self._runs: dict[str, Run] = {}

    def heading(self, title: str) -> None:
        """A part begins."""
        self.close()
        click.secho(f"\n{title}", bold=True)

    def say(self, run: Run, line: str | None) -> None:
        """A run has got further, or has written a line to its standard error."""
        bar = self._bar(run)
        if line is None:
            bar.total = run.due or None
            bar.n = len(run.batches)
            bar.set_postfix_str(f"accuracy {run.accuracy:.0%}" if run.batches else "starts", refresh=False)
            bar.update(0)
        elif line and run.loader == "safeloader":  # torch's worker processes say much when they are ended
            bar.write(f"  {line}", file=sys.stdout)

    def _bar(self, run: Run) -> Any:
        if run.title not in self._bars:
            from tqdm import tqdm

            self._runs[run.title] = run

            self._bars[run.title] = tqdm(
                desc=f"{run.title:<24}", unit=" batches", file=sys.stdout, disable=not sys.stdout.isatty(),
                position=len(self._bars), mininterval=0.1, dynamic_ncols=True, leave=False,
            )  # fmt: skip
        return self._bars[run.title]

    def close(self) -> None:
        """The bars go; a line each stays."""
        for bar in reversed(self._bars.values()):
            bar.close()
        for run in self._runs.values():
            click.echo(f"  {run.title}: {len(run.batches)} of {run.due} batches, {run.ended or 'interrupted'}")
        self._bars.clear()
        self._runs.clear()


@click.command(epilog="Example: safeloader demo --html demo.html")
@click.option("--html", "page", type=click.Path(dir_okay=False, writable=True), help="Write picture and verdict there.")
@click.option("--svg", "picture", type=click.Path(dir_okay=False, writable=True), help="Write the picture there.")
@click.option("--no-torch", is_flag=True, help="Leave torch under faults out: half the time.")
def demo(page: str | None, picture: str | None, no_torch: bool) -> None:
    """Train through a kill, a hang and a stop, with torch's DataLoader beside it; needs nothing but torch.

    A small network learns pictures that are drawn in place. The exit status is 0 where safeloader's batches, weights
    and random generators equal those of an undisturbed run of torch's DataLoader, to the byte.
    """
    from safeloader.demo import draw, run, verdict

    shown = _Shown()
    try:
        runs = run.demo(shown.say, shown.heading, beside=not no_torch)
    finally:
        shown.close()
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    said = verdict.sentences(runs)
    click.secho("\nWhat this shows", bold=True)
    click.echo(draw.text(runs, shutil.get_terminal_size((100, 24)).columns, plain=encoding != "utf8") + "\n")
    for sentence in said:
        click.echo(sentence)
    for path, content in ((page, draw.html(runs, said)), (picture, draw.svg(runs))):
        if path is not None:
            Path(path).write_text(content, encoding="utf-8")
            click.echo(f"written: {path}")
    sys.exit(not verdict.equal(*runs[:2]))
