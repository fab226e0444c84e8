"""``safeloader bisect``: which setting hangs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safeloader.cli.tables import console, needs, table

if TYPE_CHECKING:
    from safeloader.bisecting.watch import Run, Runner

__all__ = ["bisect"]

VERSION = 1
_STYLES = {"finished": "green", "went on": "green", "died": "red", "hung": "bold red"}


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: safeloader bisect --cap 120 --no-validation SKIP_VAL=1 train.py --epochs 2",
)
@click.option(
    "--cap",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds without a batch that count as a hang (60 before the first, if more): longer than an "
    "undisturbed run ever pauses.",
)
@click.option(
    "--enough",
    default=300.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds after which a run that still makes progress has survived.",
)
@click.option(
    "--no-validation",
    "switch",
    metavar="SWITCH",
    help="What switches validation off in PROGRAM: an argument (--no-val) or a variable (SKIP_VAL=1). "
    "Looked for in the text of the script by default.",
)
@click.option("--full", is_flag=True, help="Every combination, not one change at a time.")
@click.option("-m", "as_module", is_flag=True, help="PROGRAM is the name of a module, as in python -m.")
@click.option("--json", "as_json", is_flag=True, help="The runs and the verdict as JSON.")
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)  # fmt: skip
def bisect(
    cap: float, enough: float, switch: str | None, full: bool, as_module: bool, as_json: bool, program: str,
    arguments: tuple[str, ...],
) -> None:  # fmt: skip
    """Run PROGRAM as it is and with other settings of its loaders, and say which one hangs.

    Changed are: validation, persistent workers, fewer workers (half, 2, 1, 0), the start method, and torch's loader
    against safeloader. The program is not edited. Each run has a session of its own and is ended with all processes
    that it started. The exit status is 1 if any setting hangs or dies.
    """
    needs("psutil")
    from safeloader.bisecting.matrix import Setting, everything, one_at_a_time
    from safeloader.bisecting.verdict import verdict
    from safeloader.bisecting.watch import Runner

    switch = switch or _switch_in(program, as_module)
    runner = Runner(program, arguments, as_module=as_module, cap=cap, enough=enough, switch=switch)
    told = _Told(as_json)
    interrupted = False
    try:
        first = told.take(runner, Setting())
        if first.passes or first.survived:
            tried = everything if full else one_at_a_time
            for setting in tried(first.seen, switch is not None):
                told.take(runner, setting)
    except KeyboardInterrupt:
        interrupted = True
    if told.runs:
        told.end(verdict(told.runs), switch)
    sys.exit(130 if interrupted else int(not all(run.survived for run in told.runs)))


def _switch_in(program: str, as_module: bool) -> str | None:
    from safeloader.bisecting.matrix import validation_switches

    if as_module:
        return None
    path = Path(program)
    if not path.is_file():
        raise click.UsageError(f"there is no file {program}; for a module write: safeloader bisect -m {program}")
    found = validation_switches(path.read_bytes())
    return found[0] if found else None


class _Told:
    """The runs so far, told as they end."""

    def __init__(self, as_json: bool) -> None:
        self.runs: list[Run] = []
        self._console = None if as_json else console()

    def take(self, runner: Runner, setting: Any) -> Run:
        if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
            click.echo(f"running: {setting.label} ...", err=True)
        run = runner.run(setting)
        self.runs.append(run)
        if self._console is not None:
            self._console.print(f"{run.outcome:<9}", style=_STYLES[run.outcome], end="")
            self._console.print(f"{setting.label}: {run.batches} batches, {run.seconds:.0f} s", soft_wrap=True)
        return run

    def end(self, sentences: list[str], switch: str | None) -> None:
        if self._console is None:
            told = {"v": VERSION, "runs": [run.as_dict() for run in self.runs], "switch": switch, "verdict": sentences}
            click.echo(json.dumps(told, indent=2))
            return
        rows = [
            (run.setting.label, run.outcome, run.batches, run.passes, f"{run.seconds:.0f}", run.detail)
            for run in self.runs
        ]
        columns = ("setting", "outcome", "#batches", "#passes", "#seconds", "how")
        self._console.print(table(columns, rows, [_STYLES[run.outcome] for run in self.runs]))
        for sentence in sentences:
            self._console.print(sentence, soft_wrap=True)
