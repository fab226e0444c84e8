"""``safeloader beton``: whether a ``.beton`` file is whole; make one."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from safeloader.cli.finding import find
from safeloader.cli.tables import echo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["beton"]


class _CheckUnlessWrite(click.Group):
    """``beton FILE`` is ``beton check FILE``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["check", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_CheckUnlessWrite,
    subcommand_metavar="FILE | write FILE",
    epilog="Example: safeloader beton train.beton --full     safeloader beton write new.beton --dataset data.py:train",
)
def beton() -> None:
    """Look through FILE, a .beton file of FFCV, for damage; or write one.

    `safeloader beton FILE --help` and `safeloader beton write --help` say the rest. The exit status is 1 if the file is
    damaged.
    """


@beton.command(epilog="Example: safeloader beton train.beton --full")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--full", is_flag=True, help="Decode every image, too.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def check(file: str, full: bool, as_json: bool) -> None:
    """Look for damage in FILE: header, tables, every pointer and extent, headers of all JPEG images.

    FFCV reads a damaged file without a word, hangs or aborts. The exit status is 1 if something is wrong.
    """
    from safeloader.ffcv import check as look_through

    with _clear_errors(f"{file} cannot be read"), _bar("images") as progress:
        report = look_through(file, full=full, progress=progress)
    echo(json.dumps(report.to_dict(), indent=2) if as_json else str(report))
    sys.exit(not report.ok)


@beton.command(epilog="Example: safeloader beton write train.beton --dataset data.py:train --max-resolution 500")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--dataset",
    required=True,
    help="A dataset, or what makes it without arguments, as package.module:name "
    "or file.py:name. Its samples are (image, label).",
)
@click.option("--mode", default="jpg", show_default=True, type=click.Choice(["jpg", "raw"]), help="How to keep images.")
@click.option("--quality", default=90, show_default=True, type=click.IntRange(1, 100), help="Of JPEG images.")
@click.option("--max-resolution", type=click.IntRange(min=1), help="Longest side; larger images are made smaller.")
@click.option("--workers", type=click.IntRange(min=0),
              help="Processes that load and encode; 0: this one. One a core by default.")  # fmt: skip
def write(file: str, dataset: str, mode: str, quality: int, max_resolution: int | None, workers: int | None) -> None:
    """Write the images and labels of a dataset to FILE, as FFCV reads them.

    FILE appears, or is replaced, only when all of it is written. A sample that raises or kills its worker ends the
    command with exit status 1.
    """
    from safeloader.ffcv.require import require
    from safeloader.ffcv.writing import write as write_all

    made = _made(dataset)
    with _clear_errors(f"{file} is not written"), _bar("samples") as progress:
        require()
        from ffcv.fields import IntField, RGBImageField

        image = RGBImageField(mode, max_resolution=max_resolution, jpeg_quality=quality)
        fields = {"image": image, "label": IntField()}
        count = write_all(file, made, fields, num_workers=-1 if workers is None else workers, progress=progress)
    echo(f"{file}: {count:,} samples")


def _made(name: str) -> Any:
    found = find(name)
    if isinstance(found, type) or not hasattr(found, "__getitem__"):
        try:
            found = found()
        except Exception as error:
            raise click.ClickException(f"{name}() failed: {type(error).__name__}: {error}") from error
    if not (hasattr(found, "__getitem__") and hasattr(found, "__len__")):
        kind = type(found).__name__
        raise click.UsageError(f"{name} is of type {kind}, which has no length or cannot be indexed")
    return found


@contextmanager
def _clear_errors(what: str) -> Iterator[None]:
    """Any error is one line, whether it is safeloader's, the system's or the dataset's."""
    try:
        yield
    except Exception as error:
        raise click.ClickException(f"{what}: {type(error).__name__}: {error}") from error


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, where that is a terminal."""
    with click.progressbar(length=1, label=unit, file=sys.stderr, show_pos=True, hidden=not sys.stderr.isatty()) as bar:

        def show(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield show
