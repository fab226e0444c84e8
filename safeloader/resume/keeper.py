"""What a loader keeps for its state: the epoch that was begun last, and a state that waits to be gone on from.

The order of going on, at the next ``iter()``: generators as at the epoch's beginning, sampler brought to its place,
supervisor told where it stands, generators as they were when the state was taken.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from safeloader import torch_private
from safeloader.core.state import DatasetSnapshot, PlannedTask, State, WorkerCursor
from safeloader.errors import StateError
from safeloader.lengths import length_of
from safeloader.resume.checkpoint import LoaderCheckpoint, Moment, logical, moved_on, read, write
from safeloader.resume.cursors import check_workers, opened, refuse_error
from safeloader.resume.epoch_numbers import EpochWatch
from safeloader.resume.fingerprint import check_same, facts_of
from safeloader.resume.moments import BeforeDraw, Moments
from safeloader.resume.sampler_state import Sampling, chain_of
from safeloader.runtime.child import dataset_state

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable

    from torch.utils.data import DataLoader

    from safeloader.loader_face import LoaderFace
    from safeloader.runtime.trainer.driver import Driver

__all__ = ["EpochState", "ResumeKeeper"]

_PER_RANK = frozenset({"ranks", "num_workers", "persistent_workers", "batch_size", "batches", "generator", "drop_last"})
_NOWHERE = State(0, 0, 0, 0, False, None, (), ())


@dataclass
class EpochState:
    """What is kept of a running epoch. With workers the supervisor's books say the rest; without, the counts here."""

    number: int
    begin: Moment
    begins: dict[str, Any]
    before: BeforeDraw
    base_seed: int = 0
    shared_seed: int | None = None
    draws: Any = None  # the sampler's iterator, while it is worth keeping
    driver: Driver | None = None
    iterator: weakref.ref[Any] | None = None  # who is iterated; with workers it is the sampler's `Draws`, too
    batch: int = 0  # without workers: what was got ...
    last: Any = None  # ... the indices of the last ...
    taken: list[Any] | None = None  # ... and of one that is being loaded
    again: deque[Any] = field(default_factory=deque)  # ... and of those that come again, that one among them
    over: bool = False
    fetcher: Any = None  # without workers: where an iterable dataset's iterator is


