"""What follows from what was found in a step: an error, a step that is skipped, a warning; on all ranks the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from safeloader import codes
from safeloader.training import collectives, deferred
from safeloader.training.trouble import HINTS, Trouble, error_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.training.watched import Watched

__all__ = ["Verdicts"]


class Verdicts:
    """The half of a `FiniteGuard` that decides.

    Args:
        action: See there.
        most_skips: See there.
        seen: What it looks at.
    """

    def __init__(self, action: Literal["raise", "skip_step", "warn"], most_skips: int, seen: Watched) -> None:
        if action not in ("raise", "skip_step", "warn"):
            raise ValueError(f'action={action!r}: it is "raise", "skip_step" or "warn"')
        if most_skips < 1:
            raise ValueError("most_skips is at least 1")
        self.action = action
        self.most_skips = most_skips
        self.troubles: list[Trouble] = []
        self.steps = self.skipped = self._told = 0
        self._in_a_row = 0  # steps that were skipped, or left out by a GradScaler, since the last good one
        self._left_to_scaler = False  # the last step's gradients were not finite, and a GradScaler may leave it out
        self._seen = seen

    def _conclude(self, troubles: list[Trouble], step: int, late: bool = False) -> bool:
        if self.action == "warn":
            self._keep(troubles)
            self._warn(troubles, step)
            return True
        if collectives.any_rank(bool(troubles)):
            return self._refuse(troubles, step, late)
        self._in_a_row = 0 if not self._left_to_scaler else self._in_a_row
        return True

    def _refuse(self, troubles: list[Trouble], step: int, late: bool = False) -> bool:
        """Some rank found something: all of them are here."""
        self._keep(troubles)
        told = collectives.everyones([(trouble.kind, trouble.text) for trouble in troubles])
        elsewhere = [
            f"rank {number}: {text}"
            for number, items in enumerate(told)
            if number != collectives.rank()
            for _, text in items
        ]
        hopeless = any(kind == "weights" for items in told for kind, _ in items)
        self._in_a_row += 1
        too_many = self._in_a_row > self.most_skips
        if self.action == "raise" or hopeless or too_many:
            error = error_of(troubles, step, elsewhere)
            if late:
                error.hint = deferred.HINT
            if too_many and not hopeless and self.action != "raise":
                error.hint = f"{self._in_a_row} steps in a row would be skipped: {HINTS['skips']}"
            raise error
        self.skipped += 1
        self._seen.drop_gradients()
        self._warn(troubles, step, elsewhere, "; the step is skipped")
        return False

    def _keep(self, troubles: list[Trouble]) -> None:
        self.troubles += troubles
        del self.troubles[:-1000]

    def _warn(self, troubles: list[Trouble], step: int, elsewhere: Sequence[str] = (), done: str = "") -> None:
        """Ten times in full, then only at powers of two: a run of a million steps has one log."""
        texts = [*(trouble.text for trouble in troubles[:1]), *elsewhere[:1]]
        if not texts:
            return
        self._told += 1
        if self._told <= 10 or self._told & (self._told - 1) == 0:
            codes.log_warning("SL140", "step %d: %s%s (%d so far)", step, "; ".join(texts), done, self._told)
