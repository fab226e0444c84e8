"""Finding the sample that kills: halve the suspected positions until one is left.

Used only where the progress page cannot tell which sample was in work (``__getitems__``, a collate function): a probe
loads some positions of the batch in a process that may die of it, and the result is thrown away.
"""

from __future__ import annotations

__all__ = ["Bisection"]


class Bisection:
    """A bisection over positions of one batch.

    ``verdict`` is None while it goes on; then the positions that hurt together (one, if it can be told), or an empty
    tuple if every part loaded without harm.
    """

    __slots__ = ("_first_half_survived", "_narrowed", "suspects", "verdict")

    def __init__(self, suspects: tuple[int, ...]) -> None:
        self.suspects = suspects
        self.verdict: tuple[int, ...] | None = suspects if len(suspects) == 1 else None
        self._first_half_survived = False
        self._narrowed = False

    def probe(self) -> tuple[int, ...]:
        """The positions to load next."""
        middle = len(self.suspects) // 2
        return self.suspects[middle:] if self._first_half_survived else self.suspects[:middle]

    def died(self) -> None:
        """The last probe killed or hung its process: the culprit is in it."""
        self.suspects = self.probe()
        self._first_half_survived = False
        self._narrowed = True
        if len(self.suspects) == 1:
            self.verdict = self.suspects

    def survived(self) -> None:
        """The last probe did no harm."""
        if not self._first_half_survived:
            self._first_half_survived = True
        else:
            self.verdict = self.suspects if self._narrowed else ()
