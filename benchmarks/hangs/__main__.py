"""The entry point: ``python -m benchmarks.hangs [--loaders torch,safeloader] [--only a,b] [--quick] ...``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.hangs import adapters, report, scenario
from benchmarks.hangs.harness import Harness, HarnessError
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
    made.add_argument(
        "--check", action="store_true", help="exit with 1 if safeloader does not do what it owes"
    )
    made.add_argument("--list", action="store_true", help="list the scenarios and end")
    return made


def measure(
    harness: Harness, names: Sequence[str], loaders: Sequence[adapters.Adapter], jobs: int, console: Console
) -> list[Record]:
    """Run every scenario under every loader, with a progress bar; records in the order of the arguments.

    Raises:
        HarnessError: The benchmark itself failed.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(jobs) as pool:
        references = progress.add_task("undisturbed runs", total=len(names))
        for _ in pool.map(harness.prepare_reference, _by_reference(names)):
            progress.advance(references)
        progress.update(references, completed=len(names))
        runs = progress.add_task("runs", total=len(names) * len(loaders))

        def run(pair: tuple[str, adapters.Adapter]) -> Record:
            name, loader = pair
            record = harness.run(name, loader)
            progress.update(
                runs, advance=1, description=f"{name} under {loader.name}: {record.outcome}"[:60].ljust(60)
            )
            return record

        return list(pool.map(run, [(name, loader) for name in names for loader in loaders]))


def _by_reference(names: Sequence[str]) -> list[str]:
    """One scenario for each reference that is needed, so that no undisturbed run is made twice at a time."""
    sources = {}
    for name in names:
        reference = scenario.load(name).reference
        sources[name if reference == "own" else reference] = name
    return list(sources.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code: 2 for wrong arguments or a failed harness, 1 for a failed ``--check``."""
    options = parser().parse_args(arguments)
    console = Console()
    try:
        names = options.only.split(",") if options.only else scenario.names()
        scenarios = {name: scenario.load(name) for name in names}
        chosen = [name for name in names if scenarios[name].quick or not options.quick]
        loaders = "torch,safeloader" if options.quick and options.loaders.count(",") == 2 else options.loaders
        made = [adapters.adapter(name) for name in loaders.split(",")]
    except LookupError as problem:
        print(problem, file=sys.stderr)
        return 2
    if options.list:
        for name in chosen:
            console.print(
                f"[bold]{name}[/bold] ({scenarios[name].row}): {scenarios[name].title}", highlight=False
            )
        return 0
    try:
        jobs = max(options.jobs, 2 if options.quick else 1)
        records = measure(Harness(options.cap), chosen, made, jobs, console)
    except HarnessError as problem:
        print(f"the benchmark itself failed: {problem}", file=sys.stderr)
        return 2
    _tell(records, options, console)
    return 1 if options.check and report.problems(records) else 0


def _tell(records: Sequence[Record], options: argparse.Namespace, console: Console) -> None:
    console.print(report.table(records))
    for line in (*report.summary(records), *report.problems(records)):
        console.print(line, highlight=False, markup=False)
    if options.json:
        report.write(options.json, report.to_json(records, options.cap))
    if options.markdown:
        command = "python -m benchmarks.hangs" + (" --quick" if options.quick else "")
        report.write(options.markdown, report.markdown(records, options.cap, command))


if __name__ == "__main__":
    sys.exit(main())
