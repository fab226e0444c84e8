"""How a worker comes to its place: where it stood when the process that it lived in was lost.

What it loads again for that is compared with what was delivered, as far as there are digests of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safeloader.runtime.child import dataset_state
from safeloader.runtime.child.digest import SIZE
from safeloader.runtime.child.fetch import Ended, Fetcher
from safeloader.runtime.child.worker_place import Diverged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from safeloader.runtime.child.generators import Generators, States
    from safeloader.runtime.child.worker_place import WorkerPlace

__all__ = ["CatchesUp"]


class CatchesUp(Fetcher):
    """The base of a worker."""

    _generators: Generators
    failure: BaseException | None
    begin: States | None
    lost: list[str]
    diverged: Diverged | None
    compared: int

    def capture(self) -> States:
        """The generators now."""
        raise NotImplementedError

    def go_back(self, states: States | None) -> None:
        """Have the generators as they were after an earlier task."""
        raise NotImplementedError

    def resume(self, shared_seed: int | None, epoch: int = 0, told_epoch: int | None = None) -> None:
        """Begin a new epoch."""
        raise NotImplementedError

    def _restore(self, states: States) -> None:
        raise NotImplementedError

    def _take_place(self, place: WorkerPlace) -> None:
        if self._spec.iterable and place.epoch_snapshot is not None:
            self._restore(place.epoch_snapshot)
        made = iter if self._spec.iterable else _none
        position, said, states = place.mark or (0, {}, None)
        try:
            self._iterator = dataset_state.load(said, self._dataset, made)
        except Exception as error:
            if not said:
                raise
            raise Diverged("refused", position, f"{type(error).__name__}: {error}") from error
        if states is not None:
            self._restore(states)
        again: Sequence[tuple[Any, ...]] = place.replay
        if self._spec.iterable:
            again = [()] * (place.position - position)
        self._load_again(again, position, place.digests)
        if self._spec.iterable and "dataset" in said and "iterator" not in said and not again:
            self._try_first(position, place.snapshot)
        if self._spec.iterable:
            self._ended = self._ended or place.ended or "ended" in said

    def _try_first(self, position: int, before: States | None) -> None:
        """Some datasets take a state only when the first sample is asked for: see whether this one does.

        The sample is given when it is asked for, and the generators are then what drawing it made of them.
        """
        if before is not None:
            self._restore(before)
        iterator: Any = self._iterator
        try:
            first = [next(iterator)]
        except StopIteration:
            first = []
        except Exception as error:
            raise Diverged("refused", position, f"{type(error).__name__}: {error}") from error
        after, put = self.capture(), self._restore

        def held_back() -> Iterator[Any]:
            put(after)
            yield from first
            yield from iterator

        self._iterator = held_back()
        if before is not None:
            self._restore(before)

    def _load_again(self, tasks: Sequence[tuple[Any, ...]], position: int, digests: bytes) -> None:
        """Load what was delivered long ago, for what that does to dataset, iterator and generators; compare it."""
        known = len(tasks) - len(digests) // SIZE  # so many of the first have no digest
        for number, task in enumerate(tasks):
            self._marks.replayed(number, len(tasks))
            try:
                self._fetch(*task)
            except Ended:
                if digests:
                    raise Diverged("ended", position + number) from None
                break
            except Exception as error:  # it was raised and delivered then
                detail = f"{type(error).__name__}: {error}"
            else:
                detail = ""
            if number >= known:
                start = (number - known) * SIZE
                if self.digest != digests[start : start + SIZE]:
                    raise Diverged("raised" if detail else "differs", position + number, detail)
                self.compared += 1
        self._marks.replayed(0, 0)

    def _redo_in_new_copy(self, place: WorkerPlace) -> None:
        assert place.as_new is not None
        *_, states, ended = place.as_new
        if states is not None and (ended or not self._spec.iterable):  # else an iterator was made behind them
            self._restore(states)
        self.redo(place.redo or (), None)

    def redo(self, done: Sequence[tuple[Any, ...]], snapshot: States | None) -> None:
        """Do again what was done since this process was copied, or since its dataset was as new: tasks (False, indices,
        skip, digest), beginnings of epochs (True, and the arguments of ``resume``), and going back (None, states). The
        generators that the dataset holds are as they were."""
        self.diverged, self.compared, self.lost, self.begin = None, 0, [], None
        position = 0
        try:
            for number, (begins, *again) in enumerate(done):
                self._marks.replayed(number, len(done))
                if begins:
                    self._resume_quietly(*again)
                    position = 0
                elif begins is None:
                    self.go_back(*again)
                elif self.failure is None:
                    self._load_once_more(position, *again)
                    position += 1
        except Diverged as diverged:
            self.failure = self.diverged = diverged
        self._marks.replayed(0, 0)
        if snapshot is not None:
            self._generators.restore(snapshot)

    def _resume_quietly(self, *epoch: Any) -> None:
        try:
            self.resume(*epoch)
        except Exception as error:
            self.failure = error

    def _load_once_more(self, position: int, indices: Any, skip: tuple[int, ...], digest: bytes) -> None:
        how, detail = "differs", ""
        try:
            self._fetch(indices, skip)
        except Ended:
            how = "ended"
        except Exception as error:
            how, detail = "raised", f"{type(error).__name__}: {error}"
        if digest and self.digest != digest:
            raise Diverged(how, position, detail)
        self.compared += bool(digest)


def _none(dataset: Any) -> None:
    """A map-style dataset has no iterator."""
