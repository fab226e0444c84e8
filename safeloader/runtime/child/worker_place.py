"""Where a worker stood, as its next process is told, and what is said when it does not come back there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.runtime.child.generators import States

__all__ = ["Diverged", "WorkerPlace"]


class WorkerPlace(NamedTuple):
    """Where a worker stood when it was hosted last."""

    worker: int
    epoch: int
    position: int
    ended: bool
    epoch_snapshot: States | None
    snapshot: States | None
    shared_seed: int | None
    told_epoch: int | None = None  # what the dataset's set_epoch was told last
    mark: tuple[int, Any, States | None] | None = None  # position, what the dataset said, the generators then
    replay: Sequence[tuple[Any, tuple[int, ...]]] = ()
    digests: bytes = b""  # of the last of the batches that are loaded again
    redo: Sequence[tuple[Any, ...]] | None = None  # what was done since: see ``Worker.redo``
    as_new: tuple[int | None, int, int | None, States | None, bool] | None = None
    """Since when: the arguments of ``Worker.resume``, the generators then, and whether that epoch was over. None: it is
    here, from a shadow."""

    @property
    def to_begin_with(self) -> WorkerPlace:
        """Where it is set up, if something is done again after that."""
        if self.as_new is None:
            return self
        shared_seed, epoch, told_epoch, states, ended = self.as_new
        before = None if ended else states
        return self._replace(
            shared_seed=shared_seed, epoch=epoch, told_epoch=told_epoch, epoch_snapshot=before, position=0, ended=ended
        )


class Diverged(Exception):
    """What a worker loaded again is not what it loaded before.

    Args:
        how: ``differs``, ``ended`` (there was nothing left), ``raised`` (an error came, or came no more), or
            ``refused`` (the dataset did not take its own state).
        at: the batch of this worker, from 0.
        detail: words for people.
    """

    def __init__(self, how: str, at: int, detail: str = "") -> None:
        super().__init__(how, at, detail)
        self.how, self.at, self.detail = how, at, detail
