"""One run of the script under one setting: watched, ended with everything that it started, and told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Literal

from safeloader.bisecting.budget import Budget, timeouts_of
from safeloader.bisecting.evidence import Finding, Stacks, findings, how_it_died, progress_of, where_it_stood
from safeloader.bisecting.matrix import ScriptLoaders
from safeloader.bisecting.processes import catches, kill_all, members
from safeloader.bisecting.program import VARIABLE, Beat, read_beat
from safeloader.runtime.system import STACK_SIGNAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.bisecting.matrix import Setting

__all__ = ["Glance", "Outcome", "Run", "Runner"]

Outcome = Literal["finished", "went on", "died", "hung"]

_GLANCE = 0.1  # seconds between two looks
_BOOT = "from safeloader.bisecting.program import main; main()"
_TIME_FOR_STACKS = 3.0
_ATTEMPTS = 2
"""safeloader's attempts after the first at a sample, unless the environment says otherwise."""
_MOST_WORKERS = 16  # whose stacks are asked for


@dataclass(frozen=True, slots=True)
class Glance:
    """A run that is under way: for how long, how many batches, for how long nothing has come, and what is allowed."""

    seconds: float
    batches: int
    silent: float
    allowed: float


@dataclass(frozen=True, slots=True)
class Run:
    """How a run went.

    Attributes:
        setting: what was changed.
        outcome: ``"finished"``; ``"went on"``: it still made progress after the time that is enough;
            ``"died"``: it ended with an error; ``"hung"``: no progress within the cap.
        seconds: its length.
        batches: batches that its loaders gave.
        passes: passes over loaders that it began.
        detail: exit status or signal and the last line of stderr; or where it stood.
        stack: Python stacks of its main process, if it hung.
        seen: what the script asks its loaders for.
        found: the samples that safeloader found to be at fault.
        worker_stacks: Python stacks of the workers that it forked, if it hung.
    """

    setting: Setting
    outcome: Outcome
    seconds: float
    batches: int
    passes: int
    detail: str
    stack: str
    seen: ScriptLoaders
    found: list[Finding] = field(default_factory=list)
    worker_stacks: tuple[str, ...] = ()

    @property
    def survived(self) -> bool:
        """It finished, or went on."""
        return self.outcome in ("finished", "went on")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "setting": self.setting.as_dict(), "label": self.setting.label, "outcome": self.outcome,
            "seconds": round(self.seconds, 1), "batches": self.batches, "passes": self.passes, "detail": self.detail,
            "stack": self.stack, "worker_stacks": list(self.worker_stacks),
            "found": [finding._asdict() for finding in self.found],
        }  # fmt: skip


