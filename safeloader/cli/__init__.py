"""The command line.

::

    safeloader demo                    a first run of a minute: what it survives, with torch beside it
    safeloader run train.py [args]     the program, with torch's DataLoader replaced; ends with the report
    safeloader audit package.module:loader     what the loader serves, how often, with which random numbers
    safeloader doctor [train.py:loader]        what on this machine, and about this loader, will hurt
    safeloader bisect train.py [args]          which setting of its loaders hangs, dies or finishes
    safeloader top                             running loaders and their workers, live
    safeloader trace events.jsonl -o trace.json    a run as a picture, from its events
    safeloader beton FILE                      whether a .beton file is whole; `beton write` makes one
    safeloader checkpoint list|check PATH      checkpoints, whoever wrote them: epoch, metric, complete, finite
    safeloader bench hangs|speed [args]        the benchmarks, where the source tree is

One file a command. Each says with its exit status how it went: 0 well, 1 something was found or failed, 2 wrong use,
130 Ctrl-C, 141 nobody reads its output any more. ``run``'s is the program's own.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from safeloader import __version__
from safeloader.cli.audit import audit
from safeloader.cli.bench import bench
from safeloader.cli.beton import beton
from safeloader.cli.bisect import bisect
from safeloader.cli.checkpoint import checkpoint
from safeloader.cli.demo import demo
from safeloader.cli.doctor import doctor
from safeloader.cli.run import run
from safeloader.cli.top import top
from safeloader.cli.trace import trace
from safeloader.observe.format import printable

__all__ = ["main"]


class _Commands(click.Group):
    """What all commands have in common: how they end when the reader of a pipe has gone, as ``| head -1`` does."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except click.ClickException as error:  # it names files, modules and what their code has raised
            vars(error)["message"] = printable(error.message)
            raise
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed goes there
            ctx.exit(128 + 13)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(128 + 2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="safeloader")
def main() -> None:
    """PyTorch data loading that survives what kills it."""


for _command in (demo, run, audit, doctor, bisect, top, trace, beton, checkpoint, bench):
    main.add_command(_command)
