"""Where an elastic sampler stood some batches ago, so that a loader goes back there, or goes on among other ranks.

The sampler's state is a cursor that all ranks share. A cursor does not tell how the workers' random generators stood,
so what is loaded again is the same only if samples draw nothing, or draw from generators that are set for each of them
(``Policy(sample_rng=True)``). Whether they draw is seen by the generators.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from safeloader import torch_private
from safeloader.codes import warn
from safeloader.errors import SettingsError, StateError
from safeloader.resume.sampler_state import Sampling, count_planned
from safeloader.runtime.child.dataset_state import is_stateful

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.core.state import State
    from safeloader.loader_face import LoaderFace
    from safeloader.resume.keeper import ResumeKeeper

    Got = tuple[int, int, int | None, object]

__all__ = ["go_back", "go_on_among"]


def go_back(loader: Any, face: LoaderFace, keeper: ResumeKeeper, got: Sequence[Got], batches: int) -> None:
    """See `safeloader.DataLoader.rewind`."""
    if isinstance(batches, bool) or operator.index(batches) < 0:
        raise ValueError(f"batches must be a number from 0 on, not {batches!r}")
    sampler, state = _elastic_of(loader), keeper.where(loader)
    if state is None:
        if batches:
            raise StateError("no batch has been got since the loader was made, or since a state was loaded")
        return
    cursor = _cursor_before(sampler, state, got, batches)
    keyed = face.settings.sample_rng and not is_stateful(loader.dataset)
    if batches and not keyed:
        _refuse_drawing(loader, state)
    _restart(loader, face, keeper, sampler, cursor)
    if batches and not keyed:
        _warn_of_drawn_ahead(keeper.where(loader), state)


def _warn_of_drawn_ahead(now: State | None, before: State) -> None:
    """What was only prefetched is loaded again, too."""
    workers = zip(now.workers if now is not None else (), before.workers, strict=False)
    if any(here.epoch_snapshot != there.epoch_snapshot for here, there in workers):
        warn(
            "SL120",
            "samples that were prefetched have drawn random numbers, and come with others now that the loader went "
            "back. Policy(sample_rng=True) sets the generators for each sample",
            stacklevel=4,
        )


def go_on_among(loader: Any, face: LoaderFace, keeper: ResumeKeeper, num_replicas: int, rank: int) -> None:
    """See `safeloader.DataLoader.reshard`."""
    sampler, state = _elastic_of(loader), keeper.where(loader)
    cursor = None if state is None or state.over else _cursor_before(sampler, state, (), 0)
    sampler.reshard(num_replicas, rank)
    if cursor is not None:
        _restart(loader, face, keeper, sampler, cursor)


def _restart(loader: Any, face: LoaderFace, keeper: ResumeKeeper, sampler: Any, cursor: dict[str, Any]) -> None:
    """Let the epoch that runs, or the next iterator, begin at a cursor; it is the same epoch, and keeps its number."""
    epoch = keeper.epoch
    assert epoch is not None
    iterator: Any = None if epoch.iterator is None else epoch.iterator()
    sampler.load_state_dict(cursor)
    face.epochs = epoch.number
    if iterator is not None and not iterator.ended:
        iterator.restart(loader)


def _elastic_of(loader: Any) -> Any:
    """The elastic sampler that rules a loader.

    Raises:
        SettingsError: it has none, or one whose place cannot be told.
    """
    sampling = Sampling(torch_private.index_sampler(loader))
    if not sampling.elastic or torch_private.is_iterable(loader):
        raise SettingsError(
            "rewind() and reshard() need an ElasticDistributedSampler, whose place all ranks share",
            hint="DataLoader(dataset, batch_sampler=ElasticDistributedSampler(dataset, batch_size=...))",
        )
    if loader.num_workers and not loader.in_order:
        raise SettingsError(
            "out of order, what the ranks have seen has no one place in the epoch", hint="in_order=True"
        )
    return sampling.carrier


def _cursor_before(sampler: Any, state: State, got: Sequence[Got], batches: int) -> Any:
    """The sampler's state before what was only prefetched and the last batches that the consumer got.

    Args:
        sampler: The loader's elastic sampler.
        state: Where the loader stands.
        got: Its last batches: epoch, number, worker, indices; newest last.
        batches: How many of them.

    Raises:
        StateError: so many have not been got since the epoch began, or since it was gone back the last time.
    """
    known = {number: indices for epoch, number, _, indices in got if epoch == state.epoch}
    back = range(state.batch - batches, state.batch)
    if batches > state.batch or not all(number in known for number in back):
        raise StateError(
            f"{batches} batches back is further than is known: {state.batch} were got since the epoch began or was "
            "gone back in, and the last 16 are known",
            hint="load an earlier state_dict",
        )
    last = [known[number] for number in back]
    samples = sum([len(indices) if isinstance(indices, (list, tuple)) else 1 for indices in last])
    return sampler.state_dict_before(count_planned(state) + samples)


def _refuse_drawing(loader: Any, state: State) -> None:
    """Refuse to load again what would come with other random numbers.

    Raises:
        StateError: samples draw from workers' generators, which have moved on; or nobody can tell.
    """
    if is_stateful(loader.dataset):
        raise StateError("the dataset has a state of its own, which has moved on", hint="load an earlier state_dict")
    if not loader.num_workers:
        raise StateError(
            "without workers, samples draw from the program's own generators, which may have moved on",
            hint="Policy(sample_rng=True), which sets the generators for each sample, or num_workers=1",
        )
    if any(cursor.snapshot != cursor.epoch_snapshot for cursor in state.workers):
        raise StateError(
            "samples draw random numbers, and would come with others when they are loaded again",
            hint="Policy(sample_rng=True) sets the generators for each sample",
        )
