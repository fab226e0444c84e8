"""How the generators stood before a draw from the sampler, should an exception from outside break it off.

The sampler's own are copied each time: some microseconds. The program's three are copied only if the sampler draws from
them, which its first draw shows. Not torch's samplers: they seed a generator of their own from one number.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from safeloader.resume.checkpoint import Moment
from safeloader.resume.sampler_state import generators_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.runtime.child.generators import States

__all__ = ["BeforeDraw"]


class BeforeDraw:
    """One epoch's.

    Args:
        loader: its loader.
        program: how the program's three stand.
    """

    def __init__(self, loader: Any, program: Callable[[], States]) -> None:
        self._own = generators_of(loader)
        self._program = program
        self._first: States | None = None
        self._draws = 0
        self._takes = True
        self._noted: tuple[States | None, dict[str, Any]] | None = None
        self.is_needed = True  # else each draw would note what the last one has

    def note(self) -> None:
        """A draw begins."""
        self._noted = None
        program = self._program() if self._takes else None
        if self._draws == 2 and self._takes:  # the first draw may only have seeded something
            self._takes = pickle.dumps(program) != pickle.dumps(self._first)
        self._first = program if self._draws == 1 else self._first
        self._draws += 1
        own = {place: generator.get_state() for place, generator in self._own.items()} if self._own else {}
        self._noted = program, own
        self.is_needed = self._takes or bool(self._own) or program is not None

    def moment(self, now: Moment, drawn: Moment) -> Moment:
        """How the generators are to stand for the draw to be made again.

        Args:
            now: as they stand, after the draw was broken off.
            drawn: as they stand where another sampler was drawn from as often before.
        """
        if self._noted is None:  # it was not asked yet
            return now
        program, own = self._noted
        return Moment(now.program if program is None else program, own, drawn.held)
