"""``state_dict()`` and ``load_state_dict()``: every batch of two epochs is tried as the place to go on from."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, IterableDataset, RandomSampler

from safeloader import DataLoader, Policy
from tests.api import state_data as data
from tests.fixtures_data import Draws, DrawsAtOnce, Stream
from tests.runtime.harness import _bytes, _generators, seed

pytestmark = pytest.mark.usefixtures("forked")

COUNT = 22
Epochs = list[list[bytes]]


def own_generator(_: Any = None) -> dict[str, Any]:
    generator = torch.Generator()
    generator.manual_seed(7)
    return {"shuffle": True, "generator": generator}


KINDS: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Any]]]] = {
    "map": (lambda: Draws(COUNT), lambda: {"shuffle": True}),
    "map in sequence": (lambda: DrawsAtOnce(COUNT), dict),
    "iterable": (lambda: Stream(COUNT), dict),
    "own generator": (lambda: Draws(COUNT), own_generator),
    "drawn as it goes": (
        lambda: Draws(COUNT),
        lambda: {"sampler": RandomSampler(range(COUNT), replacement=True, num_samples=150, generator=own_generator()["generator"]), "batch_size": 40},
    ),
    "stateful sampler": (lambda: Draws(COUNT), lambda: {"sampler": data.CountingSampler(COUNT)}),
    "stateful batch iterator": (lambda: Draws(COUNT + 1), lambda: {"batch_sampler": data.UnrepeatableBatches(9), "batch_size": 1}),
    "stateful dataset": (lambda: data.Growing(COUNT), lambda: {"shuffle": True}),
    "stateful stream": (lambda: data.StatefulStream(COUNT), dict),
    "stateful iterator": (lambda: data.Walking(COUNT), dict),
    "no batches": (lambda: Draws(9), lambda: {"batch_size": None, "shuffle": True}),
}  # fmt: skip
MODES = {"alone": (0, False), "workers": (2, False), "persistent": (2, True)}


def make(kind: str, mode: str, **policy: Any) -> DataLoader[Any]:
    dataset, options = KINDS[kind]
    workers, persistent = MODES[mode]
    policy = {"max_processes": 0, **policy}  # the bytes are the same, and no process has to start
    every = policy.pop("snapshot_every_n_steps", None)
    return DataLoader(
        dataset(), num_workers=workers, persistent_workers=persistent, policy=Policy(**policy),
        snapshot_every_n_steps=every, **{"batch_size": 4, **options()},
    )  # fmt: skip


def otherwise() -> None:
    """Other generators than any state has."""
    torch.manual_seed(99)
    random.seed(98)
    np.random.seed(97)


def play(loader: DataLoader[Any], epochs: int = 2) -> tuple[Epochs, list[tuple[int, int, str]], str]:
    """All batches, a state at each place (epoch, batches before), and the generators at the end."""
    played: Epochs = []
    states = [(0, 0, json.dumps(loader.state_dict()))]
    for epoch in range(epochs):
        played.append([])
        iterator = iter(loader)
        states.append((epoch, 0, json.dumps(loader.state_dict())))
        for batch in iterator:
            played[-1].append(_bytes(batch))
            states.append((epoch, len(played[-1]), json.dumps(loader.state_dict())))
        states.append((epoch + 1, 0, json.dumps(loader.state_dict())))
    return played, states, _generators()


def go_on(make_loader: Callable[[], DataLoader[Any]], state: Any, epochs: int) -> tuple[Epochs, str]:
    """What another program gets from there: the rest of the epoch and those after it."""
    otherwise()
    with make_loader() as loader:
        loader.load_state_dict(state)
        assert loader.state_dict() == state
        played = [[_bytes(batch) for batch in loader] for _ in range(epochs)]
        return played, _generators()


# How long a worker lives matters to datasets, and not to what draws the indices.
LIVES_ON = ("map", "iterable", "stateful dataset", "stateful stream", "own generator")


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        pytest.param(kind, mode, marks=[pytest.mark.slow] if mode == "persistent" and kind not in LIVES_ON else [])
        for kind in KINDS
        for mode in MODES
    ],
)
def test_any_batch_is_a_place_to_go_on_from(kind: str, mode: str) -> None:
    seed()
    with make(kind, mode) as loader:
        played, states, generators = play(loader)
    assert min(map(len, played)) > 2
    for epoch, batches, state in states:
        rest = [[*played[epoch][batches:]], *played[epoch + 1 :]] if epoch < 2 else []
        if kind == "stateful batch iterator":  # the next epochs are other ones each time
            rest = rest[:1] if batches else []
        got = go_on(lambda: make(kind, mode), json.loads(state), len(rest))
        assert got[0] == rest, (epoch, batches)
        assert got[1] == generators or kind == "stateful batch iterator", (epoch, batches)


def test_a_state_costs_no_batch_and_leaves_the_generators_alone() -> None:
    seed()
    with make("map", "workers") as loader:
        plain = [_bytes(batch) for batch in loader], _generators()
    seed()
    with make("map", "workers") as loader:
        asked = [_bytes(batch) for batch in loader if loader.state_dict()], _generators()
    assert asked == plain


@pytest.mark.parametrize("kind", ["map", "iterable"])
def test_other_process_counts_go_on_with_the_same_bytes(kind: str) -> None:
    seed()
    with make(kind, "persistent", max_processes=None) as loader:
        played, states, generators = play(loader)
    for processes, (epoch, batches, state) in zip((None, 1), (states[4], states[-4]), strict=True):
        rest = [played[epoch][batches:], *played[epoch + 1 :]] if epoch < 2 else []
        got = go_on(lambda: make(kind, "persistent", max_processes=processes), json.loads(state), len(rest))  # noqa: B023
        assert got == (rest, generators), (processes, epoch, batches)


def test_an_iterator_that_was_left_is_gone_on_with_where_it_was_left() -> None:
    for mode in MODES:
        seed()
        with make("map", mode) as loader:
            whole = [_bytes(batch) for batch in loader]
        seed()
        with make("map", mode) as loader:
            for number, _ in enumerate(loader):
                if number == 2:
                    break
            state = loader.state_dict()
        assert go_on(lambda: make("map", mode), state, 1)[0] == [whole[3:]], mode  # noqa: B023


def test_a_state_may_be_loaded_while_an_iterator_lives() -> None:
    for mode in ("workers", "persistent"):
        seed()
        with make("map", mode) as loader:
            whole = [_bytes(batch) for batch in loader]
        seed()
        with make("map", mode) as loader:
            iterator = iter(loader)
            next(iterator)
            state = loader.state_dict()
            next(iterator)
            loader.load_state_dict(state)
            assert [_bytes(batch) for batch in loader] == whole[1:], mode
            assert _bytes(next(iterator)) == whole[2], "the one that lived goes on"


def test_an_epoch_that_was_broken_off_leaves_the_next_one_a_state() -> None:
    seed()
    with make("map", "persistent") as loader:
        next(iter(loader))
        iterator = iter(loader)
        state = loader.state_dict()
        whole = [_bytes(batch) for batch in iterator]
    assert go_on(lambda: make("map", "persistent"), state, 1)[0] == [whole]


def test_more_is_planned_than_a_smaller_window_takes() -> None:
    seed()
    loader = DataLoader(Draws(COUNT), 2, num_workers=2, prefetch_factor=4, shuffle=True, policy=Policy(max_processes=0))
    with loader:
        batches = []
        for batch in loader:
            batches.append(_bytes(batch))
            if len(batches) == 2:
                state = loader.state_dict()
    smaller = lambda: DataLoader(  # noqa: E731
        Draws(COUNT), 2, num_workers=2, prefetch_factor=1, shuffle=True, policy=Policy(max_processes=0)
    )
    assert go_on(smaller, state, 1)[0] == [batches[2:]]


def test_out_of_order_each_sample_comes_once() -> None:
    for received in (0, 1, 4):
        with DataLoader(
            Draws(COUNT), 4, num_workers=2, in_order=False, shuffle=True, policy=Policy(max_processes=1)
        ) as loader:
            iterator = iter(loader)
            seen = [int(i) for _ in range(received) for i in next(iterator)[:, 0]]
            state = loader.state_dict()
        with DataLoader(
            Draws(COUNT), 4, num_workers=2, in_order=False, shuffle=True, policy=Policy(max_processes=0)
        ) as loader:
            loader.load_state_dict(state)
            seen += [int(i) for batch in loader for i in batch[:, 0]]
        assert sorted(seen) == list(range(COUNT))


def test_a_batch_sampler_and_tuples_as_indices() -> None:
    class Pairs(Draws):
        def __getitem__(self, index: Any) -> torch.Tensor:
            return super().__getitem__(index[0] * 4 + index[1])

    pairs = [(np.int64(i), j) for i in range(5) for j in range(4)]
    batches = BatchSampler(pairs, 3, drop_last=True)
    with DataLoader(Pairs(20), batch_sampler=batches, num_workers=1, policy=Policy(max_processes=0)) as loader:
        iterator = iter(loader)
        next(iterator)
        state = json.loads(json.dumps(loader.state_dict()))
        rest = [_bytes(batch) for batch in iterator]
        loader.load_state_dict(state)
        assert [_bytes(batch) for batch in loader] == rest


def test_the_length_of_an_iterable_dataset_is_counted_on() -> None:
    class Sized(IterableDataset[int]):
        def __len__(self) -> int:
            return 8

        def __iter__(self) -> Any:
            return iter(range(8))

    loader = DataLoader(Sized(), 2)
    assert len(loader) == 4
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    other = DataLoader(Sized(), 2)
    assert len(other) == 4
    other.load_state_dict(state)
    assert len(list(other)) == 3
