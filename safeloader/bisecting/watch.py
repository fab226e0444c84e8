"""One run of the script under one setting: watched, ended with everything that it started, and told."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Literal

from safeloader.bisecting.matrix import ScriptLoaders
from safeloader.bisecting.processes import kill_all, members
from safeloader.bisecting.program import VARIABLE, Beat, read_beat
from safeloader.observe.format import inline, stack_lines, stack_place
from safeloader.runtime.system import STACK_SIGNAL

if TYPE_CHECKING:
    from safeloader.bisecting.matrix import Setting

__all__ = ["Outcome", "Run", "Runner"]

Outcome = Literal["finished", "went on", "died", "hung"]

_GLANCE = 0.1  # seconds between two looks
_BOOT = "from safeloader.bisecting.program import main; main()"
_TIME_FOR_STACKS = 3.0
_START = 60.0
"""Seconds that a script may need until its first batch, where the cap is shorter."""


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
    """

    setting: Setting
    outcome: Outcome
    seconds: float
    batches: int
    passes: int
    detail: str
    stack: str
    seen: ScriptLoaders

    @property
    def survived(self) -> bool:
        """It finished, or went on."""
        return self.outcome in ("finished", "went on")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "setting": self.setting.as_dict(), "label": self.setting.label, "outcome": self.outcome,
            "seconds": round(self.seconds, 1), "batches": self.batches, "passes": self.passes, "detail": self.detail,
            "stack": self.stack,
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

    def run(self, setting: Setting) -> Run:
        """One run; whatever it started is gone when this returns."""
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
                outcome = self._watch(child, folder, setting)
                stack = _stacks(child, folder) if outcome == "hung" else ""
            finally:
                kill_all(child, lambda: members(VARIABLE, place, child.pid))
            beat = read_beat(folder)
            return Run(
                setting, outcome, monotonic() - begun, beat.batches, beat.passes,
                _detail(child.returncode, outcome, stack, folder), stack, _seen(folder),
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
            # Two attempts, the second with twice the time, fit into the cap, which is doubled for it.
            environment.setdefault("SAFELOADER_BATCH_TIMEOUT", f"{self._cap / 4:.3g}")
        if setting.validation is False and self._switch is not None and not self._switch.startswith("-"):
            name, _, value = self._switch.partition("=")
            environment[name] = value
        return environment

    def _watch(self, child: subprocess.Popen[bytes], folder: Path, setting: Setting) -> Outcome:
        cap = self._cap * (2 if setting.loader == "safeloader" else 1)
        begun = last = monotonic()
        beat = Beat()
        while True:
            try:
                return "finished" if child.wait(_GLANCE) == 0 else "died"
            except subprocess.TimeoutExpired:
                pass
            now, latest = monotonic(), read_beat(folder)
            if latest != beat:
                beat, last = latest, now
            if now - last > (cap if beat.batches else max(cap, _START)):
                return "hung"
            if now - begun > self._enough and beat.batches and now - last < cap / 2:
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


def _detail(code: int | None, outcome: Outcome, stack: str, folder: Path) -> str:
    if outcome == "hung":
        place, own = stack_place(stack), _own_place(stack)
        if not place:
            return "gave no stack: stopped, or inside the kernel"
        return f"stood at {place}" + (f", called from {own}" if own and not place.endswith(own) else "")
    if outcome != "died":
        return ""
    how = f"exit status {code}"
    if code is not None and code < 0:
        try:
            how = signal.Signals(-code).name
        except ValueError:
            how = f"signal {-code}"
    lines = [line for line in (folder / "stderr").read_text(errors="replace").splitlines() if line.strip()]
    return f"{how}: {inline(lines[-1], 160)}" if lines else how


_ROW = re.compile(r'File "(.*)", line (\d+) in (.+)')
_LIBRARIES = (os.path.dirname(os.__file__), os.path.dirname(os.path.dirname(__file__)), "<")


def _own_place(stack: str) -> str:
    """The innermost line of the main thread that is the script's own: of no library."""
    for line in stack_lines(stack, most=1000):
        row = _ROW.search(line)
        if row and not row[1].startswith(_LIBRARIES) and "site-packages" not in row[1]:
            return f"{os.path.basename(row[1])}:{row[2]} in {row[3]}"
    return ""


def _stacks(child: subprocess.Popen[bytes], folder: Path) -> str:
    """The Python stacks of the script's process, if it still writes them."""
    path = folder / "stacks"
    if child.poll() is not None or not path.exists():
        return ""
    child.send_signal(STACK_SIGNAL)
    end, size = monotonic() + _TIME_FOR_STACKS, -1
    while monotonic() < end and (path.stat().st_size == 0 or path.stat().st_size != size):
        size = path.stat().st_size
        sleep(0.05)
    return path.read_text(errors="replace").strip()
