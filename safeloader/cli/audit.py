"""``safeloader audit``: what a loader serves."""

from __future__ import annotations

import json
import sys

import click

from safeloader.cli.finding import find_loader
from safeloader.cli.tables import echo

__all__ = ["audit"]


@click.command(epilog="Example: safeloader audit train.py:make_loader --epochs 3")
@click.argument("loader")
@click.option("--epochs", default=2, show_default=True, type=click.IntRange(min=1), help="Epochs to rehearse.")
@click.option("--batches", type=click.IntRange(min=1), help="Only so many batches of each epoch.")
@click.option("--set-epoch", is_flag=True, help="Call the sampler's set_epoch before each, as your program does.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def audit(loader: str, epochs: int, batches: int | None, set_epoch: bool, as_json: bool) -> None:
    """Rehearse epochs of LOADER: indices never or repeatedly served, equal random numbers, equal orders.

    LOADER is a DataLoader or a safeloader.ffcv.Loader, or a function without arguments that makes one, as
    package.module:name or file.py:name.
    The exit status is 1 if something was found that training suffers from.
    """
    found = find_loader(loader, ffcv=True)
    from safeloader.auditing import audit as rehearse
    from safeloader.errors import SafeLoaderError

    try:
        report = rehearse(found, epochs, set_epoch=set_epoch, batches=batches)
    except SafeLoaderError as error:
        raise click.ClickException(str(error)) from error
    echo(json.dumps(report.to_dict(), indent=2) if as_json else str(report))
    sys.exit(not report.ok)