class Runner:
    """Runs the user's script.

    Args:
        program: a script, or the name of a module.
        arguments: what it is called with.
        as_module: ``program`` is a module.
        cap: seconds without progress that count as a hang.
        enough: seconds after which a run that still makes progress is good.
        switch: what switches validation off: an argument, or ``NAME=VALUE`` of the environment.
    """

    def __init__(
        self, program: str, arguments: tuple[str, ...], *, as_module: bool, cap: float, enough: float,
        switch: str | None,
    ) -> None:  # fmt: skip
        self._program = program
        self._arguments = arguments
        self._as_module = as_module
        self._cap = cap
        self._enough = enough
        self._switch = switch

    def run(self, setting: Setting, tell: Callable[[Glance], None] = lambda glance: None) -> Run:
        """One run; whatever it started is gone when this returns.

        Args:
            setting: what is changed.
            tell: is told at each look how far the run is.
        """
        with tempfile.TemporaryDirectory(prefix="safeloader-bisect-", ignore_cleanup_errors=True) as place:
            folder = Path(place)
            with (folder / "stderr").open("wb") as errors:
                begun = monotonic()
                child = subprocess.Popen(
                    [sys.executable, "-c", _BOOT, self._program, *self._more(setting)],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                    env=self._environment(setting, folder), start_new_session=True,
                )  # fmt: skip
            try:
                outcome = self._watch(child, folder, self._budget(setting), tell)
                stacks = _stacks(child, folder, place) if outcome == "hung" else Stacks()
            finally:
                kill_all(child, lambda: members(VARIABLE, place, child.pid))
            beat, detail = read_beat(folder), ""
            if outcome in ("hung", "died"):
                detail = where_it_stood(stacks) if outcome == "hung" else how_it_died(child.returncode, folder)
            return Run(
                setting, outcome, monotonic() - begun, beat.batches, beat.passes, detail, stacks.main, _seen(folder),
                findings(folder / "events"), stacks.workers,
            )  # fmt: skip

    def _more(self, setting: Setting) -> list[str]:
        switched = setting.validation is False and self._switch is not None and self._switch.startswith("-")
        return [*self._arguments, *([str(self._switch)] if switched else [])]

    def _environment(self, setting: Setting, folder: Path) -> dict[str, str]:
        orders = {"folder": str(folder), "setting": setting.as_dict(), "as_module": self._as_module}
        environment = {**os.environ, VARIABLE: json.dumps(orders)}
        if setting.loader == "torch":
            environment["SAFELOADER_DISABLE"] = "1"  # a script that uses safeloader already
        else:
            environment["SAFELOADER_EVENTS"] = str(folder / "events")
            environment.setdefault("SAFELOADER_BATCH_TIMEOUT", f"{self._budget(setting).batch_timeout:.3g}")
        if setting.validation is False and self._switch is not None and not self._switch.startswith("-"):
            name, _, value = self._switch.partition("=")
            environment[name] = value
        return environment

    def _budget(self, setting: Setting) -> Budget:
        if setting.loader == "torch":
            return Budget(self._cap)
        given = os.environ.get("SAFELOADER_BAD_SAMPLE_ATTEMPTS", "")
        return Budget.under_safeloader(self._cap, int(given) if given.isdecimal() else _ATTEMPTS)

    def _watch(
        self, child: subprocess.Popen[bytes], folder: Path, budget: Budget, tell: Callable[[Glance], None]
    ) -> Outcome:
        """Wait until it ends, hangs, or has gone on for long enough. What safeloader does about a fault is progress."""
        begun = last = last_batch = monotonic()
        beat, acts, failed = Beat(), 0, 0
        while True:
            try:
                return "finished" if child.wait(_GLANCE) == 0 else "died"
            except subprocess.TimeoutExpired:
                pass
            now, latest = monotonic(), read_beat(folder)
            done = 0
            if budget.batch_timeout is not None:
                done, failed = progress_of(folder / "events")
                budget = replace(budget, batch_timeout=timeouts_of(folder / "timeouts") or budget.batch_timeout)
            if latest != beat:
                beat, last_batch = latest, now
            if last_batch == now or done != acts:
                acts, last = done, now
            allowed = budget.silence(beat.batches, failed)
            tell(Glance(now - begun, beat.batches, now - last, allowed))
            if now - last > allowed:
                return "hung"
            if now - begun > self._enough and beat.batches and now - last_batch < self._cap / 2:
                return "went on"


def _seen(folder: Path) -> ScriptLoaders:
    try:
        asked = [json.loads(line) for line in (folder / "loaders").read_text().splitlines()]
    except OSError:
        return ScriptLoaders()
    working = [one for one in asked if one["workers"]]
    if not working:
        return ScriptLoaders()
    persistent = any(one["persistent"] for one in working)
    return ScriptLoaders(max(one["workers"] for one in working), persistent, working[0]["start"])


def _stacks(child: subprocess.Popen[bytes], folder: Path, place: str) -> Stacks:
    """The Python stacks of the script's process, and of the workers that it forked, as far as they still write them."""
    path = folder / "stacks"
    if child.poll() is not None or not path.exists():
        return Stacks()
    main = _stack(child.pid, path, _TIME_FOR_STACKS)
    forked = [one.pid for one in members(VARIABLE, place) if one.pid != child.pid and catches(one.pid, STACK_SIGNAL)]
    return Stacks(main, tuple(filter(None, (_stack(pid, path, 1.0) for pid in forked[:_MOST_WORKERS]))))


def _stack(pid: int, path: Path, seconds: float) -> str:
    """What a process appends to the file when it is asked."""
    before = size = path.stat().st_size
    try:
        os.kill(pid, STACK_SIGNAL)
    except ProcessLookupError:
        return ""
    end = monotonic() + seconds
    while monotonic() < end and (size == before or path.stat().st_size != size):
        size = path.stat().st_size
        sleep(0.05)
    return path.read_bytes()[before:].decode(errors="replace").strip()
