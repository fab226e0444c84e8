"""Fetching as torch does it: ``torch.utils.data._utils.fetch`` step by step, but every sample is marked on the progress
page, and a ``StopIteration`` out of a map-style dataset does not pass for the end of the epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.runtime.child.digest import digest_of, digest_of_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from safeloader.runtime.child.sample_rng import Keyed

__all__ = ["Ended", "Fetcher", "LoadSpec", "Loaded", "Marks", "SampleStopped"]


class LoadSpec(NamedTuple):
    """What all workers of a loader share, besides the dataset; plain values."""

    num_workers: int
    iterable: bool
    auto_collation: bool
    batch_size: int  # of an iterable dataset's automatic batches
    drop_last: bool
    base_seed: int
    skip_raising: bool
    sample_seed: int | None = None  # generators are keyed by the sample
    mark_every: int | None = None  # tasks between two marks of a stateful dataset; None: as seldom as is cheap
    token: str = ""  # the iterator's
    digests: bool = False  # each batch has one: what is read again can be compared


class Ended(Exception):
    """The worker's iterator has nothing left."""


class SampleStopped(RuntimeError):
    """A map-style dataset raised StopIteration."""


class Marks:
    """Where progress is marked; this one marks nothing."""

    def sample(self, position: int) -> None:
        """The sample at this position of the batch is in work."""

    def collate(self) -> None:
        """All samples are there."""

    def replayed(self, done: int, of: int) -> None:
        """So many of the batches that are loaded again are done."""


class Loaded(NamedTuple):
    """A batch, and the (position, error text) of samples that were skipped."""

    batch: Any
    dropped: tuple[tuple[int, str], ...]
    empty: bool = False


class Fetcher:
    """What a worker loads with. ``Worker`` brings it to its place.

    Args:
        spec: what all workers share.
        dataset: this worker's own copy.
        collate_fn: makes a batch of samples.
        marks: where progress is marked.
    """

    def __init__(self, spec: LoadSpec, dataset: Any, collate_fn: Callable[[Any], Any], marks: Marks) -> None:
        self.sample: int | None = None
        self.failure: BaseException | None = None
        self.digest = b""  # of what was loaded last
        self._spec = spec
        self._dataset = dataset
        self._collate = collate_fn
        self._marks = marks
        self._keyed: Keyed | None = None
        self._iterator: Iterator[Any] | None = None
        self._ended = False
        self._last_sample: Any = None

    def load(self, indices: Any, skip: tuple[int, ...] = ()) -> Loaded:
        """Load one batch.

        Raises:
            Ended: the iterator has nothing left.
            Exception: whatever the dataset or the collate function raised.
        """
        if self.failure is not None:
            raise self.failure
        return self._fetch(indices, skip)

    def _fetch(self, indices: Any = None, skip: tuple[int, ...] = ()) -> Loaded:
        self.sample, self.digest = None, b""
        try:
            loaded = self._load_next() if self._spec.iterable else self._load_indexed(indices, skip)
        except Ended:
            raise
        except Exception as error:
            if self._spec.digests:
                self.digest = digest_of_error(error)
            raise
        if self._spec.digests:
            self.digest = digest_of(loaded.batch)
        return loaded

    def _load_next(self) -> Loaded:
        if self._ended or self._iterator is None:
            raise Ended
        self._mark(0)
        if not self._spec.auto_collation:
            try:
                data = next(self._iterator)
            except StopIteration:
                self._ended = True
                raise Ended from None
            return self._collated(data, ())
        samples: list[Any] = []
        for position in range(self._spec.batch_size):
            self._mark(position)
            try:
                samples.append(next(self._iterator))
            except StopIteration:
                self._ended = True
                break
        if not samples or (self._spec.drop_last and len(samples) < self._spec.batch_size):
            raise Ended
        return self._collated(samples, ())

    def _load_indexed(self, indices: Any, skip: tuple[int, ...]) -> Loaded:
        self._last_sample = _first(indices) if self._spec.auto_collation else indices
        if not self._spec.auto_collation:
            return self._load_single(indices)
        if getattr(self._dataset, "__getitems__", None) and not self._spec.skip_raising and self._keyed is None:
            wanted = [index for position, index in enumerate(indices) if position not in skip] if skip else indices
            try:
                return self._collated(self._dataset.__getitems__(wanted), ())
            except StopIteration as stop:
                raise _stopped(wanted) from stop
        return self._load_one_by_one(
            self._dataset if self._keyed is None else self._keyed.prepared(indices), indices, skip
        )

    def _load_one_by_one(self, dataset: Any, indices: Any, skip: tuple[int, ...]) -> Loaded:
        skipping = self._spec.skip_raising
        samples, dropped, mark = [], [], self._marks.sample
        for position, index in enumerate(indices):
            if position in skip:
                continue
            self.sample = position
            try:
                mark(position)
                samples.append(dataset[index])
            except StopIteration as stop:
                raise _stopped(index) from stop
            except Exception as error:
                if not skipping:
                    raise
                dropped.append((position, f"{type(error).__name__}: {error}"))
        if not samples and dropped:
            return Loaded(None, tuple(dropped), empty=True)
        return self._collated(samples, tuple(dropped))

    def _load_single(self, index: Any) -> Loaded:
        self._mark(0)
        try:
            sample = (self._keyed or self._dataset)[index]
        except StopIteration as stop:
            raise _stopped(index) from stop
        except Exception as error:
            if not self._spec.skip_raising:
                raise
            return Loaded(None, ((0, f"{type(error).__name__}: {error}"),), empty=True)
        return self._collated(sample, ())

    def _collated(self, samples: Any, dropped: tuple[tuple[int, str], ...]) -> Loaded:
        self.sample = None
        self._marks.collate()
        try:
            return Loaded(self._collate(samples), dropped)
        except StopIteration as stop:
            raise SampleStopped("the collate function raised StopIteration") from stop

    def _mark(self, position: int) -> None:
        self.sample = position
        self._marks.sample(position)


def _first(indices: Any) -> Any:
    try:
        return indices[0]
    except Exception:
        return None


def _stopped(index: Any) -> SampleStopped:
    return SampleStopped(
        f"the dataset raised StopIteration for sample {index!r}; torch would take that for the end of the epoch. "
        "Look for a bare next(...) in the dataset or its transforms"
    )
