"""``safeloader run``: a program that nobody edits, with torch's DataLoader replaced."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

__all__ = ["open_program", "run"]


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: safeloader run train.py --epochs 3     safeloader run -m package.train",
)
@click.option("-m", "as_module", is_flag=True, help="PROGRAM is the name of a module, as in python -m.")
@click.option("--report/--no-report", default=True, help="End with the report of each loader (on stderr).")
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(as_module: bool, report: bool, program: str, arguments: tuple[str, ...]) -> None:
    """Run PROGRAM with torch's DataLoader replaced by safeloader's.

    The program need not be edited; settings come from SAFELOADER_* variables. Its exit status is this command's.
    Processes that the program itself starts are not patched: with torchrun, write
    `torchrun --no-python safeloader run train.py`.
    """
    from safeloader import observe
    from safeloader.patching import patch

    main, code = open_program(program, as_module)
    sys.argv = [main.__dict__["__file__"] or program, *arguments]
    patch()
    recorders = observe.keep_recorders()
    sys.modules["__main__"] = main
    try:
        exec(code, main.__dict__)
    except (SystemExit, KeyboardInterrupt, BrokenPipeError):
        raise
    except BaseException as error:
        # The program's own traceback, as Python itself shows it: without the frames of this command.
        own = error.__traceback__ and error.__traceback__.tb_next
        sys.excepthook(type(error), error.with_traceback(own), own)
        sys.exit(1)
    finally:
        if report:
            for recorder in recorders:
                click.echo(f"\n{recorder.report()}", err=True)


def open_program(program: str, as_module: bool) -> tuple[types.ModuleType, Any]:
    """The ``__main__`` module that a program is to run in, and its code.

    Raises:
        click.ClickException: there is no such program.
    """
    return _module(program) if as_module else _script(program)


def _script(program: str) -> tuple[types.ModuleType, Any]:
    path = Path(program)
    if not path.is_file():
        raise click.UsageError(f"there is no file {program}; for a module write: safeloader run -m {program}")
    try:
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise click.ClickException(f"{program} is not a Python program: {error}") from None
    sys.path[0] = str(path.resolve().parent)
    return _new_main(str(path), None), code


def _module(name: str) -> tuple[types.ModuleType, Any]:
    sys.path[0] = os.getcwd()
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError) as error:
        raise click.UsageError(f"no module {name}: {error}") from None
    loader: Any = spec.loader if spec is not None else None
    code = loader.get_code(spec.name) if spec is not None and hasattr(loader, "get_code") else None
    if spec is None or code is None:
        raise click.UsageError(f"no module {name} that can be run")
    return _new_main(spec.origin, spec), code


def _new_main(file: str | None, spec: ModuleSpec | None) -> types.ModuleType:
    """The module that the program is: what its classes and functions call ``__main__``."""
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=file, __spec__=spec, __builtins__=__builtins__)
    main.__package__ = spec.parent if spec is not None else None
    main.__loader__ = spec.loader if spec is not None else None
    return main
