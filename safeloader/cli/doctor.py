"""``safeloader doctor``: what on this machine, and about this loader, will hurt."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from safeloader.cli.status_line import StatusLine
from safeloader.cli.tables import console, needs, table
from safeloader.observe.format import many

if TYPE_CHECKING:
    from safeloader.doctor.finding import Finding
    from safeloader.doctor.scaling import Rate, Recommendation
    from safeloader.doctor.subject import Inside, Timing

__all__ = ["doctor"]

VERSION = 1
_STYLES = {"ok": "green", "warn": "yellow", "bad": "bold red", "unknown": "dim"}


@click.command(epilog="Example: safeloader doctor     safeloader doctor train.py:make_loader --step 0.2")
@click.argument("loader", required=False)
@click.option(
    "--seconds",
    default=20.0,
    show_default=True,
    type=click.FloatRange(min=1),
    help="Time for the measurements of the loader, starting the workers apart.",
)
@click.option("--workers", help="Numbers of workers to measure, for example 1,2,8.", metavar="N,N,...")
@click.option(
    "--step",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds of one training step: recommend what keeps up with it.",
)
@click.option(
    "--ffcv", "with_ffcv", is_flag=True, help="Try FFCV, too, also on images of LOADER: some ten seconds each."
)
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")  # fmt: skip
def doctor(
    loader: str | None, seconds: float, workers: str | None, step: float | None, with_ffcv: bool, as_json: bool
) -> None:
    """Look at this machine, and at LOADER, for what will hurt.

    LOADER is a DataLoader, or a function without arguments that makes one, as package.module:name or file.py:name.
    It is measured with a few numbers of workers. The exit status is 1 if something is bad.
    """
    counts = _counts(workers)
    from safeloader.cli.finding import check, find_loader

    if loader is not None:
        check(loader)
    needs("psutil")
    out = _Out(as_json)
    with out.line.shown("importing torch", everywhere=False):
        from safeloader.doctor import software

        before = software.threads_now()
    subject = threads = None
    if loader is not None:
        with out.line.shown(f"making {loader}", everywhere=False):
            subject = find_loader(loader)
            threads = max(software.threads_now() - before, 0)
    out.add_all(_machine(subject, threads, with_ffcv))
    if subject is not None:
        _examine(subject, counts, seconds, step, with_ffcv, out)
    out.end()
    sys.exit(any(finding.verdict == "bad" for finding in out.findings))


def _counts(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise click.UsageError(f"--workers takes numbers from 1 on, for example 1,2,8, not {text!r}")
    return found


def _machine(loader: Any, threads: int | None, with_ffcv: bool) -> list[tuple[str, Any]]:
    from safeloader.doctor import devices, machine, software

    workers = None if loader is None else loader.num_workers
    return [
        *software.CHECKS,
        ("start method", functools.partial(software.start_method, threads)),
        ("FFCV", software.try_ffcv if with_ffcv else software.ffcv),
        ("processors", functools.partial(machine.cpus, workers)),
        ("threads", functools.partial(software.threads_of_libraries, workers)),
        *machine.CHECKS,
        *devices.CHECKS,
    ]


def _examine(
    loader: Any, counts: list[int] | None, seconds: float, step: float | None, with_ffcv: bool, out: _Out
) -> None:
    from safeloader.doctor import scaling, subject
    from safeloader.doctor.cgroups import usable_cpus
    from safeloader.doctor.finding import Finding

    out.add(subject.asks_for_fork(loader))
    spawned, out.size = subject.carried(loader)
    out.add(spawned)
    usable = usable_cpus()
    logging.getLogger("safeloader").setLevel(logging.CRITICAL)  # what goes wrong is told as a finding
    if spawned.verdict != "bad":
        tried = scaling.counts(usable, loader.num_workers) if counts is None else counts
        for number in tried:
            each = max(seconds / (len(tried) + 1), 0.5)
            with out.line.shown(f"measuring {many(number, 'worker')}: {each:.0f} s after they have started"):
                rate = scaling.measure(loader, number, each)
            out.rates.append(rate)
            if rate.problem:
                out.add(Finding("workers", "bad", f"with {number}: {rate.problem}"))
                break
    with out.line.shown("measuring single samples"):
        inside = subject.Inside()
        batches, out.timing = subject.timed(loader, max(seconds / 4, 5.0), inside)
    out.add(batches)
    if out.timing is not None:
        _look_inside(inside, out.timing, with_ffcv, out)
    if out.timing is not None and os.path.isdir("/dev/shm"):
        facts = os.statvfs("/dev/shm")
        out.add(subject.shm_needed(loader, out.timing, facts.f_bavail * facts.f_frsize))
    if out.rates and not out.rates[-1].problem:
        out.recommendation = scaling.recommend(out.rates, loader.num_workers, usable, out.timing, step)


def _look_inside(inside: Inside, timing: Timing, with_ffcv: bool, out: _Out) -> None:
    """What would make samples faster."""
    from safeloader.doctor import advice, beton_trial, images

    out.stages = inside.clock.shares()
    if out.stages:
        out.add(advice.of_stages(out.stages, timing, inside.images.size, inside.images.target))
    with out.line.shown("decoding some of the images"):
        contents = inside.images.contents()
        found = images.trials(contents, inside.images.target) if contents else []
        tried = beton_trial.ffcv_trial(contents, inside.images.target) if with_ffcv and inside.images.target else None
    found += [] if tried is None or not found else [tried]
    for finding in advice.of_decoders(found, inside.images.target):
        out.add(finding)
    if (narrow := advice.of_narrow(inside.narrow, timing)) is not None:
        out.add(narrow)


class _Out:
    """Findings as they come, for people; or all at the end, as JSON."""

    def __init__(self, as_json: bool) -> None:
        self.findings: list[Finding] = []
        self.rates: list[Rate] = []
        self.size: int | None = None
        self.timing: Timing | None = None
        self.stages: dict[str, float] = {}
        self.recommendation: Recommendation | None = None
        self.line = StatusLine()
        self._console = None if as_json else console()

    def add_all(self, checks: list[tuple[str, Any]]) -> None:
        from safeloader.doctor.finding import examine

        for number, (name, check) in enumerate(checks, 1):
            with self.line.shown(f"check {number} of {len(checks)}: {name}", everywhere=False):
                found = list(examine([(name, check)]))
            self.add(found[0])

    def add(self, finding: Finding) -> None:
        self.findings.append(finding)
        if self._console is not None:
            self._console.print(f"{finding.verdict:<8}", style=_STYLES[finding.verdict], end="")
            self._console.print(f"{finding.check}: {finding.text}", soft_wrap=True)
            if finding.hint and finding.verdict != "ok":
                self._console.print(f"        try: {finding.hint}", style="dim", soft_wrap=True)

    def end(self) -> None:
        if self._console is None:
            click.echo(json.dumps(self._as_dict(), indent=2))
            return
        if self.rates:
            rows = [
                (r.workers, "-" if r.rate is None else f"{r.rate:.3g}", "-" if r.first is None else f"{r.first:.2f} s")
                for r in self.rates
            ]
            self._console.print(table(("#workers", "#batches a second", "#first batch after"), rows))
        if self.recommendation is not None:
            number = self.recommendation.num_workers
            setting = "" if number is None else f"set num_workers={number}: "
            self._console.print(f"{setting}{self.recommendation.reason}", style="bold", soft_wrap=True)
        counted = {verdict: sum(f.verdict == verdict for f in self.findings) for verdict in _STYLES}
        self._console.print(", ".join(f"{count} {verdict}" for verdict, count in counted.items() if count))

    def _as_dict(self) -> dict[str, Any]:
        from safeloader.observe.format import plain

        told: dict[str, Any] = {"v": VERSION, "checks": [finding._asdict() for finding in self.findings]}
        if self.timing is not None:
            told["timing"] = {name: plain(value) for name, value in self.timing._asdict().items()}
        if self.stages:
            told["stages"] = {name: round(share, 4) for name, share in self.stages.items()}
        if self.size is not None:
            told["serialised_bytes"] = self.size
        if self.rates:
            told["rates"] = [rate._asdict() for rate in self.rates]
        if self.recommendation is not None:
            told["recommendation"] = self.recommendation._asdict()
        return told
