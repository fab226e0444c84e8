"""The progress page: a process writes what it works on, the trainer reads it when a deadline is due, or after a death.

Aligned eight-byte stores, no lock, no message. Times are ``time.monotonic()`` seconds of the trainer's host, one clock
for all processes: a process on another host adds what its own clock lacks, which stands on its page.
"""

from __future__ import annotations

from time import monotonic

__all__ = ["IDLE", "Heartbeat", "HeartbeatReading"]

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from safeloader.runtime.memory.mapping import Mapping

_WORK, _SAMPLE, _TAKEN, _PROGRESSED, _LEFT, _AWAITED, _REFUSED, _CANCELLED, _REPLAYED, _OF, _SHIFT, _STATE = range(12)
_SAYS = struct.Struct("<qqddqqq")  # of a process: what it works on
_ASKS = struct.Struct("<qqq")  # of the trainer
IDLE = 0
NO_SAMPLE = -1


class HeartbeatReading(NamedTuple):
    """What the page says: a task, or a worker that is being set up; the position of the sample in work, if known;
    and of the batches that are loaded again to come to a worker's place, how many are done."""

    task: int | None
    setup: int | None
    sample: int | None
    taken_at: float
    progressed_at: float
    replayed: int = 0
    of: int = 0


class Heartbeat:
    """One process's page, seen from either side."""

    __slots__ = ("_ints", "_mapping", "_times")

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        view = mapping.view()
        self._ints = view.cast("q")
        self._times = view.cast("d")

    def take_task(self, task: int) -> float:
        """This task is being worked on from now."""
        return self._take(task + 1)

    def take_setup(self, worker: int) -> float:
        return self._take(-1 - worker)

    def now(self) -> float:
        """The time, by the trainer's clock."""
        return monotonic() + self._times[_SHIFT]

    def _take(self, work: int) -> float:
        now = self.now()
        self._times[_TAKEN] = self._times[_PROGRESSED] = now
        self._ints[_SAMPLE] = NO_SAMPLE
        self._ints[_WORK] = work
        return now

    def sample(self, position: int) -> None:
        """The samples before this position are finished; this one is in work."""
        self._times[_PROGRESSED] = monotonic() + self._times[_SHIFT]
        self._ints[_SAMPLE] = position

    def collate(self) -> None:
        """All samples are finished."""
        self._times[_PROGRESSED] = self.now()
        self._ints[_SAMPLE] = NO_SAMPLE

    def replayed(self, done: int, of: int) -> None:
        """So many of the batches that are loaded again are done."""
        self._ints[_REPLAYED], self._ints[_OF] = done, of

    def rest(self) -> float:
        """Nothing is being worked on."""
        now = self.now()
        self._ints[_WORK] = IDLE
        self._times[_PROGRESSED] = now
        return now

    def refuse(self) -> None:
        """What it says was never done: the process is of no use to the loader."""
        self._ints[_REFUSED] = 1

    @property
    def in_work(self) -> bool:
        """True while something is being worked on."""
        return self._ints[_WORK] != IDLE and not self._ints[_REFUSED]

    # The trainer's only words on it: what need not be begun, and who waits.

    def leave(self) -> None:
        """The loader wants nothing of this process any more."""
        self._ints[_LEFT] = 1

    def cancel_before(self, before: int) -> None:
        """The loader wants no task with a number below this any more."""
        self._ints[_CANCELLED] = before

    def is_cancelled(self, task: int) -> bool:
        return task < self._ints[_CANCELLED]

    @property
    def left(self) -> bool:
        return bool(self._ints[_LEFT])

    def wait(self, waits: bool) -> None:
        """The loader's consumer waits for a batch at this moment, or does not."""
        self._ints[_AWAITED] = waits

    @property
    def awaited(self) -> bool:
        return bool(self._ints[_AWAITED])

    # Of a process on another host, the page is copied: what it says here, what it is asked there.

    def says(self) -> bytes:
        """The process's words."""
        ints, times = self._ints, self._times
        taken, progressed, work = times[_TAKEN], times[_PROGRESSED], ints[_WORK]
        return _SAYS.pack(work, ints[_SAMPLE], taken, progressed, ints[_REFUSED], ints[_REPLAYED], ints[_OF])

    def copy_says(self, words: bytes, state: str) -> None:
        """They, and the kernel's letter for the process, from its host."""
        ints, times = self._ints, self._times
        work, ints[_SAMPLE], times[_TAKEN], times[_PROGRESSED], *rest = _SAYS.unpack(words)
        ints[_REFUSED], ints[_REPLAYED], ints[_OF] = rest
        ints[_WORK], ints[_STATE] = work, ord(state)

    def asks(self) -> bytes:
        """The trainer's words."""
        return _ASKS.pack(self._ints[_LEFT], self._ints[_AWAITED], self._ints[_CANCELLED])

    def copy_asks(self, words: bytes, shift: float) -> None:
        """They, for the process's page on its host, and what its clock lacks."""
        self._ints[_LEFT], self._ints[_AWAITED], self._ints[_CANCELLED] = _ASKS.unpack(words)
        self._times[_SHIFT] = shift

    @property
    def state(self) -> str:
        """The kernel's letter for a process on another host; "" for one of this host."""
        return chr(self._ints[_STATE]) if self._ints[_STATE] else ""

    def disown(self) -> None:
        """Whatever was in work, it has nothing to do with the process's end."""
        self._ints[_WORK] = IDLE

    def excuse(self) -> None:
        """Nobody knows what the process does: the time of what is in work counts from now on."""
        self._times[_PROGRESSED] = monotonic()

    @property
    def progressed_at(self) -> float:
        """When something was finished last."""
        return self._times[_PROGRESSED]

    def read(self) -> HeartbeatReading:
        work, sample = self._ints[_WORK], self._ints[_SAMPLE]
        return HeartbeatReading(
            work - 1 if work > 0 else None,
            -1 - work if work < 0 else None,
            sample if sample >= 0 else None,
            self._times[_TAKEN],
            self._times[_PROGRESSED],
            self._ints[_REPLAYED],
            self._ints[_OF],
        )
