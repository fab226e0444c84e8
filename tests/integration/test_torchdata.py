"""Programs written for torchdata's StatefulDataLoader, run with the import changed: the same batches, the same resume."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from safeloader import DataLoader

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

pytestmark = pytest.mark.filterwarnings("default")  # of the package's own making
TORCHDATA = stateful.StatefulDataLoader


class Squares(Dataset[int]):
    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> int:
        return index * index


class Reader(IterableDataset[int]):
    """Each worker reads its share; where it is belongs to its state."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        share = range(22) if info is None else range(info.id, 22, info.num_workers)
        while self.at < len(share):
            self.at += 1
            yield 100 + share[self.at - 1]
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


class Backwards(Sampler[int]):
    """A sampler with a state of its own, which goes another way in each epoch."""

    def __init__(self) -> None:
        self.epoch, self.at = 0, 0

    def __len__(self) -> int:
        return 22

    def __iter__(self) -> Iterator[int]:
        while self.at < 22:
            self.at += 1
            yield (22 - self.at + 3 * self.epoch) % 22
        self.epoch, self.at = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.at = state["epoch"], state["at"]


PROGRAMS: dict[str, Callable[[], dict[str, Any]]] = {
    "map": lambda: {"dataset": Squares()},
    "shuffled": lambda: {"dataset": Squares(), "shuffle": True},
    "iterable": lambda: {"dataset": Reader()},
    "sampler": lambda: {"dataset": Squares(), "sampler": Backwards()},
}


def run(loader_class: Any, kind: str, workers: int, every: int, stop: int) -> tuple[list[list[int]], ...]:
    """A program that saves after so many batches, and another that goes on: before, the rest, the rest again, the next
    epoch of each."""
    spawn = {"multiprocessing_context": "spawn"} if workers else {}

    def make() -> Any:
        torch.manual_seed(7)
        return loader_class(
            batch_size=4, num_workers=workers, snapshot_every_n_steps=every, **PROGRAMS[kind](), **spawn
        )

    first = make()
    iterator = iter(first)
    before = [next(iterator).tolist() for _ in range(stop)]
    if stop == 6:  # all of it
        assert list(iterator) == []
    state = first.state_dict()
    rest = [batch.tolist() for batch in iterator]
    second = make()
    second.load_state_dict(state)
    return before, rest, *([batch.tolist() for batch in loader] for loader in (second, second))


SLOW = [
    pytest.param(kind, 2, every, stop, marks=pytest.mark.slow)
    for kind in PROGRAMS
    for every, stop in ((1, 2), (3, 4), (1, 6))
]


@pytest.mark.parametrize(
    ("kind", "workers", "every", "stop"),
    [(kind, 0, every, stop) for kind in PROGRAMS for every, stop in ((1, 2), (3, 4), (1, 6))] + SLOW,
)
def test_a_program_gives_the_same_batches_and_goes_on_alike(kind: str, workers: int, every: int, stop: int) -> None:
    before, rest, again, following = run(DataLoader, kind, workers, every, stop)
    theirs = run(TORCHDATA, kind, workers, every, stop)
    assert len(before) == stop
    if stop < 6:
        assert again == rest
    if kind == "shuffled":  # the order is torch's, and torchdata draws another; both go on where they were
        for ours, other in zip((before + rest, again, following), (theirs[0] + theirs[1], *theirs[2:]), strict=True):
            assert [len(batch) for batch in ours] == [len(batch) for batch in other]
        assert stop == 6 or theirs[1] == theirs[2]
        torch.manual_seed(7)
        torchs = torch.utils.data.DataLoader(Squares(), 4, shuffle=True)
        assert before + rest == [batch.tolist() for batch in torchs]
    else:
        assert (before, rest, again, following) == theirs
