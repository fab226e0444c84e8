"""What is done to the workers, and when: a fixed plan, so that every run is shot at in the same places."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Strike:
    """One act of chaos.

    Attributes:
        epoch: Counted from 1.
        phase: "train" or "val"; its workers are hit.
        batch: After how many batches of the phase; 0 is before the phase begins.
        kind: "kill" (SIGKILL), "stop" (SIGSTOP) or "hang" (the next sample sleeps for ever).
        everyone: Whether all workers of the phase are hit, or one.
    """

    epoch: int
    phase: str
    batch: int
    kind: str
    everyone: bool = False

    def words(self) -> str:
        """What happens, for a reader."""
        whom = "both workers" if self.everyone else "a worker"
        what = {"kill": f"SIGKILL to {whom}", "stop": f"SIGSTOP to {whom}", "hang": "a sample hangs"}[self.kind]
        idle = " (idle, between epochs)" if self.batch == 0 else ""
        return what + idle


PLAN = (
    Strike(1, "train", 8, "kill"),
    Strike(1, "val", 3, "hang"),
    Strike(2, "train", 0, "kill"),
    Strike(2, "train", 10, "stop"),
    Strike(3, "train", 6, "kill", everyone=True),
    Strike(3, "val", 2, "kill"),
    Strike(4, "train", 4, "hang"),
    Strike(4, "val", 0, "stop"),
)


class Chaos:
    """Carries out a plan from within the training loop, between batches.

    Args:
        plan: What to do.
        notes: The folder of each phase in which its workers sign in.
        say: Called with a sentence on each strike.
    """

    def __init__(self, plan: tuple[Strike, ...], notes: dict[str, Path], say: Callable[[str], None]) -> None:
        self.plan = plan
        self.notes = notes
        self.say = say
        self.choice = random.Random(0)
        self.struck: list[dict[str, Any]] = []
        self._due: list[Strike] = []  # no worker of the phase had signed in yet: a new process is on its way

    def between_batches(self, epoch: int, phase: str, batch: int) -> None:
        """Strike if the plan has something for this place."""
        self._due += [s for s in self.plan if (s.epoch, s.phase, s.batch) == (epoch, phase, batch)]
        for strike in [s for s in self._due if s.phase == phase and (s.kind == "hang" or self._workers(phase))]:
            self._due.remove(strike)
            self._do(strike)

    def _do(self, strike: Strike) -> None:
        self.say(f"chaos: {strike.words()} (epoch {strike.epoch}, {strike.phase}, after batch {strike.batch})")
        self.struck.append({**asdict(strike), "words": strike.words(), "at": time.monotonic()})
        if strike.kind == "hang":
            (self.notes[strike.phase] / "hang").touch()
            return
        number = signal.SIGKILL if strike.kind == "kill" else signal.SIGSTOP
        workers = self._workers(strike.phase)
        for pid in workers if strike.everyone else [self.choice.choice(workers)]:
            os.kill(pid, number)

    def _workers(self, phase: str) -> list[int]:
        """The living workers of a phase, oldest first: children of this program that have signed in."""
        signed = {int(path.name.removeprefix("pid-")) for path in self.notes[phase].glob("pid-*")}
        alive = [
            child
            for child in psutil.Process().children(recursive=True)
            if child.pid in signed and child.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        ]
        return [child.pid for child in sorted(alive, key=lambda child: child.create_time())]
