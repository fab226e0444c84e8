"""``safeloader bisect``: which setting hangs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from safeloader.cli.status_line import StatusLine
from safeloader.cli.tables import console, needs, table
from safeloader.main_module import ProgramError, source_of
from safeloader.observe.format import many, printable

if TYPE_CHECKING:
    from safeloader.bisecting.watch import Glance, Run, Runner

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
    try:
        source = source_of(program, as_module)
    except ProgramError as error:
        raise (click.UsageError if error.missing else click.ClickException)(str(error)) from None
    needs("psutil")
    from safeloader.bisecting.matrix import Setting, everything, has_main_guard, one_at_a_time, validation_switches
    from safeloader.bisecting.watch import Runner

    switch = switch or next(iter(validation_switches(source)), None)
    guarded = has_main_guard(source)
    runner = Runner(program, arguments, as_module=as_module, cap=cap, enough=enough, switch=switch)
    told = _Told(as_json)
    interrupted = False
    try:
        first = told.take(runner, Setting(), 0)
        if first.passes or first.survived:
            settings = list((everything if full else one_at_a_time)(first.seen, switch is not None, guarded))
            for number, setting in enumerate(settings):
                told.take(runner, setting, len(settings) - number - 1)
    except KeyboardInterrupt:
        interrupted = True
    if told.runs:
        told.end(switch, guarded)
    sys.exit(130 if interrupted else int(not all(run.survived for run in told.runs)))


class _Told:
    """The runs so far, told as they end."""

    def __init__(self, as_json: bool) -> None:
        self.runs: list[Run] = []
        self._console = None if as_json else console()

    def take(self, runner: Runner, setting: Any, left: int) -> Run:
        """One run, with as many to follow."""
        line = StatusLine()
        rest = f" ({many(left, 'run')} after it)" if left else ""
        title = f"run {len(self.runs) + 1}{rest}: {setting.label}"
        line.begin(title)
        try:
            run = runner.run(setting, lambda glance: line.update(f"{title}: {_so_far(glance)}"))
        finally:
            line.clear()
        self.runs.append(run)
        if self._console is not None:
            self._console.print(f"{run.outcome:<10}", style=_STYLES[run.outcome], end="")
            self._console.print(f"{setting.label}: {many(run.batches, 'batch')}, {run.seconds:.0f} s", soft_wrap=True)
        return run

    def end(self, switch: str | None, guarded: bool) -> None:
        from safeloader.bisecting.matrix import STARTS, starts_of
        from safeloader.bisecting.verdict import verdict

        seen = self.runs[0].seen
        untried = [start for start in STARTS if start in starts_of(seen, True)] if not guarded else []
        sentences = [printable(sentence) for sentence in verdict(self.runs, untried)]
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


def _so_far(glance: Glance) -> str:
    silent = f", nothing for {glance.silent:.0f} of {glance.allowed:.0f} s" if glance.silent > 2 else ""
    return f"{many(glance.batches, 'batch')} in {glance.seconds:.0f} s{silent}"
