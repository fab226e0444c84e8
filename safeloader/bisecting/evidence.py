"""What a run left behind: where it stood, what safeloader found out, how it ended."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.observe.format import inline, many, samples, stack_lines, stack_place

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Finding", "Stacks", "findings", "how_it_died", "own_place", "progress_of", "where_it_stood"]

_GUARD = "An attempt has been made to start a new process before"
_ACTS = ("fault", "start", "restart", "replay", "skip", "fallback", "resume")
_ROW = re.compile(r'File "(.*)", line (\d+) in (.+)')
_LIBRARIES = (os.path.dirname(os.__file__), os.path.dirname(os.path.dirname(__file__)), "<")


class Stacks(NamedTuple):
    """Python stacks of a run that hangs: the script's own process, and those that it forked."""

    main: str = ""
    workers: tuple[str, ...] = ()


class Finding(NamedTuple):
    """A sample that safeloader found to be at fault.

    Attributes:
        cause: ``"hung"``, ``"died"``, ``"raised"``, ...
        sample: its index.
        epoch: from 0.
        batch: from 0.
        attempts: how many processes it cost.
        place: where it stood; "" if that is not known.
    """

    cause: str
    sample: Any
    epoch: int | None
    batch: int | None
    attempts: int
    place: str

    def __str__(self) -> str:
        cost = {"hung": "hung", "stopped": "was stopped in", "raised": "raised in"}.get(self.cause, "ended")
        where = ", ".join(f"{name} {n}" for name, n in (("epoch", self.epoch), ("batch", self.batch)) if n is not None)
        at = f", at {self.place}" if self.place else ""
        return f"{samples([self.sample])} ({where}) {cost} {many(self.attempts, 'process')}{at}"


def _events(path: Path) -> list[dict[str, Any]]:
    found = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # it is being written
            continue
    return found


def progress_of(path: Path) -> tuple[int, int]:
    """How much safeloader has done about faults so far, and how many attempts have failed at the batch that is due."""
    acts = [event for event in _events(path) if event.get("event") in _ACTS]
    failed = 0
    for event in acts:
        failed = {"fault": event.get("attempts") or 1, "resume": 0}.get(event["event"], failed)
    return len(acts), failed


def findings(path: Path) -> list[Finding]:
    """The samples that cost processes, or raised, each once, the last last."""
    found: dict[str, Finding] = {}
    for event in _events(path):
        if event.get("event") == "fault" and event.get("sample") is not None:
            key = json.dumps(event["sample"])
            found.pop(key, None)
            place = stack_place(event.get("stack"))
            cost = event.get("attempts") or 1
            found[key] = Finding(event["cause"], event["sample"], event["epoch"], event["batch"], cost, place)
    return list(found.values())


# ---------------------------------------------------------------- in words


def how_it_died(code: int | None, folder: Path) -> str:
    """Exit status or signal, and the last line of stderr."""
    how = f"exit status {code}"
    if code is not None and code < 0:
        try:
            how = signal.Signals(-code).name
        except ValueError:
            how = f"signal {-code}"
    text = (folder / "stderr").read_text(errors="replace")
    if _GUARD in text:
        return f"{how}: without a main guard the workers run the script again, and fail"
    lines = [line for line in text.splitlines() if line.strip()]
    error = next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit)\b", line)), "")
    return f"{how}: {inline(error or lines[-1], 160)}" if lines else how


def where_it_stood(stacks: Stacks) -> str:
    """Where the script stood, and where a worker that was in the script's own code."""
    place, own = stack_place(stacks.main), own_place(stacks.main)
    if not place:
        return "gave no stack: stopped, or inside the kernel"
    told = f"stood at {place}" + (f", called from {own}" if own and not place.endswith(own) else "")
    theirs = dict.fromkeys(filter(None, map(own_place, stacks.workers)))
    theirs.pop(own, None)  # what a forked worker has inherited
    if theirs:
        told += f"; a worker stood at {next(iter(theirs))}"
    return told


def own_place(stack: str) -> str:
    """The innermost line of the main thread that is the script's own: of no library."""
    for line in stack_lines(stack, most=1000):
        row = _ROW.search(line)
        if row and not row[1].startswith(_LIBRARIES) and "site-packages" not in row[1]:
            return f"{os.path.basename(row[1])}:{row[2]} in {row[3]}"
    return ""
