"""The iterator of ``num_workers=0``: torch's own, with a place in the epoch, its state, and notes on errors."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from safeloader import notes, torch_private
from safeloader.resume.cursors import planned_first
from safeloader.resume.inline import restore_dataset, restore_iterator, worth_keeping
from safeloader.runtime.child.generators import Generators
from safeloader.runtime.child.sample_rng import Keyed
from safeloader.runtime.memory.kept_memory import KeptMemory, has_large, keeping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.utils.data import DataLoader

    from safeloader.loader_state import LoaderState

__all__ = ["SingleProcessIterator", "Unprofiled"]

_LOOKS = 3


class Unprofiled(torch_private.BaseIterator):
    """Batches without torch's profiler range, a tenth of a small batch's time, while nobody profiles."""

    if TYPE_CHECKING:  # torch's says that it never returns

        def _next_data(self) -> Any: ...

    def __next__(self) -> Any:
        if torch_private.profiling() or torch_private.length_was_asked(self):
            return super().__next__()
        data = self._next_data()
        self._num_yielded += 1
        return data


class SingleProcessIterator(Unprofiled, torch_private.SingleProcessIterator):
    """torch's own, except that no ``StopIteration`` of a sample ends the epoch."""

    def __init__(self, loader: DataLoader[Any], state: LoaderState) -> None:
        keeper, point = state.keeper, state.keeper.waits()
        self._epoch = epoch = keeper.begin(loader, state.epochs)
        restore_dataset(loader.dataset, point)
        super().__init__(loader)
        restore_iterator(self._dataset_fetcher, point)
        stood, self._sampler_iter = keeper.go_on(loader, epoch, self._sampler_iter)
        if stood is not None and not stood.over:
            self._sampler_iter = planned_first(stood, self._sampler_iter)
            self._num_yielded = epoch.batch = stood.batch
        self._loader_state = state
        self._among_ranks = state.guard.current
        state.begin_pass(loader, epoch.number)
        state.epochs = epoch.number + 1
        epoch.iterator = weakref.ref(self)
        epoch.fetcher = self._dataset_fetcher if worth_keeping(self._dataset_fetcher) else None
        if (seed := keeper.seed_for_samples(loader)) is not None:
            self._dataset_fetcher.dataset = Keyed(self._dataset, seed, epoch.number)
        self._own_generators = Generators() if seed is not None else None
        self._kept: KeptMemory | None = None
        self._looks = _LOOKS
        self._batched = bool(loader._auto_collation)
        at_once = hasattr(self._dataset_fetcher.dataset, "__getitems__") and self._dataset_fetcher.dataset.__getitems__
        self._counts = self._batched and not at_once  # torch asks for one sample after another
        self._indexed = not torch_private.is_iterable(loader)
        self._profile_name = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"

    @property
    def ended(self) -> bool:
        """True when the consumer was told of the epoch's end."""
        return self._epoch.over

    def restart(self, loader: DataLoader[Any]) -> None:
        """Go on with the same epoch from where the sampler stands now."""
        self._sampler_iter, self._num_yielded, self._among_ranks = iter(self._index_sampler), 0, None
        state, fetcher = self._loader_state, self._epoch.fetcher
        self._epoch = epoch = state.keeper.begin(loader, state.epochs)
        epoch.iterator, epoch.fetcher, epoch.draws = weakref.ref(self), fetcher, self._sampler_iter
        state.epochs = epoch.number + 1

    def rewind(self, batches: int) -> bool:
        """Give the last batches again. False: so many are not known."""
        epoch, known = self._epoch, self._loader_state.delivered
        again = {number: index for number_of, number, _, index in known if number_of == epoch.number}
        back = range(self._num_yielded - batches, self._num_yielded)
        if not all(number in again for number in back):
            return False
        epoch.again.extendleft([again[number] for number in reversed(back)])
        epoch.last = again.get(back.start - 1) if epoch.batch == self._num_yielded else None  # no error came between
        epoch.batch -= batches
        self._num_yielded -= batches
        return True

    def _next_data(self) -> Any:
        state = self._loader_state
        state.asks()
        try:
            data = self._next_loaded()
        except BaseException as error:
            state.failed(error)
            if isinstance(error, StopIteration):
                state.guard.ended(self._among_ranks, self._num_yielded)
            raise
        state.got()
        state.recorder.batches += 1
        return data

    def _next_loaded(self) -> Any:
        epoch = self._epoch
        try:
            index = epoch.again[0] if epoch.again else self._next_index()  # type: ignore[no-untyped-call]
        except StopIteration:
            epoch.over, epoch.draws = True, None
            raise
        epoch.taken = [index]
        try:
            data = self._fetch(index)
        except StopIteration as stop:
            if not self._indexed:
                epoch.over, epoch.draws, epoch.taken = True, None, None
                raise
            error = RuntimeError(
                f"the dataset raised StopIteration while batch {index!r} was loaded; torch would take that for the end "
                "of the epoch. Look for a bare next(...) in the dataset, its transforms or the collate function"
            )
            self._note(error, index)
            self._got(index)
            raise error from stop
        except Exception as error:
            self._note(error, index)
            self._got(index)
            raise
        if self._pin_memory:
            data = torch_private.pin(data, self._pin_memory_device)
        self._loader_state.delivered.append((epoch.number, self._num_yielded, None, index))
        self._got(index)
        return data

    def _got(self, index: Any) -> None:
        """This draw is done with."""
        epoch = self._epoch
        epoch.last, epoch.taken = index, None
        if epoch.again:
            epoch.again.popleft()
        epoch.batch += 1

    def _note(self, error: Exception, index: Any) -> None:
        """Let an error say which sample it is about."""
        sample = self._asked.at if self._asked is not None else None if self._batched else 0
        where = notes.place(
            index, sample, indexed=self._indexed, batched=self._batched, batch=self._num_yielded,
            epoch=self._epoch.number, worker=None,
        )  # fmt: skip
        notes.add_note(error, where)

    def _fetch(self, index: Any) -> Any:
        self._asked = None
        if self._counts:
            index = self._asked = _Asked(index)
        if self._own_generators is None:
            return self._collated(index)
        mine = self._own_generators.capture()  # samples set the generators; the program's own are not theirs to move
        try:
            return self._collated(index)
        finally:
            self._own_generators.restore(mine)

    def _collated(self, index: Any) -> Any:
        if self._kept is not None:
            with keeping(self._kept):
                return self._dataset_fetcher.fetch(index)
        data = self._dataset_fetcher.fetch(index)
        if self._looks:  # the first batches show how large they are
            self._looks -= 1
            if has_large(data):
                self._kept = KeptMemory()
        return data


class _Asked:
    """A batch of indices that remembers which of them torch's fetcher is at.

    Attributes:
        at: its position, from 0; None before the first and after the last.
    """

    __slots__ = ("_indices", "at")

    def __init__(self, indices: Any) -> None:
        self._indices = indices
        self.at: int | None = None

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Any]:
        for position, index in enumerate(self._indices):
            self.at = position
            yield index
        self.at = None
