"""Runs one scenario under one loader: starts its program, watches its facts, gives up at the cap, and cleans up after it.

The cap counts from the last fact: a program is said to hang when nothing happened for so long, however long it ran before.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.hangs import adapters, facts, scenario
from benchmarks.hangs.judge import Ending, Record, expect, judge
from benchmarks.hangs.scenario import NotHere, Room, Scenario

ROOT = Path(__file__).resolve().parents[2]
GLANCE = 0.05
"""Seconds between two looks at a program that runs."""
TOTAL = 8
"""A program that goes on without coming to an end is given up after so many caps."""


class HarnessError(RuntimeError):
    """The benchmark itself failed; nothing is said about a loader."""


@dataclass(slots=True)
class Harness:
    """Runs scenarios, and keeps the digests of their undisturbed runs.

    Attributes:
        cap: Seconds without a fact after which a program is said to hang.
    """

    cap: float = 20.0
    _references: dict[str, list[str]] = field(default_factory=dict)

    def prepare_reference(self, name: str) -> None:
        """Make the undisturbed run that the scenario called ``name`` is compared with, once.

        Raises:
            HarnessError: torch's DataLoader did not finish it.
        """
        wanted = scenario.load(name).reference
        source = name if wanted == "own" else wanted
        if source is None or source in self._references:
            return
        try:
            record = self._run(source, scenario.load(source), adapters.ADAPTERS["torch"], quiet=True)
        except NotHere:
            return
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
            expect(record, wanted)
        return record

    def _run(self, name: str, wanted: Scenario, loader: adapters.Adapter, *, quiet: bool = False) -> Record:
        cap = self.cap * wanted.slow * loader.impatience * (wanted.patience if loader.supervises else 1.0)
        with tempfile.TemporaryDirectory(prefix="hangs-", ignore_cleanup_errors=True) as place:
            directory = Path(place)
            if quiet:
                ending = self._watch(name, wanted, loader, directory, Room(), self.cap, quiet)
            else:
                with wanted.room(directory) as room:
                    ending = self._watch(name, wanted, loader, directory, room, cap, quiet)
            source = name if wanted.reference == "own" else wanted.reference
            digests = self._references.get(source) if source and not quiet else None
            return judge(name, wanted, loader.name, facts.read(directory), ending, digests)

    def _watch(
        self,
        name: str,
        wanted: Scenario,
        loader: adapters.Adapter,
        directory: Path,
        room: Room,
        cap: float,
        quiet: bool,
    ) -> Ending:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            facts.DIRECTORY: str(directory),
            facts.LOADER: loader.name,
            facts.QUIET: "1" if quiet else "0",
            **room.environment,
        }
        command, text = command_line(name, wanted, directory)
        errors = directory / "stderr"
        with errors.open("wb") as stderr, (directory / "stdin").open("w+b") as stdin:
            stdin.write(text)
            stdin.seek(0)
            child = subprocess.Popen(
                [*room.prefix, *command],
                env=environment,
                cwd=directory,
                stdin=stdin,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            code = _wait(child, directory, cap)
            ending = Ending(code, time.monotonic())
            if code is not None:
                ending.left, ending.last_left = _left_behind(directory, wanted.grace)
        finally:
            _kill_all(child, directory)
        ending.stderr = errors.read_text(errors="replace")[-3000:]
        return ending


def command_line(name: str, wanted: Scenario, directory: Path) -> tuple[list[str], bytes]:
    """How the scenario's program is started: the command line and what it reads from standard input."""
    if wanted.script is None:
        return [sys.executable, "-m", f"benchmarks.hangs.scenarios.{name}"], b""
    if wanted.stdin:
        return [sys.executable, "-"], wanted.script.encode()
    program = directory / "train.py"
    program.write_text(wanted.script)
    return [sys.executable, str(program)], b""


def members(directory: Path) -> list[psutil.Process]:
    """The living processes of the run in ``directory``, known by their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get(facts.DIRECTORY) == str(directory)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _wait(child: subprocess.Popen[bytes], directory: Path, cap: float) -> int | None:
    """The exit code, or None when nothing happened for ``cap`` seconds."""
    begun = last = time.monotonic()
    size = -1
    while True:
        try:
            return child.wait(GLANCE)
        except subprocess.TimeoutExpired:
            pass
        now = time.monotonic()
        path = facts.path_in(directory)
        if path.exists() and path.stat().st_size != size:
            size, last = path.stat().st_size, now
        if now - last > cap or now - begun > TOTAL * cap:
            return None


def _left_behind(directory: Path, grace: float) -> tuple[int, float | None]:
    """How many processes of the run live on after ``grace`` seconds, and when the last one had ended."""
    limit = time.monotonic() + grace
    while True:
        left = len(members(directory))
        now = time.monotonic()
        if not left:
            return 0, now
        if now > limit:
            return left, None
        time.sleep(0.2)


def _kill_all(child: subprocess.Popen[bytes], directory: Path) -> None:
    """Kill the program and everything that it has started."""
    for _ in range(20):
        doomed = members(directory)
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        elif not doomed:
            return
        for process in doomed:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(doomed, timeout=1)
        try:
            child.wait(1)
        except subprocess.TimeoutExpired:
            continue
    raise HarnessError(f"processes of {directory.name} could not be killed: {members(directory)}")
