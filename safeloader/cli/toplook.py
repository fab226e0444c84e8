"""What ``safeloader top`` knows: the answers of all programs, and how fast they were since the last look."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from safeloader.cli.tables import needs
from safeloader.observe.format import many
from safeloader.observe.status import VERSION as STATUS_VERSION
from safeloader.observe.status_socket import GoneError, NoAnswerError, ask, listening

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ORDERS", "Look", "Looker", "in_order", "waiting_for"]

VERSION = 1  # of what `--once --json` writes

_FRESH = 2.0
"""Seconds until what a program has read of the other ranks is old, and for which a new reading is waited for."""
_TRIES = 10
_WAITS = 1.0
"""Seconds from which on a loader that waits for its batch holds up its program: every program waits for moments."""


@dataclass
class Look:
    """All programs at one moment.

    Attributes:
        programs: the answers, with ``rate``, ``wait_share`` and each process's ``memory`` and ``os_state`` added.
        problems: a sentence for each program that gave none.
        others: programs of other users, which are not asked.
    """

    programs: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    others: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"v": VERSION, "programs": self.programs, "problems": self.problems, "other_users": self.others}

    @property
    def summary(self) -> str:
        """One line: ``2 of 5 programs wait for data, 1 does not answer, 3 faults so far``."""
        if not self.programs and not self.problems:
            return "no program of yours uses a safeloader DataLoader (one is seen from its first epoch on)"
        waiting = sum(waiting_for(program) >= _WAITS for program in self.programs)
        told = [f"{waiting} of {many(len(self.programs), 'program')} {'waits' if waiting == 1 else 'wait'} for data"]
        if self.problems:
            told.append(f"{len(self.problems):,} {'does' if len(self.problems) == 1 else 'do'} not answer")
        faults = sum(loader["faults"] for program in self.programs for loader in program["loaders"])
        if faults:
            told.append(f"{many(faults, 'fault')} so far")
        if self.others:
            told.append(f"{many(self.others, 'program')} of other users not shown")
        return ", ".join(told)


def waiting_for(program: dict[str, Any]) -> float:
    """Seconds for which a program has waited for a batch, now; 0 if it does not wait."""
    return max((loader["since"] for loader in program["loaders"] if loader["waiting"]), default=0.0)


def _memory(program: dict[str, Any]) -> int:
    processes = [program, *(post for loader in program["loaders"] for post in loader["crew"])]
    return sum(one.get("memory") or 0 for one in processes)


ORDERS: dict[str, Callable[[dict[str, Any]], float]] = {
    "waiting": lambda program: -waiting_for(program),
    "rate": lambda program: min((loader["rate"] for loader in program["loaders"] if loader["busy"]), default=0.0),
    "faults": lambda program: -sum(loader["faults"] for loader in program["loaders"]),
    "memory": lambda program: -_memory(program),
    "pid": lambda program: program["pid"],
}
"""By what programs can be sorted: the first shows those first that wait, the longest first."""


def in_order(programs: list[dict[str, Any]], order: str) -> list[dict[str, Any]]:
    """Programs sorted; those that are equal by their pids."""
    return sorted(programs, key=lambda program: (ORDERS[order](program), program["pid"]))


class Looker:
    """Asks all programs again and again, and knows how fast they were in between.

    Args:
        pid: ask this one only.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._pid = pid
        self._before: dict[tuple[int, str, int], tuple[float, int, float]] = {}

    def look(self) -> Look:
        """Ask everybody.

        Raises:
            OSError: this system does not tell who could be asked.
        """
        seen = Look()
        if self._pid is None:
            pids, seen.others = listening()
        else:
            pids = [self._pid]
        for pid in pids:
            try:
                seen.programs.append(self._program(pid))
            except GoneError as why:
                if self._pid is not None:  # else it has ended since it was listed, or never was
                    seen.problems.append(f"{why}{_state_in_words(pid)}")
            except NoAnswerError as why:
                seen.problems.append(f"{why}{_state_in_words(pid)}")
        seen.programs = in_order(seen.programs, "waiting")
        return seen

    def _program(self, pid: int) -> dict[str, Any]:
        """What a program tells, with what is seen from outside.

        Raises:
            NoAnswerError: it does not answer, or not as this version does.
        """
        program = _told_by(pid)
        if program.get("v") != STATUS_VERSION:
            raise NoAnswerError(f"process {pid} answers as another version of safeloader does: look with its own")
        try:
            for number, loader in enumerate(program["loaders"]):
                self._add_rates(program["pid"], number, loader)
                for post in loader["crew"]:
                    post.update(_facts(post["process"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise NoAnswerError(f"the answer of process {pid} is not whole ({type(error).__name__}: {error})") from None
        return program | _facts(program["pid"])

    def _add_rates(self, pid: int, number: int, loader: dict[str, Any]) -> None:
        """Since the last look; at the first since the pass began."""
        now, key = monotonic(), (pid, loader["name"], number)
        before = self._before.get(key)
        self._before[key] = (now, loader["batches"], loader["waited"])
        seconds, batches, waited = loader["pass_seconds"], loader["batch"], loader["pass_waited"]
        if before is not None and now > before[0]:
            seconds, batches, waited = now - before[0], loader["batches"] - before[1], loader["waited"] - before[2]
        loader["rate"] = batches / seconds if seconds > 0 else 0.0
        loader["wait_share"] = min(max(waited / seconds, 0.0), 1.0) if seconds > 0 else 0.0


def _told_by(pid: int) -> dict[str, Any]:
    """What a program tells. Of all ranks it tells what it has read last, and reads anew: it is asked again for that.

    Raises:
        NoAnswerError: as `ask`.
    """
    program = ask(pid)
    for _ in range(_TRIES):
        ranks = program.get("ranks")
        if ranks is None or ranks["problem"] or (ranks["age"] is not None and ranks["age"] < _FRESH):
            break
        sleep(_FRESH / _TRIES)
        program = ask(pid)
    return program


def _facts(pid: int | None) -> dict[str, Any]:
    """Memory of a process in bytes (its own part of it, where the system tells), and the kernel's state of it."""
    if pid is None:
        return {"memory": None, "os_state": None}
    psutil = needs("psutil")
    try:
        process = psutil.Process(pid)
        try:
            memory = process.memory_full_info().uss
        except psutil.AccessDenied:
            memory = process.memory_info().rss
        return {"memory": int(memory), "os_state": str(process.status())}
    except (psutil.Error, OverflowError, ValueError):
        return {"memory": None, "os_state": "gone"}


def _state_in_words(pid: int) -> str:
    if _is_of_another_user(pid):
        return " (it is another user's: only that user may ask it)"
    state = _facts(pid)["os_state"]
    return {
        "stopped": " (it is stopped)",
        "disk-sleep": " (it stands in the kernel)",
        "gone": " (there is no such process)",
    }.get(str(state), "")


def _is_of_another_user(pid: int) -> bool:
    psutil = needs("psutil")
    try:
        return bool(psutil.Process(pid).uids().real != os.getuid())
    except (psutil.Error, OverflowError, ValueError):
        return False