class ResumeKeeper:
    """Keeps one loader's state.

    Args:
        face: the loader's.
    """

    def __init__(self, face: LoaderFace) -> None:
        self._face = face
        self.pending: LoaderCheckpoint | None = None
        self.epoch: EpochState | None = None
        self.sample_seed: int | None = None
        self._moments = Moments(face)
        self._epoch_watch = EpochWatch()
        self._ended = False  # the sampler stands at an epoch's end where it was put

    # ------------------------------------------------------------ numbers

    def seed_for_samples(self, loader: DataLoader[Any]) -> int | None:
        """The seed of ``sample_rng``: the sampler's, which all ranks share, else that of the generator that is used."""
        if not self._face.settings.sample_rng or torch_private.is_iterable(loader):
            return None
        if self.sample_seed is None:
            seeds = [getattr(sampler, "seed", None) for sampler in chain_of(torch_private.index_sampler(loader))]
            generator = loader.generator if loader.generator is not None else torch.default_generator
            known = [seed for seed in seeds if type(seed) is int]
            self.sample_seed = (known[0] if known else generator.initial_seed()) & (2**63 - 1)
        return self.sample_seed

    def watch_epoch(self, loader: DataLoader[Any]) -> None:
        """Warn once of a distributed sampler that shuffles each epoch alike; for ``__iter__`` to call."""
        if self.waits() is None:
            self._epoch_watch.look(loader, self._face.name, stacklevel=3)

    def keep_generators(self, loader: DataLoader[Any]) -> Callable[[], None]:
        """Where living workers are gone on with, their iterator draws no seed: it was made long ago.

        Returns:
            What is to be called when it is made anew.
        """
        point = self.waits()
        if point is None or not (point.state.over and loader.persistent_workers):
            return lambda: None
        before = self._moments.now(loader)
        return lambda: self._moments.put(loader, before)

    # ------------------------------------------------------------ an epoch begins

    def waits(self) -> LoaderCheckpoint | None:
        """The state that the next iterator goes on from; None if it begins an epoch of its own."""
        return self.pending if self.pending is not None and self.pending.begun else None

    def begins_at(self) -> int:
        """The batch with which the next iterator begins."""
        point = self.waits()
        return 0 if point is None or point.state.over else point.state.batch

    def begin(self, loader: DataLoader[Any], number: int) -> EpochState:
        """Before the sampler is asked for anything."""
        point = self.waits()
        if point is not None and not point.state.over:
            self._moments.put(loader, point.begin)
            if loader.num_workers and not point.facts["num_workers"]:  # without workers, that is before the seed
                torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        sampling = Sampling(torch_private.index_sampler(loader))
        self.epoch = EpochState(
            number, self._moments.now(loader), sampling.begins, BeforeDraw(loader, self._moments.program)
        )
        if point is not None and not point.state.over:
            sampling.load({}, point.begins)
            self.epoch.begins = point.begins
        return self.epoch

    def go_on(self, loader: DataLoader[Any], epoch: EpochState, draws: Any) -> tuple[State | None, Any]:
        """The sampler's iterator is made: bring it to its place. Returns where to go on, and the iterator."""
        point = self.waits()
        sampling = Sampling(torch_private.index_sampler(loader))
        if point is None or point.state.over:
            self.pending, epoch.draws = None, sampling.past_the_end(draws) if self._ended else draws
            self._ended = False
            return None if point is None else point.state, epoch.draws
        if point.facts["num_workers"] and not loader.num_workers:
            self._moments.put(loader, point.begin)  # with workers, that is after the seed
            draws = iter(sampling.sampler)
        if point.sampler["way"] != "replay":
            sampling.load(point.sampler, {})
            draws = iter(sampling.sampler)
        sampling.go_on(point.sampler, draws, point.state)
        self._ended = point.state.exhausted and point.sampler["way"] != "replay"
        self._moments.put(loader, point.now, own=point.sampler["way"] == "replay")
        self.pending = None
        epoch.draws = draws
        return point.state, draws

    def drawn_anew(self, loader: DataLoader[Any], epoch: EpochState, count: int) -> Any:
        """Another iterator of the sampler, after so many draws of this epoch.

        The generators are as they were before the draw that was broken off.

        Raises:
            StateError: the sampler can be iterated once only.
        """
        sampling, now = Sampling(torch_private.index_sampler(loader)), self._moments.now(loader)
        self._moments.put(loader, epoch.begin)
        sampling.load({}, epoch.begins)
        draws = iter(sampling.sampler)
        if draws is epoch.draws:
            raise StateError("the sampler was interrupted, and cannot be iterated again")
        for _ in range(count):
            next(draws)
        if count:
            self._moments.put(loader, epoch.before.moment(now, self._moments.now(loader)))
        epoch.draws = draws
        return draws

    # ------------------------------------------------------------ out

    def state_dict(self, loader: DataLoader[Any]) -> dict[str, Any]:
        """Where the loader stands, in plain words."""
        if self.pending is not None:
            return dict(self.pending.raw)
        epoch = self.epoch
        state = _NOWHERE._replace(epoch=self._face.epochs) if epoch is None else self._where(loader, epoch)
        sampling, now = Sampling(torch_private.index_sampler(loader)), self._moments.now(loader)
        told = sampling.tell(None if epoch is None else epoch.draws, state)
        if told["way"] == "rewind":
            if loader.num_workers and not loader.in_order:
                raise StateError(
                    "out of order, what an elastic sampler's ranks have seen has no one place in the epoch",
                    hint="in_order=True",
                )
            state = state._replace(
                planned=(), drawn=state.drawn - len(state.planned), exhausted=state.over,
                turn=(state.drawn - len(state.planned)) % max(loader.num_workers, 1),
            )  # fmt: skip
        batches = length_of(sampling.sampler)
        if told["way"] == "jump" and batches is not None and not torch_private.is_iterable(loader):
            state = state._replace(exhausted=state.exhausted or state.drawn >= batches)
        if epoch is None or state.over:
            resting, begins, begin = True, sampling.begins, now
        else:
            resting, begins, begin = False, epoch.begins, epoch.begin
        if resting and not loader.persistent_workers and loader.num_workers:
            state = state._replace(workers=())
        return write(
            LoaderCheckpoint(
                facts=facts_of(loader, self._face.settings.sample_rng),
                begun=epoch is not None,
                state=state,
                base_seed=epoch.base_seed if epoch is not None else 0,
                shared_seed=epoch.shared_seed if epoch is not None else None,
                sample_seed=self.sample_seed,
                sampler=told,
                begins=begins,
                begin=begin,
                now=now,
                raw={},
            )
        )

    def where(self, loader: DataLoader[Any]) -> State | None:
        """Where the consumer stands in the epoch that was begun last; None if none was, or a loaded state waits."""
        return None if self.epoch is None or self.pending is not None else self._where(loader, self.epoch)

    def moved_on(self, loader: DataLoader[Any], state: dict[str, Any]) -> dict[str, Any]:
        """A state that was taken a while ago, with the generators as they are now."""
        return moved_on(state, self._moments.now(loader))

    def _where(self, loader: DataLoader[Any], epoch: EpochState) -> State:
        if epoch.driver is None:
            return self._where_alone(loader, epoch)
        iterator = epoch.iterator() if epoch.iterator is not None else None
        state = epoch.driver.state(iterator if iterator is not None else _NoDraws())
        if state is None:
            raise StateError(
                "the loader ended before its workers had begun the epoch, so where they stood is not known",
                where=self._face.name,
                hint="take the state before close(), or go on from an earlier one",
            )
        return opened(state._replace(begins=tuple(epoch.driver.begins.items())), epoch.driver.spec.classes)

    def _where_alone(self, loader: DataLoader[Any], epoch: EpochState) -> State:
        """Without workers: the dataset is asked itself."""
        iterable = torch_private.is_iterable(loader)
        iterator = getattr(epoch.fetcher, "dataset_iter", None)
        said = dataset_state.told(loader.dataset, iterator)
        refuse_error(said)
        mark = DatasetSnapshot(epoch.batch, said, None) if said is not None else None
        ended = bool(getattr(epoch.fetcher, "ended", False))
        alone = WorkerCursor(epoch.batch, ended, None, None, mark)
        ahead = [] if iterable else list(epoch.again or epoch.taken or ())
        planned = tuple([PlannedTask(epoch.batch + number, 0, indices) for number, indices in enumerate(ahead)])
        last = PlannedTask(epoch.batch - 1, 0, epoch.last) if epoch.last is not None and not iterable else None
        drawn = epoch.batch + len(planned)
        return State(epoch.number, epoch.batch, drawn, 0, epoch.over, last, planned, (alone,))

    # ------------------------------------------------------------ in

    def load(self, loader: DataLoader[Any], told: dict[str, Any]) -> None:
        """Check a state and keep it for the next ``iter()``.

        Raises:
            StateError: it does not fit; nothing has changed then.
        """
        if told == {}:
            self.pending = self.epoch = None
            return
        point, here = read(told), facts_of(loader, self._face.settings.sample_rng)
        sampling = Sampling(torch_private.index_sampler(loader))
        elastic = sampling.elastic and point.sampler["way"] == "rewind"
        by_sample = here["sample_rng"] and here["style"] == "map" and not here["stateful"]
        check_same(point.facts, here, _PER_RANK if elastic else _WORKERS if by_sample else frozenset())
        if elastic and any(point.facts.get(name) != here[name] for name in _PER_RANK):
            self._load_elsewhere(loader, point)
            return
        if point.facts["num_workers"] != here["num_workers"]:
            point = logical(point, loader.num_workers)
        else:
            check_workers(point, max(loader.num_workers, 1))
        if not point.begun or point.state.over:  # between epochs; in one, this waits for its sampler's iterator
            sampling.load(point.sampler, point.begins)
        self._ended = point.begun and point.state.over and point.sampler["way"] != "replay"
        self.pending, self.epoch, self.sample_seed = point, None, point.sample_seed
        self._face.epochs = point.state.epoch + (point.begun and point.state.over)
        self._moments.put(loader, point.now, own=not point.begun or point.sampler["way"] == "replay")

    def _load_elsewhere(self, loader: DataLoader[Any], point: LoaderCheckpoint) -> None:
        """Another rank, world or batch size: only what all ranks share counts."""
        Sampling(torch_private.index_sampler(loader)).load(point.sampler, {})
        self.pending, self.epoch, self.sample_seed = None, None, point.sample_seed
        self._ended = point.begun and point.state.over
        self._face.epochs = point.state.epoch + self._ended


_WORKERS = frozenset({"num_workers", "persistent_workers"})


class _NoDraws:
    """The sampler has nothing."""

    def draw(self, drawn: list[Any]) -> None: ...

    def mend_draws(self, count: int) -> None: ...
