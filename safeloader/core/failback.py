"""When processes that fell back to the trainer's host go to other hosts again.

A process that was asked to be on another host, and found no room there, works on this one. After ``recover_after`` good
batches another is started for it, the *failback*, which is of use on another host only: where there is still no room
it ends by itself, and the next one comes after twice as many batches. Once it is ready there, one that fell back
retires, and its workers move as they do between rungs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from safeloader.core.books import Books
    from safeloader.core.records import ProcessRecord

__all__ = ["Failback"]

_LONGEST = 8  # times ``recover_after``


class Failback:
    """Counts good batches until the next attempt."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._good = 0
        self._factor = 1

    def is_due(self, staff: Iterable[ProcessRecord]) -> bool:
        """Count a delivered batch. True if a failback is to be started; there is one at a time."""
        if not any(p.fell_back for p in staff) or any(p.failback for p in self._books.processes.values()):
            return False
        self._good += 1
        if self._good < self._books.settings.recover_after * self._factor:
            return False
        self._good = 0
        return True

    def begin(self) -> None:
        """The rung is another: the count begins anew."""
        self._good = 0

    def failed(self) -> None:
        """There is still no room, or the process did not start there."""
        self._factor = min(2 * self._factor, _LONGEST)

    def succeeded(self) -> None:
        """There is room: whoever else fell back need not wait."""
        self._factor, self._good = 1, self._books.settings.recover_after
