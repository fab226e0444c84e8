"""``safeloader checkpoint``: which checkpoints there are, whoever wrote them, and whether they are good."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from safeloader.cli.tables import console, echo, table

if TYPE_CHECKING:
    from safeloader.training.looking import Looked

__all__ = ["checkpoint"]


@click.group(
    epilog="Example: safeloader checkpoint check runs/ best.pt     safeloader checkpoint list runs/",
)
def checkpoint() -> None:
    """Look at checkpoints, whoever wrote them.

    Of safeloader, torch (.pt, .pth), Lightning, Ultralytics, safetensors, and folders of torch.distributed.checkpoint.
    Nothing in a file is executed: what is no tensor and no plain value is kept as a name.
    """


_paths = click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="As JSON, one object a checkpoint.")


@checkpoint.command("list", epilog="Example: safeloader checkpoint list runs/")
@_paths
@_json
def list_(paths: tuple[Path, ...], as_json: bool) -> None:
    """List the checkpoints at PATHS: kind, epoch, step, metric, size, age. Their values are not looked at."""
    _show(paths, as_json, deep=False, may_be_infinite=())


@checkpoint.command(epilog="Example: safeloader checkpoint check runs/last.ckpt --may-be-infinite '*.mask'")
@_paths
@_json
@click.option("--may-be-infinite", multiple=True, help="Pattern of tensors in which infinities are meant.")
def check(paths: tuple[Path, ...], as_json: bool, may_be_infinite: tuple[str, ...]) -> None:
    """Read all of the checkpoints at PATHS: complete, as they were written, finite?

    The exit status is 1 if one of them is not, or if there is none.
    """
    _show(paths, as_json, deep=True, may_be_infinite=may_be_infinite)


def _show(paths: tuple[Path, ...], as_json: bool, deep: bool, may_be_infinite: tuple[str, ...]) -> None:
    from safeloader.training.looking import found_in, look_at

    found = [look_at(one, deep, may_be_infinite) for path in paths for one in found_in(path)]
    if as_json:
        echo(json.dumps([one.to_dict() for one in found], indent=2, default=str))
    elif not found:
        echo("there is no checkpoint")
    else:
        _table(found, deep)
    sys.exit(deep and (not found or any(one.problem for one in found)))


def _table(found: list[Looked], deep: bool) -> None:
    from safeloader.training.looking import age_of

    rows, styles = [], []
    for one in found:
        cells = ["" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
                 for value in (one.epoch, one.step, one.metric)]  # fmt: skip
        state = one.problem or ("good" if deep else "")
        rows.append((one.path, one.kind, *cells, f"{one.size / 1e6:,.1f} MB", age_of(one.age), state))
        styles.append("red" if one.problem else None)
    columns = ("checkpoint", "kind", "epoch", "step", "metric", "size", "age", "state")
    console().print(table(columns, rows, styles))
