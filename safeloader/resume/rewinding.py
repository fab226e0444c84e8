"""Going back by some batches, and going on among other ranks, in the iterator that runs.

Going back within an epoch is the core's doing (`safeloader.core.consumer`): it knows the last batches and how the
workers stood. Other ranks, or an epoch that is over, take a sampler that can be put there. That is an elastic one,
whose state is a cursor that all ranks share. A cursor does not tell how the workers' random generators stood, so what
is loaded again is the same only if samples draw nothing, or draw from generators that are set for each of them
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
    if torch_private.is_iterable(loader):
        raise SettingsError(
            "rewind() needs a map-style dataset: a stream is not read backwards", hint="load an earlier state_dict"
        )
    if is_stateful(loader.dataset):
        raise StateError("the dataset has a state of its own, which has moved on", hint="load an earlier state_dict")
    epoch = None if keeper.pending is not None else keeper.epoch
    if epoch is None:
        if batches:
            raise StateError("no batch has been got since the loader was made, or since a state was loaded")
        return
    iterator: Any = None if epoch.iterator is None else epoch.iterator()
    if not loader.num_workers and batches and not face.settings.sample_rng:
        raise StateError(
            "without workers, samples draw from the program's own generators, which may have moved on",
            hint="Policy(sample_rng=True), which sets the generators for each sample, or num_workers=1",
        )
    if iterator is None or iterator.ended:
        _go_back_into(loader, face, keeper, got, batches)
    elif batches and not iterator.rewind(batches):
        raise _too_far(batches, "the epoch began")
    elif batches and loader.num_workers and epoch.driver is not None and epoch.driver.changed:
        warn(
            "SL120",
            "the dataset has changed in itself while it loaded, so the batches that come again may come otherwise, "
            "if that is more than a cache",
            stacklevel=3,
        )


def _too_far(batches: int, since: str) -> StateError:
    return StateError(
        f"{batches} batches back is further than is known: of those got since {since}, the last 16",
        hint="load an earlier state_dict",
    )


def _go_back_into(loader: Any, face: LoaderFace, keeper: ResumeKeeper, got: Sequence[Got], batches: int) -> None:
    """An epoch that is over: the next iterator gives its last batches. An elastic sampler can be put there."""
    sampler, state = _elastic_of(loader), keeper.where(loader)
    assert state is not None
    cursor = _cursor_before(sampler, state, got, batches)
    if batches and not face.settings.sample_rng and any(c.snapshot != c.epoch_snapshot for c in state.workers):
        raise StateError(
            "samples draw random numbers, and would come with others when they are loaded again",
            hint="go back before the epoch is over, or Policy(sample_rng=True)",
        )
    _restart(loader, face, keeper, sampler, cursor)


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
            "reshard(), and rewind() into an epoch that is over, need an ElasticDistributedSampler, whose place all "
            "ranks share",
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
        raise _too_far(batches, "the epoch began")
    last = [known[number] for number in back]
    samples = sum([len(indices) if isinstance(indices, (list, tuple)) else 1 for indices in last])
    return sampler.state_dict_before(count_planned(state) + samples)
