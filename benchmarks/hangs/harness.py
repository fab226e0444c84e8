"""Runs one scenario under one loader: makes its surroundings, starts its program, watches it, cleans up, judges.

The cap counts from the last fact: a program is said to hang when nothing happened for so long, however long it ran
before. To it comes the time that processes need to start, which the undisturbed runs measure.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.hangs import adapters, facts, processes, scenario
from benchmarks.hangs.judge import Ending, Record, expect, judge, start_seconds
from benchmarks.hangs.scenario import NotHere, Room, Scenario
from safeloader.bisecting.processes import kill_all

ROOT = Path(__file__).resolve().parents[2]
STARTS = 2
"""A program may be silent for so many starts of workers on top of its cap: the machine's load is not the loader's."""
REFERENCE_CAP = 60.0
"""Seconds without a fact after which even an undisturbed run is given up."""


class HarnessError(RuntimeError):
    """The benchmark itself failed; nothing is said about a loader."""


@dataclass(slots=True)
class Harness:
    """Runs scenarios, and keeps the digests of their undisturbed runs.

    Attributes:
        cap: Seconds without a fact, on top of `STARTS` starts, after which a program is said to hang.
        starts: Seconds that torch's workers took to start in each undisturbed run.
        stop: Set from outside, ends every run that is under way by `processes.Interrupted`.
    """

    cap: float = 20.0
    stop: threading.Event = field(default_factory=threading.Event)
    starts: list[float] = field(default_factory=list)
    _references: dict[str, list[str]] = field(default_factory=dict)

    @property
    def start(self) -> float:
        """Seconds that torch's workers take to start on this machine, under its present load."""
        return statistics.median(self.starts) if self.starts else 0.0

    def prepare_reference(self, name: str) -> None:
        """Make the undisturbed run that the scenario called ``name`` is compared with, once.

        Raises:
            HarnessError: torch's DataLoader did not finish it.
        """
        wanted = scenario.load(name).reference
        source = name if wanted == "own" else wanted
        if source is None or source in self._references:
            return
        record = self._undisturbed(source, scenario.load(source))
        if record.outcome != "finished":
            raise HarnessError(f"the undisturbed run of {source} did not finish: {record}\n{record.stderr}")
        self._references[source] = record.digests

    def run(self, name: str, loader: adapters.Adapter) -> Record:
        """Run one scenario under one loader and judge it."""
        wanted = scenario.load(name)
        reason = adapters.unusable(loader)
        if reason is None:
            try:
                record = self._run(name, wanted, loader)
            except NotHere as why:
                reason = str(why)
        if reason is not None:
            return Record(name, wanted.row, wanted.title, loader.name, "skipped", reason, due=wanted.batches)
        if loader.name == "safeloader":
            expect(record, wanted, self.start)
        return record

    def _run(self, name: str, wanted: Scenario, loader: adapters.Adapter) -> Record:
        patience = wanted.slow * loader.impatience * (wanted.patience if loader.supervises else 1.0)
        source = name if wanted.reference == "own" else wanted.reference
        reference = self._references.get(source) if source else None
        with tempfile.TemporaryDirectory(prefix="hangs-", ignore_cleanup_errors=True) as place:
            directory = Path(place)
            with wanted.room(directory) as room:
                cap = self.cap * patience + STARTS * self.start
                ending = self._watch(Launch(name, wanted, loader.name, directory, room), cap)
            return judge(name, wanted, loader.name, facts.read(directory), ending, reference)

    def _undisturbed(self, name: str, wanted: Scenario) -> Record:
        with tempfile.TemporaryDirectory(prefix="hangs-", ignore_cleanup_errors=True) as place:
            directory = Path(place)
            launch = Launch(name, wanted, "torch", directory, quiet=True)
            ending = self._watch(launch, max(self.cap, REFERENCE_CAP))
            noted = facts.read(directory)
            self.starts.append(start_seconds(noted))
            return judge(name, wanted, "torch", noted, ending, None)

    def _watch(self, launch: Launch, cap: float) -> Ending:
        errors = launch.directory / "stderr"
        with errors.open("wb") as stderr:
            child = launch.start(stderr.fileno())
        try:
            code = processes.wait(child, launch.directory, cap, self.stop)
            ending = Ending(code, time.monotonic())
            if code is not None:
                ending.left, ending.last_left = processes.left_behind(launch.directory, launch.wanted.grace)
        finally:
            if not kill_all(child, lambda: processes.members(launch.directory)):
                raise HarnessError(f"not all processes of {launch.name} under {launch.loader} could be killed")
        ending.stderr = errors.read_text(errors="replace")[-3000:]
        return ending


@dataclass(frozen=True, slots=True)
class Launch:
    """How one program is started: which, under which loader, in which directory and surroundings."""

    name: str
    wanted: Scenario
    loader: str
    directory: Path
    room: Room = field(default_factory=Room)
    quiet: bool = False

    def start(self, output: int) -> subprocess.Popen[bytes]:
        """Start it in a session of its own, with what it writes going to the descriptor ``output``."""
        command, text = self._command()
        source = self.directory / "stdin"
        source.write_text(text)
        with source.open("rb") as stdin:
            return subprocess.Popen(
                [*self.room.prefix, *command],
                env={**os.environ, **self._environment()},
                cwd=self.directory,
                stdin=stdin,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            "PYTHONPATH": os.pathsep.join(paths),
            facts.DIRECTORY: str(self.directory),
            facts.LOADER: self.loader,
            facts.QUIET: "1" if self.quiet else "0",
            **self.room.environment,
        }

    def _command(self) -> tuple[list[str], str]:
        """The command line, and what the program reads from standard input."""
        script = self.wanted.script
        if script is None:
            return [sys.executable, "-m", scenario.module_of(self.name), self.name], ""
        if self.wanted.stdin:
            return [sys.executable, "-"], script
        program = self.directory / "train.py"
        program.write_text(script)
        return [sys.executable, str(program)], ""
