"""A worker: one copy of the dataset, its fetching state and its generators. Child processes and the trainer (at rung 0)
run the same code.

Fetching follows ``torch.utils.data._utils.fetch`` step by step, but marks every sample on the progress page and does
not let a ``StopIteration`` out of a map-style dataset pass for the end of the epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .. import torch_private
from . import stateful
from .keyed import Keyed, tell_epoch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .generators import Generators, States

__all__ = ["Ended", "LoadSpec", "Loaded", "Marks", "SampleStopped", "Worker", "WorkerPlace"]


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


class Loaded(NamedTuple):
    """A batch, and the (position, error text) of samples that were skipped."""

    batch: Any
    dropped: tuple[tuple[int, str], ...]
    empty: bool = False


class Worker:
    """One worker. Its generators are the process's own while it works: see ``enter``.

    Args:
        spec: what all workers share.
        dataset: this worker's own copy.
        collate_fn: makes a batch of samples.
        init_fn: called once with the worker's id.
        place: where it stands.
        generators: the process's generators.
        marks: where progress is marked.
    """

    def __init__(
        self,
        spec: LoadSpec,
        dataset: Any,
        collate_fn: Callable[[Any], Any],
        init_fn: Callable[[int], None] | None,
        place: WorkerPlace,
        generators: Generators,
        marks: Marks,
    ) -> None:
        self.id = place.worker
        self.sample: int | None = None
        self._spec = spec
        self._collate = collate_fn
        self._generators = generators
        self._marks = marks
        self._iterator: Iterator[Any] | None = None
        self._ended = False
        self.states: States | None = None  # while another worker is in
        self.failure: BaseException | None = None
        self._seed = torch_private.seed_worker(spec.base_seed, self.id)
        generators.mark()
        self._dataset = torch_private.apply_shared_seed(dataset, place.shared_seed)
        self._keyed: Keyed | None = None
        if spec.sample_seed is not None and not spec.iterable:
            self._keyed = Keyed(self._dataset, spec.sample_seed, place.epoch)
        self._pace = stateful.Pace(spec.mark_every)
        self._tells = False
        self.enter()
        try:
            if init_fn is not None:
                init_fn(self.id)
            if place.told_epoch is not None:
                tell_epoch(self._dataset, place.told_epoch)
            self._take_place(place)
            self._tells = stateful.is_stateful(self._dataset) or stateful.is_stateful(self._iterator)
        except Exception as error:
            self.failure = error
        if place.snapshot is not None:
            generators.restore(place.snapshot)

    def enter(self) -> None:
        """Make this process's ``get_worker_info()`` and generators this worker's."""
        torch_private.set_worker_info(self.id, self._spec.num_workers, self._seed, self._dataset)
        if self.states is not None:
            self._generators.restore(self.states)
            self.states = None

    def leave(self) -> None:
        """Keep the generators for the next ``enter``."""
        self.states = self._generators.capture()

    def _take_place(self, place: WorkerPlace) -> None:
        if self._spec.iterable and place.epoch_snapshot is not None:
            self._generators.restore(place.epoch_snapshot)
        made = iter if self._spec.iterable else _none
        position, said, states = place.mark or (0, {}, None)
        self._iterator = stateful.load(said, self._dataset, made)
        if states is not None:
            self._generators.restore(states)
        if self._spec.iterable:
            for _ in range(place.position - position):
                self._replay(self._load_next)
            self._ended = self._ended or place.ended or "ended" in said
        for indices, skip in place.replay:
            self._replay(self._load_indexed, indices, skip)

    def _replay(self, load: Callable[..., Loaded], *task: Any) -> None:
        """Load a batch that was delivered long ago, for what it does to dataset, iterator and generators."""
        try:
            load(*task)
        except Exception:  # it was raised and delivered then
            pass

    def resume(self, shared_seed: int | None, epoch: int = 0, told_epoch: int | None = None) -> None:
        """Begin a new epoch, as torch does for persistent workers."""
        if self.failure is not None:
            return
        self._dataset = torch_private.apply_shared_seed(self._dataset, shared_seed)
        if self._keyed is not None:
            self._keyed.epoch = epoch
        if told_epoch is not None:
            tell_epoch(self._dataset, told_epoch)
        if self._spec.iterable:
            self._iterator = iter(self._dataset)
            self._ended = False

    def asked(self, always: bool = False) -> bool:
        """Whether the dataset can tell its state, and it is time to ask."""
        return self._tells and (always or self._pace.due())

    def said(self, always: bool = False) -> dict[str, Any] | None:
        """What the dataset says of its state, if it can, and if it is time to ask; ``noted`` is to follow."""
        if not self.asked(always):
            return None
        said = stateful.told(self._dataset, self._iterator)
        if said is not None and self._ended:
            said["ended"] = True  # with a short batch, which is not its last word
        return said

    def noted(self) -> None:
        """What was said is on its way: that is what it cost."""
        self._pace.done()

    @property
    def keyed(self) -> bool:
        """True if each sample sets the generators: what they were before does not matter."""
        return self._keyed is not None

    # ------------------------------------------------------------ loading

    def load(self, indices: Any, skip: tuple[int, ...] = ()) -> Loaded:
        """Load one batch.

        Raises:
            Ended: the iterator has nothing left.
            Exception: whatever the dataset or the collate function raised.
        """
        if self.failure is not None:
            raise self.failure
        self.sample = None
        if self._spec.iterable:
            return self._load_next()
        return self._load_indexed(indices, skip)

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
        dataset, skipping = self._keyed or self._dataset, self._spec.skip_raising
        if not self._spec.auto_collation:
            return self._load_single(indices)
        if getattr(self._dataset, "__getitems__", None) and not skipping and self._keyed is None:
            wanted = [index for position, index in enumerate(indices) if position not in skip] if skip else indices
            try:
                return self._collated(self._dataset.__getitems__(wanted), ())
            except StopIteration as stop:
                raise _stopped(wanted) from stop
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


def _none(dataset: Any) -> None:
    """A map-style dataset has no iterator."""


def _stopped(index: Any) -> SampleStopped:
    return SampleStopped(
        f"the dataset raised StopIteration for sample {index!r}; torch would take that for the end of the epoch. "
        "Look for a bare next(...) in the dataset or its transforms"
    )
