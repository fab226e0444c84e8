"""Which way is in use: one rung down when it can go on no longer, one up after enough good batches."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from safeloader.ffcv.backends import Arrived, Backend, FellOver, Step, TrainerWay

if TYPE_CHECKING:
    from safeloader.config import Settings
    from safeloader.ffcv.recipe import EnginePlace, Recipe
    from safeloader.observe import Recorder

__all__ = ["Ladder"]


class Ladder:
    """The ways of one loader. The next one begins at the batch that is due.

    Args:
        steps: Its rungs, from the top.
        recipe: What to run.
        settings: Deadlines, and after how many good batches to go up.
        recorder: Where falls, recoveries and changes of size are told.

    Attributes:
        recipe: What it runs.
        way: The way in use; None until something is asked of it.
    """

    def __init__(self, steps: tuple[Step, ...], recipe: Recipe, settings: Settings, recorder: Recorder) -> None:
        self.steps = steps
        self.way: Backend | None = None
        self.recipe, self._settings, self._recorder = recipe, settings, recorder
        self._rung = self._good = 0
        self._size: int | None = None
        recorder.way, recorder.rung = str(steps[0]), steps[0].workers

    def use(self, recipe: Recipe, steps: tuple[Step, ...]) -> None:
        """From the next epoch on, another recipe."""
        self.close()
        self.recipe = recipe
        if steps != self.steps:
            self.steps, self._rung, self._good = steps, 0, 0
            self._recorder.way, self._recorder.rung = str(steps[0]), steps[0].workers

    def begin(self, place: EnginePlace) -> None:
        """Begin an epoch, or the rest of one; a rung higher if the present one was good for long enough."""
        if self._rung and self._good >= self._settings.recover_after:
            self._climb()
        try:
            self._begin(place)
        except FellOver as fell:
            self._fall(fell)

    def next(self, place: EnginePlace) -> Arrived:
        """The batch of this place, which is the one that is due.

        Raises:
            StopIteration: There is none.
            Exception: What making it raised; or the last way's own error, when no other is left.
        """
        while True:
            try:
                if self.way is None:
                    self._begin(place)
                assert self.way is not None
                arrived = self.way.next()
            except FellOver as fell:
                self._fall(fell)
                continue
            self._good += 1
            return arrived

    def stop(self) -> None:
        """Nobody wants the rest of the epoch."""
        if self.way is not None:
            self.way.stop()

    def close(self) -> None:
        """End the way in use."""
        if self.way is not None:
            self.way.close()
            self.way = None

    def _begin(self, place: EnginePlace) -> None:
        started = monotonic()
        if self.way is None:
            self.way = self._make(self.steps[self._rung])
        self.way.begin(place)
        if place.size is not None:
            if self._size not in (None, place.size):
                self._recorder.resized(place.epoch, self._size or 0, place.size, monotonic() - started)
            self._size = place.size

    def _make(self, step: Step) -> Backend:
        recipe = replace(self.recipe, num_workers=step.workers)
        if step.kind == "trainer":
            return TrainerWay(recipe, self._settings, self._recorder)
        if step.kind == "process":
            from safeloader.ffcv.process_backend import HostedWay

            return HostedWay(recipe, self._settings, self._recorder)
        if step.kind == "bare":
            from safeloader.ffcv.bare import BareWay

            return BareWay(recipe, self._settings, self._recorder)
        from safeloader.ffcv.torch_backend import PlainWay

        return PlainWay(recipe, self._settings, self._recorder)

    def _fall(self, fell: FellOver) -> None:
        """Go down one rung, or raise."""
        self.close()
        if self._rung + 1 >= len(self.steps):
            raise fell.error
        old, new = self._move(+1)
        self._recorder.fell_back(old.workers, new.workers, fell.why, str(new))

    def _climb(self) -> None:
        self.close()
        old, new = self._move(-1)
        self._recorder.recovered(old.workers, new.workers, f"{self._settings.recover_after} good batches", str(new))

    def _move(self, by: int) -> tuple[Step, Step]:
        old = self.steps[self._rung]
        self._rung, self._good = self._rung + by, 0
        return old, self.steps[self._rung]
