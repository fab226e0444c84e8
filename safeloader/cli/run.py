"""``safeloader run``: a program that nobody edits, with torch's DataLoader replaced."""

from __future__ import annotations

import os
import sys

import click

from safeloader.cli.tables import echo
from safeloader.main_module import ProgramError, open_program, source_of

__all__ = ["run"]


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: safeloader run train.py --epochs 3     safeloader run -m package.train",
)
@click.option("-m", "as_module", is_flag=True, help="PROGRAM is the name of a module, as in python -m.")
@click.option("--report/--no-report", default=True, help="End with the report of each loader (on stderr).")
@click.option("--hosts", type=click.Choice(["ray"]), help="Processes may be where a Ray cluster has room.")
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(as_module: bool, report: bool, hosts: str | None, program: str, arguments: tuple[str, ...]) -> None:
    """Run PROGRAM with torch's DataLoader replaced by safeloader's.

    The program need not be edited; settings come from SAFELOADER_* variables. Its exit status is this command's.
    Processes that the program itself starts are not patched: with torchrun, write
    `torchrun --no-python safeloader run train.py`.
    """
    try:
        source_of(program, as_module)  # before torch is imported
        main, code = open_program(program, as_module)
    except ProgramError as error:
        raise (click.UsageError if error.missing else click.ClickException)(str(error)) from None
    from safeloader import observe, unprotected
    from safeloader.config import resolve
    from safeloader.patching import patch

    if hosts is not None:
        os.environ["SAFELOADER_HOSTS"] = hosts
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
                echo(f"\n{recorder.report()}", err=True)
            if left_out := unprotected.report():
                echo(f"\n{left_out}", err=True)
            if resolve().disable:
                echo("\nNOT protected by safeloader: SAFELOADER_DISABLE is set", err=True)
