"""A dataset that says who loaded what, instead of what was loaded. Runs in the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch.utils.data import Dataset, IterableDataset, get_worker_info

from safeloader.auditing.generators import Streams, digest, seedings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Observation", "Stand", "as_list", "watch"]


class Observation(NamedTuple):
    """One sample, as it was loaded.

    Attributes:
        index: its index; None where an iterable dataset gave it.
        worker: who loaded it; 0 without workers.
        drew: for each source of random numbers that loading it used, the digests of its state before and after.
        content: digest of what came out.
        seeded: calls that seeded a global generator meanwhile, as text.
    """

    index: Any
    worker: int
    drew: dict[str, bytes]
    content: bytes
    seeded: tuple[str, ...] = ()


class _Eyes:
    """Looks at the generators before and after; made where the samples are loaded."""

    def __init__(self, dataset: Any) -> None:
        info = get_worker_info()
        self.worker = info.id if info is not None else 0
        self._streams = Streams(dataset)

    def before(self) -> dict[str, bytes]:
        return self._streams.states()

    def drew(self, before: dict[str, bytes]) -> dict[str, bytes]:
        after = self._streams.states()
        return {name: state + after[name] for name, state in before.items() if after.get(name, state) != state}


class Stand(Dataset[Any]):
    """Stands in for a dataset: a ``worker_init_fn`` that reads or sets its attributes reaches the dataset itself."""

    _dataset: Any
    _eyes: _Eyes | None

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._eyes = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also while being unpickled, when there is no dataset yet
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_dataset", "_eyes"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._dataset, name, value)


class _WatchedDataset(Stand):
    def __len__(self) -> int:
        return len(self._dataset)

    def _look(self) -> _Eyes:
        if self._eyes is None:
            self._eyes = _Eyes(self._dataset)
        return self._eyes

    def __getitem__(self, index: Any) -> Observation:
        eyes = self._look()
        before = eyes.before()
        with seedings() as seeded:
            sample = self._dataset[index]
        return Observation(index, eyes.worker, eyes.drew(before), digest(sample), tuple(seeded))


class _WatchedAtOnce(_WatchedDataset):
    """For datasets that load a batch at once; what it draws is noted with the batch's first sample."""

    def __getitems__(self, indices: Sequence[Any]) -> list[Observation]:
        eyes = self._look()
        before = eyes.before()
        samples = self._dataset.__getitems__(indices)
        drew = eyes.drew(before)
        return [
            Observation(index, eyes.worker, {} if position else drew, digest(sample))
            for position, (index, sample) in enumerate(zip(indices, samples, strict=True))
        ]


class _WatchedStream(Stand, IterableDataset[Any]):
    def __iter__(self) -> Iterator[Observation]:
        eyes = _Eyes(self._dataset)
        before = eyes.before()
        for sample in self._dataset:
            yield Observation(None, eyes.worker, eyes.drew(before), digest(sample))
            before = eyes.before()


def watch(dataset: Any, iterable: bool) -> Any:
    """The dataset, watched."""
    if iterable:
        return _WatchedStream(dataset)
    return _WatchedAtOnce(dataset) if hasattr(dataset, "__getitems__") else _WatchedDataset(dataset)


def as_list(samples: Any) -> list[Observation]:
    """The collate function: a batch is a list, of one where there is no batching."""
    return [samples] if isinstance(samples, Observation) else list(samples)
