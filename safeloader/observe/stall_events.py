"""Standing still, as plain facts: no batch comes, or none is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from safeloader.observe.happening import Happening

__all__ = ["RanksStalled", "StallEnded", "Stalled"]


@dataclass(frozen=True, slots=True)
class Stalled(Happening):
    """Nothing has moved for `seconds`, and who holds the run.

    Attributes:
        holder: ``"loader"``: a batch is awaited; ``"sampler"``: its indices are; ``"program"``: nobody asks for one.
        seconds: Since when.
        busy: An epoch is under way.
        ready: Batches that are loaded and wait.
        epoch: Epoch of the batch that is due, from 0, or None.
        batch: Its number, from 0, or None.
        worker: Its worker, or None.
        process: Pid of the process that has it, or None.
        sample: The index in work there, or None.
        doing: Who has the batch, in words; "" if that is not known.
        working: Seconds that this has been in work.
        place: The consumer's place in the program: ``"train.py:88 in step"``.
        stack: The consumer's Python stack.
    """

    event: ClassVar[str] = "stall"

    holder: str
    seconds: float
    busy: bool
    ready: int = 0
    epoch: int | None = None
    batch: int | None = None
    worker: int | None = None
    process: int | None = None
    sample: Any = None
    doing: str = ""
    working: float = 0.0
    place: str = ""
    stack: str | None = None


@dataclass(frozen=True, slots=True)
class RanksStalled(Happening):
    """What the ranks say of themselves while rank 0 makes no step.

    Attributes:
        said: One sentence.
        ranks: Those that hold up the others; none where that cannot be told.
        why: What they do: ``"silent"``, ``"absent"``, ``"waits"``, ``"left"`` or ``"stands"``, of the first; or "".
    """

    event: ClassVar[str] = "ranks_stalled"

    said: str
    ranks: list[int]
    why: str = ""


@dataclass(frozen=True, slots=True)
class StallEnded(Happening):
    """Something moves again, `seconds` after it stopped."""

    event: ClassVar[str] = "stall_ended"

    seconds: float
