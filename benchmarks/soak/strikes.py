"""What is done to trainers from outside: kills, stops, orders to hang or to exit, lack of memory, suspensions."""

from __future__ import annotations

import collections
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import random

MEMORY = Path("/sys/fs/cgroup/memory")
SUSPENDED = 8.0
"""Seconds for which a whole trainer is stopped: longer than the loaders' deadline."""


class Striker:
    """Draws faults and brings them about.

    Args:
        folder: Where orders are left for samples.
        dice: The source of chance.
    """

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self.folder = folder
        self.dice = dice
        self.struck: collections.Counter[str] = collections.Counter()
        self._squeeze = _group()

    def strike(self, trainers: list[int]) -> None:
        """One fault on one of these trainers, or on what they have started."""
        deeds = {"SIGKILL": 6, "SIGSTOP": 2, "hang": 2, "exit": 3, "suspended": 1, "memory": 1 if self._squeeze else 0}
        deed = self.dice.choices(list(deeds), list(deeds.values()))[0]
        if deed in ("hang", "exit"):
            (self.folder / deed).touch()
        elif deed == "suspended":
            self._suspend(self.dice.choice(trainers))
        elif not self._hit(deed, trainers):
            return
        self.struck[deed] += 1

    def _hit(self, deed: str, trainers: list[int]) -> bool:
        """Whether there was somebody to hit."""
        victims = [victim for trainer in trainers for victim in _family(trainer)]
        if not victims:
            return False
        victim = self.dice.choice(victims)
        try:
            if deed == "memory":
                self._starve(victim)
            else:
                victim.send_signal(getattr(signal, deed))
        except (psutil.NoSuchProcess, ProcessLookupError):
            return False
        return True

    def _starve(self, victim: psutil.Process) -> None:
        """Let the kernel find that this process has too much memory."""
        assert self._squeeze is not None
        try:
            (self._squeeze / "cgroup.procs").write_text(str(victim.pid))
            (self._squeeze / "memory.limit_in_bytes").write_text("1M")
        except OSError:  # it is gone, or its memory cannot be taken away
            victim.kill()

    @staticmethod
    def _suspend(trainer: int) -> None:
        """Stop a trainer with all that it has started, as a suspended job is, and let it go on."""
        stopped = [psutil.Process(trainer), *_family(trainer)]
        for process in stopped:
            _signal(process, signal.SIGSTOP)
        time.sleep(SUSPENDED)
        for process in reversed(stopped):
            _signal(process, signal.SIGCONT)

    def close(self) -> None:
        """Take back what was ordered and nobody did."""
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)
        if self._squeeze is not None:
            try:
                self._squeeze.rmdir()
            except OSError:
                pass


def _family(trainer: int) -> list[psutil.Process]:
    """What a trainer has started, shadows and servers included; a forked look at a batch is left alone."""
    try:
        every = psutil.Process(trainer).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    found = []
    for process in every:
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "benchmarks.soak.trainer" not in line and "resource_tracker" not in line:
            found.append(process)
    return found


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def _group() -> Path | None:
    """A memory group of our own (cgroup v1, as root), or None where there is no such thing."""
    group = MEMORY / f"soak-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").read_text()
    except OSError:
        return None
    return group
