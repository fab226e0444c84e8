"""Objects of the user's own code, by the name given on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import click

__all__ = ["check", "find", "find_loader"]


def check(name: str) -> None:
    """Whether a name can be one, and its file is there, before anything is imported.

    Raises:
        click.UsageError: it cannot, or is not.
    """
    home, colon, path = name.rpartition(":")
    if not colon or not home or not path:
        raise click.UsageError(f"{name!r} names no object: write package.module:object or file.py:object")
    if home.endswith(".py") and not Path(home).is_file():
        raise click.UsageError(f"there is no file {home}")


def find(name: str) -> Any:
    """The object that ``package.module:object`` or ``path/to/file.py:object`` names.

    Raises:
        click.UsageError: there is none.
        click.ClickException: importing it fails.
    """
    check(name)
    home, _, path = name.rpartition(":")
    module = _import(home)
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise click.UsageError(f"{home} has no {path}")
        found = getattr(found, part)
    return found


def find_loader(name: str, ffcv: bool = False) -> Any:
    """The DataLoader that is named, or that the function of that name makes.

    Args:
        name: Its name.
        ffcv: A ``safeloader.ffcv.Loader`` will do, too.

    Raises:
        click.UsageError: there is none.
        click.ClickException: making it fails.
    """
    found: Any = find(name)
    if not _is_loader(found, ffcv) and callable(found):
        try:
            found = found()
        except Exception as error:
            raise click.ClickException(f"{name}() failed: {type(error).__name__}: {error}") from error
    if not _is_loader(found, ffcv):
        kind = type(found).__name__
        raise click.UsageError(f"{name} is of type {kind}, not a DataLoader or a function that makes one")
    return found


def _is_loader(found: Any, ffcv: bool) -> bool:
    import torch.utils.data

    from safeloader.auditing.rehearse import of_ffcv

    return isinstance(found, torch.utils.data.DataLoader) or (ffcv and of_ffcv(found))


def _import(home: str) -> Any:
    try:
        if not home.endswith(".py"):
            sys.path.insert(0, os.getcwd())
            return importlib.import_module(home)
        file = Path(home)
        sys.path.insert(0, str(file.resolve().parent))
        return importlib.import_module(file.stem)  # by its name, so that workers can import it, too
    except ModuleNotFoundError as error:
        if error.name and f"{home}.".startswith(f"{error.name}."):
            raise click.UsageError(f"there is no module {home}") from error
        raise click.ClickException(f"importing {home} failed: {type(error).__name__}: {error}") from error
    except Exception as error:
        raise click.ClickException(f"importing {home} failed: {type(error).__name__}: {error}") from error
