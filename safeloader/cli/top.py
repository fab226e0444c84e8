"""``safeloader top``: running loaders, live."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from safeloader.cli.tables import console, needs

if TYPE_CHECKING:
    from safeloader.cli.toplook import Look, Looker

__all__ = ["top"]


@click.command(epilog="Example: safeloader top     safeloader top --once --json")
@click.option("--once", is_flag=True, help="Look once and end; needs no terminal.")
@click.option("--json", "as_json", is_flag=True, help="With --once: as JSON.")
@click.option("--pid", type=click.IntRange(min=1), help="Only this program.")
@click.option("--interval", default=1.0, show_default=True, type=click.FloatRange(min=0.1), help="Seconds between.")
@click.option(
    "--sort",
    "order",
    default="waiting",
    show_default=True,
    type=click.Choice(["waiting", "rate", "faults", "memory", "pid"]),
    help="Which programs come first.",
)
def top(once: bool, as_json: bool, pid: int | None, interval: float, order: str) -> None:
    """Show the running loaders of this user on this machine, each worker's process and what it is at.

    A program is seen from its first epoch on; it need not have been asked for. Linux only. In the live view, `?`
    says what the keys do, and `q` ends it. The exit status is 1 if a program does not answer, or --pid names none.
    """
    from safeloader.cli.toplook import Looker

    if as_json and not once:
        raise click.UsageError("--json goes with --once")
    if not once and not sys.stdout.isatty():
        raise click.UsageError("this is no terminal: use --once, or --once --json")
    needs("psutil")
    looker = Looker(pid)
    if not once:
        from safeloader.cli.toplive import live

        live(lambda: _look(looker), interval, order)
        return
    seen = _look(looker)
    if as_json:
        click.echo(json.dumps(seen.as_dict(), indent=2))
    else:
        _print(seen, order)
    sys.exit(int(bool(seen.problems)))


def _print(seen: Look, order: str) -> None:
    from safeloader.cli.topview import render

    out = console()
    out.print(render(seen, out.width, order))


def _look(looker: Looker) -> Look:
    try:
        return looker.look()
    except OSError as error:
        raise click.ClickException(f"this system does not tell which programs can be asked ({error})") from None
