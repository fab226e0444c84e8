"""How long a run may be silent: the user's cap, and all that follows from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safeloader.core.policy import Deadlines

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["START", "Budget", "note_timeouts", "timeouts_of"]

START = 60.0
"""Seconds that a script may need until its first batch, where the cap is shorter; and that a new process may need."""
_MARGIN = 5.0
"""Seconds for safeloader to end a process whose deadline has passed, and to write that down."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one run is given.

    Under safeloader a worker that hangs is found by its own deadline and tried again, each time with twice the time.
    The first deadline is such that the last attempt has the whole cap, and the run is watched for as long as the
    attempt under way may take: a sample that always hangs is named before the run is given up.

    Attributes:
        cap: seconds without progress that count as a hang.
        batch_timeout: safeloader's first deadline; None under torch.
    """

    cap: float
    batch_timeout: float | None = None

    @classmethod
    def under_safeloader(cls, cap: float, attempts: int) -> Budget:
        """As a loader has it that makes so many attempts after the first."""
        return cls(cap, cap / 2**attempts)

    def silence(self, batches: int, failed: int = 0) -> float:
        """Seconds that may pass without progress.

        Args:
            batches: how many the script has got.
            failed: attempts that have failed at the batch that is due.
        """
        allowed = self.cap
        if self.batch_timeout is not None:
            allowed = max(allowed, self.batch_timeout * 2.0 ** min(failed, 16)) + _MARGIN
        if failed:
            return allowed + START  # a new process begins
        return allowed if batches else max(allowed, START)


def note_timeouts(path: str, arguments: dict[str, Any]) -> None:
    """In the script: write down which deadlines a loader made with these arguments has."""
    from safeloader.config import resolve

    try:
        settings = resolve(arguments.get("policy"))
    except Exception:  # the loader says what is wrong with its policy, or with the environment
        return
    seconds = settings.batch_timeout
    if arguments.get("timeout") and settings.sources["batch_timeout"] != "argument":
        seconds = float(arguments["timeout"])
    with open(path, "a") as file:
        file.write(json.dumps(Deadlines.UNTAUGHT if seconds == "auto" else seconds) + "\n")


def timeouts_of(path: Path) -> float | None:
    """The longest deadline that was written down."""
    try:
        return max((float(line) for line in path.read_text().split()), default=None)
    except (OSError, ValueError):  # none yet; or half a line
        return None
