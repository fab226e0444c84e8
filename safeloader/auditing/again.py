"""Whether a dataset can be brought back to a place: by its own state, or by reading it again. Runs in worker processes.

::

    first process    |--- 0 --- 1 --- 7 --- 32 ------- ...   what comes after each of these places, and what the
                         |     |     |                       dataset and the random generators were there
    fresh process        '-----'-----'----> put back into a fresh copy: does the same come?
"""

from __future__ import annotations

import itertools
import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.data import IterableDataset, get_worker_info

from safeloader.auditing.generators import digest
from safeloader.auditing.report import Finding
from safeloader.auditing.watched import Stand
from safeloader.runtime import by_value
from safeloader.runtime.child import dataset_state
from safeloader.runtime.child.generators import Generators, States
from safeloader.runtime.child.own_generators import OwnGenerators

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["as_it_is", "look_again"]

_PLACES = (0, 1, 7, 32)
_FOLLOWING = 48


class _Place(NamedTuple):
    """A place in one worker's stream: what it was like there, and digests of what came after."""

    worker: int
    at: int
    said: bytes | None
    states: States
    following: list[bytes]


def look_again(dataset: Any, iterable: bool, load: Callable[[Any], list[Any]]) -> list[Finding]:
    """Findings about bringing a dataset back to a place.

    Args:
        dataset: the dataset.
        iterable: it is an iterable one.
        load: runs a dataset's iteration in fresh workers set up like the loader's; returns what they yielded.
    """
    if not iterable:
        return [] if dataset_state.is_stateful(dataset) else _judge_samples(load(_TwiceLoaded(dataset)))
    places: list[_Place] = load(_Saving(dataset))
    again = {(worker, at, own): found for worker, at, own, found in load(_PutBack(dataset, places))}
    return [*_judge_reading(places, again), *_judge_states(places, again)]


def _judge_samples(differing: list[Any]) -> list[Finding]:
    indices = [index for index in differing if index is not None]
    if not indices:
        return []
    text = f"loaded twice with the same random numbers, sample {indices[0]} is not the same"
    return [
        Finding(
            "not_covered", "warning", f"{text}: the dataset changes itself, which a new process does not know",
            "give the dataset state_dict and load_state_dict, or let nothing but random generators matter",
        )
    ]  # fmt: skip


def _judge_reading(places: list[_Place], again: dict[Any, Any]) -> Iterator[Finding]:
    for place in places:
        found = again[place.worker, place.at, False] if place.at == 0 else place.following
        if found != place.following:
            yield Finding(
                "not_repeatable", "warning",
                f"read twice with the same random numbers, the stream of worker {place.worker} is not the same from "
                f"its sample {_first(found, place.following)} on: what a lost process delivered cannot be found again",
                "seed whatever shuffles, so that it depends on the worker's seed and the epoch alone",
            )  # fmt: skip
            return


def _judge_states(places: list[_Place], again: dict[Any, Any]) -> Iterator[Finding]:
    told = [place for place in places if place.said is not None and place.at]
    for place in told:
        found = again[place.worker, place.at, True]
        if found != place.following:
            how = found if isinstance(found, str) else f"sample {_first(found, place.following)} after it differs"
            yield Finding(
                "state_not_exact", "warning",
                f"the state that the dataset tells after {place.at} samples is not exact: in a fresh copy, {how}",
                "a lost worker reads its epoch again instead; resuming from such a state in another program repeats or "
                "leaves out samples",
            )  # fmt: skip
            return
    if told:
        yield Finding(
            "state_exact", "note",
            f"the dataset's own state was exact at {len(told)} places: Policy(trust_state=True) lets a lost worker go "
            "on from it",
        )  # fmt: skip


def _first(found: Any, expected: list[bytes]) -> int:
    """Where two streams part."""
    pairs = itertools.zip_longest(found, expected)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), 0)


# ---------------------------------------------------------------- in the workers


def as_it_is(sample: Any) -> Any:
    """The collate function: nothing is collated."""
    return sample


def _worker() -> int:
    info = get_worker_info()
    return info.id if info is not None else 0


def _now(dataset: Any) -> States:
    return Generators().capture()._replace(own=OwnGenerators([("dataset", dataset)]).capture())


class _Saving(Stand, IterableDataset[_Place]):
    """Yields the places of its worker."""

    def __iter__(self) -> Iterator[_Place]:
        states: list[tuple[int, bytes | None, States]] = [(0, None, _now(self._dataset))]
        iterator, read = iter(self._dataset), []
        for number, sample in enumerate(itertools.islice(iterator, _PLACES[-1] + _FOLLOWING), 1):
            read.append(digest(sample))
            if number in _PLACES:
                said = dataset_state.told(self._dataset, iterator)
                packed = None if said is None or "error" in said else by_value.dumps(said)
                states.append((number, packed, _now(self._dataset)))
        for at, said_then, states_then in states:
            yield _Place(_worker(), at, said_then, states_then, read[at : at + _FOLLOWING])


class _PutBack(Stand, IterableDataset[Any]):
    """Yields (worker, place, whether by its own state, what came then) for fresh copies."""

    _places: list[_Place]

    def __init__(self, dataset: Any, places: list[_Place]) -> None:
        super().__init__(dataset)
        object.__setattr__(self, "_places", places)

    def __iter__(self) -> Iterator[Any]:
        copies = by_value.dumps(self._dataset)
        for place in self._places:
            if place.worker == _worker() and (place.at == 0 or place.said is not None):
                yield place.worker, place.at, place.at != 0, self._follow(by_value.loads(copies), place)

    @staticmethod
    def _follow(dataset: Any, place: _Place) -> list[bytes] | str:
        own = OwnGenerators([("dataset", dataset)])
        if place.at == 0:
            own.restore(place.states.own)
            Generators().restore(place.states)
        said = {} if place.said is None else by_value.loads(place.said)
        try:
            iterator = dataset_state.load(said, dataset, iter)
        except Exception as error:
            return f"load_state_dict raises {type(error).__name__}: {error}"
        if place.at:
            own.restore(place.states.own)
            Generators().restore(place.states)
        return [digest(sample) for sample in itertools.islice(iterator, len(place.following))]


class _TwiceLoaded(Stand):
    """A map-style dataset whose samples tell whether they are the same twice: their index if not, else None."""

    def __len__(self) -> int:
        return min(len(self._dataset), _PLACES[-1])

    def __getitem__(self, index: int) -> int | None:
        own, generators = OwnGenerators([("dataset", self._dataset)]), Generators()
        self._load(index)  # what is made with the first sample is there now
        own.look()
        states, held = generators.capture(), pickle.dumps(own.capture())
        first = self._load(index)
        own.restore(pickle.loads(held))
        generators.restore(states)
        return index if self._load(index) != first else None

    def _load(self, index: int) -> bytes:
        if hasattr(self._dataset, "__getitems__"):
            return digest(self._dataset.__getitems__([index]))
        return digest(self._dataset[index])
