"""Asks the sampler for indices, at the moments at which torch's loader asks it, whatever interrupts it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from safeloader.core import messages as m
from safeloader.runtime.trainer.indices import own_copy

if TYPE_CHECKING:
    from safeloader.runtime.trainer.journal import Journal, Key
    from safeloader.runtime.trainer.shield import Shield

__all__ = ["Draws", "Planner"]


class Draws(Protocol):
    """The sampler of an epoch."""

    def draw(self, drawn: list[Any]) -> None:
        """Add the next indices to the list, if there are any."""

    def mend_draws(self, count: int) -> None:
        """An exception came while it was asked: be where it was after so many draws."""


class Planner:
    """Plans tasks for one driver.

    Attributes:
        asking: the sampler is asked now.
        draws: the sampler, while it can be asked; beyond that, nothing here keeps the iterator alive.
    """

    def __init__(self, journal: Journal, shield: Shield) -> None:
        self.asking = False
        self.draws: Draws | None = None
        self._journal = journal
        self._shield = shield
        self._broken = False  # an exception came while the sampler was asked
        self._counted: tuple[Key, int] = (0, -1), 0  # draws in this epoch, the last of them included
        self._error: Exception | None = None
        self.owes: deque[Key] = deque()  # draws that fell due while another loader of the pool looked after this one
        self._drawn: tuple[Key, list[Any]] = (0, -1), []

    def new_epoch(self, drawn: int) -> None:
        """Begin with a sampler that was asked so often already."""
        self._error = None
        self._broken, self._counted = False, (self._counted[0], drawn)
        self.owes.clear()

    def make_up(self, draws: Draws) -> None:
        """Make the draws that are owed: the sampler can be asked from now on, until ``draws`` is None again."""
        self.draws = draws
        try:
            while self.owes:
                self.plan(m.PlanTask(), self.owes[0], True)
                self.owes.popleft()
        except BaseException:
            self.draws = None
            raise

    def plan(self, c: m.PlanTask, key: Key, again: bool) -> None:
        if self.draws is None:
            if not self.owes or self.owes[-1] != key:
                self.owes.append(key)
            return
        self._journal.later(key, self._planned(key), again)

    def end_epoch(self) -> None:
        """All batches that were planned have been delivered.

        Raises:
            Exception: what the sampler raised in the end.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _planned(self, key: Key) -> m.Event:
        if self._drawn[0] != key:
            self._drawn = key, []
        drawn = self._drawn[1]
        if self._error is not None or self.draws is None:
            return m.PlanEnded()
        if not drawn:
            self.asking = True
            try:
                self._draw(self.draws, key, drawn)
            finally:
                self.asking = False
        if drawn and self._counted[0] != key:
            self._counted = key, self._counted[1] + 1
        return m.TaskPlanned(own_copy(drawn[0])) if drawn else m.PlanEnded()

    def _draw(self, draws: Draws, key: Key, drawn: list[Any]) -> None:
        """Ask the sampler. What it raises is raised when the batches planned before have been delivered.

        An exception from outside, say a signal's, ends a sampler that is a generator: then another is brought to its
        place. It is from outside if the sampler does not raise the like there.
        """
        shield = self._shield
        try:
            if self._broken:
                shield.run(("mend", *key), lambda: draws.mend_draws(self._counted[1]))
                self._broken = False
            draws.draw(drawn)
        except Exception as error:
            self._broken = True
            try:
                shield.do(lambda: self._draw_again(draws, drawn))
            except Exception as second:
                shield.genuine(second)
                self._error = error
            else:
                self._broken = False
                raise
        except BaseException:
            self._broken = True
            raise

    def _draw_again(self, draws: Draws, drawn: list[Any]) -> None:
        if not drawn:
            draws.mend_draws(self._counted[1])
            draws.draw(drawn)
