"""The entry point: ``python -m benchmarks.hangs [--loaders torch,safeloader] [--only a,b] [--quick] ...``."""

from __future__ import annotations

import argparse
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.hangs import adapters, report, scenario
from benchmarks.hangs.harness import Harness, HarnessError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.hangs.judge import Record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.hangs",
        description="Small true programs that hang, kill or starve a data loader, under several loaders.",
    )
    made.add_argument(
        "--loaders",
        default="torch,torch-timeout,safeloader",
        help=f"comma-separated, out of {', '.join(adapters.ADAPTERS)}, or module:function (default: %(default)s)",
    )
    made.add_argument("--only", help="comma-separated names of scenarios; see --list")
    made.add_argument(
        "--quick", action="store_true", help="the short table: a dozen scenarios, two loaders, two at a time"
    )
    made.add_argument(
        "--cap", type=float, default=20.0, help="seconds without any event that count as a hang (default: 20)"
    )
    made.add_argument("--jobs", type=int, default=1, help="programs that run at a time (default: 1)")
    made.add_argument("--json", type=Path, help="write all records to this file")
    made.add_argument("--markdown", type=Path, help="write the table to this file")
    made.add_argument("--check", action="store_true", help="exit with 1 if safeloader does not do what it owes")
    made.add_argument("--list", action="store_true", help="list the scenarios and end")
    return made


def measure(
    harness: Harness, names: Sequence[str], loaders: Sequence[adapters.Adapter], jobs: int, console: Console
) -> Iterator[Record]:
    """Run every scenario under every loader, with a progress bar; yields the records in the order of the arguments.

    Raises:
        HarnessError: The benchmark itself failed.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    pool = ThreadPoolExecutor(jobs)
    with Progress(*columns, console=console) as progress:
        try:
            needed = _by_reference(names)
            references = progress.add_task("undisturbed runs".ljust(44), total=len(needed))
            for _ in pool.map(harness.prepare_reference, needed):
                progress.advance(references)
            runs = progress.add_task("runs".ljust(44), total=len(names) * len(loaders))

            def run(pair: tuple[str, adapters.Adapter]) -> Record:
                record = harness.run(*pair)
                told = f"{record.scenario} under {record.loader}: {record.outcome}"
                progress.update(runs, advance=1, description=told[:44].ljust(44))
                return record

            yield from pool.map(run, [(name, loader) for name in names for loader in loaders])
        finally:
            # However this ends, no program goes on without somebody to watch it.
            harness.stop.set()
            pool.shutdown(cancel_futures=True)


def _by_reference(names: Sequence[str]) -> list[str]:
    """One scenario for each reference that is needed, so that no undisturbed run is made twice at a time."""
    sources = {}
    for name in names:
        reference = scenario.load(name).reference
        sources[name if reference == "own" else reference] = name
    return list(sources.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 2 for wrong arguments or a failed harness, 1 for a failed ``--check``, else 0."""
    options = parser().parse_args(arguments)
    console = Console()
    try:
        scenarios = {
            name: scenario.load(name) for name in (options.only.split(",") if options.only else scenario.names())
        }
        names = sorted(scenarios, key=lambda name: (scenarios[name].row != "-", scenarios[name].row, name))
        chosen = [name for name in names if scenarios[name].quick or not options.quick]
        loaders = "torch,safeloader" if options.quick and options.loaders.count(",") == 2 else options.loaders
        made = [adapters.adapter(name) for name in loaders.split(",")]
    except LookupError as problem:
        print(problem, file=sys.stderr)
        return 2
    if options.list:
        for name in chosen:
            console.print(f"[bold]{name}[/bold] ({scenarios[name].row}): {scenarios[name].title}", highlight=False)
        return 0
    records: list[Record] = []
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        jobs = max(options.jobs, 2 if options.quick else 1)
        harness = Harness(options.cap)
        for record in measure(harness, chosen, made, jobs, console):
            records.append(record)
            _write(records, harness.start, options)
    except HarnessError as problem:
        print(f"the benchmark itself failed: {problem}", file=sys.stderr)
        return 2
    _tell(records, console)
    return 1 if options.check and report.problems(records) else 0


def _tell(records: Sequence[Record], console: Console) -> None:
    console.print(report.table(records))
    for line in (*report.summary(records), *report.problems(records)):
        console.print(line, highlight=False, markup=False)


def _write(records: Sequence[Record], start: float, options: argparse.Namespace) -> None:
    """Write the files after each record, so that a run that is ended early leaves what it has found."""
    if options.json:
        report.write(options.json, report.to_json(records, options.cap, start))
    if options.markdown:
        command = "python -m benchmarks.hangs" + (" --quick" if options.quick else "")
        report.write(options.markdown, report.markdown(records, options.cap, start, command))


if __name__ == "__main__":
    sys.exit(main())
