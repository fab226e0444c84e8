"""``Policy(sample_rng=True)`` and ``set_epoch``: what a sample draws depends on (seed, epoch, index) alone."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DistributedSampler, Subset
from torch.utils.data import DataLoader as TorchLoader

from safeloader import DataLoader, Policy
from safeloader.runtime.child.sample_rng import Keyed, key, mix64, seed_sample
from tests.api.state_data import ToldEpoch
from tests.fixtures_data import Draws, DrawsAtOnce, Orders, Stream
from tests.runtime.harness import _bytes, _generators, seed

pytestmark = pytest.mark.usefixtures("forked")

Samples = dict[int, tuple[int, ...]]


def make(workers: int, dataset: Any = None, **options: Any) -> DataLoader[Any]:
    policy = Policy(sample_rng=True, max_processes=options.pop("max_processes", 0))
    return DataLoader(dataset or Draws(21), 4, num_workers=workers, policy=policy, **options)


def samples(loader: DataLoader[Any]) -> Samples:
    return {int(row[0]): tuple(row.tolist()) for batch in loader for row in batch}


def test_what_a_sample_draws_depends_on_nobody_else() -> None:
    seed()
    with make(0) as loader:
        epochs = [samples(loader), samples(loader)]
    assert epochs[0] != epochs[1]
    assert len({row[1:] for row in epochs[0].values()}) == 21
    for options in (
        {"workers": 1},
        {"workers": 2},
        {"workers": 2, "persistent_workers": True},
        {"workers": 2, "shuffle": True},
    ):
        seed()
        with make(**options) as loader:  # type: ignore[arg-type]
            assert [samples(loader), samples(loader)] == epochs, options
    ranked: Samples = {}
    for rank in range(3):
        torch.manual_seed(1000)
        sampler = DistributedSampler(Draws(21), 3, rank, seed=int(torch.initial_seed()))
        with make(2, sampler=sampler) as loader:
            ranked |= samples(loader)
    assert ranked == epochs[0]


def test_a_kill_changes_nothing_of_that(tmp_path: Path) -> None:
    orders = Orders(tmp_path)
    seed()
    with make(0) as loader:
        expected = [samples(loader), samples(loader)]
    orders.give("sample", 9, "SIGKILL")
    seed()
    with make(2, Draws(21, orders), max_processes=None, persistent_workers=True) as loader:
        first = samples(loader)
        orders.give("sample", 14, "SIGKILL")
        assert [first, samples(loader)] == expected
        assert len(loader.report().faults) == 2


def test_the_main_process_keeps_its_generators() -> None:
    seed()
    plain = [_bytes(batch) for batch in TorchLoader(range(9), 3)], _generators()  # type: ignore[arg-type]
    seed()
    keyed = [_bytes(batch) for batch in DataLoader(range(9), 3, policy=Policy(sample_rng=True))], _generators()  # type: ignore[arg-type]
    assert keyed == plain


def test_a_dataset_with_getitems_is_asked_sample_by_sample() -> None:
    seed()
    with make(0) as loader:
        expected = samples(loader)
    for workers in (0, 2):
        seed()
        with make(workers, DrawsAtOnce(21)) as loader:
            assert samples(loader) == expected


def test_an_iterable_dataset_is_left_as_it_is() -> None:
    seed()
    with make(2, Stream(20)) as loader:
        keyed = [_bytes(batch) for batch in loader]
    seed()
    with DataLoader(Stream(20), 4, num_workers=2, policy=Policy(max_processes=0)) as loader:
        assert [_bytes(batch) for batch in loader] == keyed


@pytest.mark.parametrize(("before", "after"), [(2, 0), (0, 2), (2, 1), (1, 2)])
def test_a_state_goes_on_with_another_number_of_workers(before: int, after: int) -> None:
    seed()
    with make(before, shuffle=True) as loader:
        whole = [_bytes(batch) for batch in loader]
        following = [_bytes(batch) for batch in loader]
    for batches in range(len(whole)):
        seed()
        with make(before, shuffle=True) as loader:
            iterator = iter(loader)
            for _ in range(batches):
                next(iterator)
            state = json.loads(json.dumps(loader.state_dict()))
        torch.manual_seed(5)
        with make(after, shuffle=True) as loader:
            loader.load_state_dict(state)
            assert [_bytes(batch) for batch in loader] == whole[batches:]
            assert samples(loader).keys() == set(range(21))
    assert len(following) == len(whole)


def test_the_key_is_a_function_of_its_parts_and_spreads() -> None:
    keys = {key(s, e, i) for s in range(10) for e in range(10) for i in range(100)}
    assert len(keys) == 10_000
    assert key(1, 2, 3) == key(1, 2, np.int64(3)) == key(1, 2, torch.tensor(3))
    assert len({key(0, 0, i) for i in (3, "3", (3,), (3, 0), -3, 2**70)}) == 6
    bits = np.array([[k >> b & 1 for b in range(64)] for k in sorted(keys)])
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.03  # six standard deviations


# ---------------------------------------------------------------- set_epoch


@pytest.mark.parametrize(
    "dataset", [ToldEpoch(8), Subset(ToldEpoch(8), range(8)), ConcatDataset([ToldEpoch(4), ToldEpoch(4)])]
)
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_the_epoch_reaches_sampler_and_dataset_copies(dataset: Any, workers: int, persistent: bool) -> None:
    sampler = DistributedSampler(dataset, 1, 0)
    loader = DataLoader(
        dataset,
        2,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=persistent,
        policy=Policy(max_processes=min(workers, 1)),
    )
    with loader:
        for epoch in (0, 7, 3):
            loader.set_epoch(epoch)
            assert sampler.epoch == epoch
            assert {int(told) for batch in loader for told in batch[:, 1]} == {epoch}


def test_the_epoch_reaches_a_process_that_took_over() -> None:
    loader = DataLoader(ToldEpoch(8), 2, num_workers=1, persistent_workers=True, policy=Policy())
    with loader:
        loader.set_epoch(4)
        list(loader)
        loader.set_epoch(5)
        iterator = iter(loader)
        next(iterator)
        for process in loader._safe.iterators.__iter__().__next__()._driver.processes.values():
            process.kill()
        assert {int(told) for batch in iterator for told in batch[:, 1]} == {5}


def test_the_epoch_is_that_of_sample_rng_and_of_the_state() -> None:
    torch.manual_seed(3)
    with make(2) as loader:
        loader.set_epoch(6)
        sixth, seventh = samples(loader), samples(loader)
        assert loader.state_dict()["epoch"] == 7
    torch.manual_seed(3)
    with make(0) as loader:
        loader.set_epoch(7)
        assert samples(loader) == seventh != sixth


@pytest.mark.parametrize("epoch", [-1, 1.5, "1"])
def test_nonsense_is_no_epoch(epoch: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        make(0).set_epoch(epoch)


def test_a_distributed_sampler_that_nobody_tells_the_epoch_is_warned_of_once() -> None:
    for workers, persistent in ((0, False), (2, True)):
        dataset = Draws(8)
        loader = DataLoader(
            dataset, 2, sampler=DistributedSampler(dataset, 2, 0), num_workers=workers,
            persistent_workers=persistent, policy=Policy(max_processes=0),
        )  # fmt: skip
        with loader:
            list(loader)
            with pytest.warns(UserWarning, match="nobody has called set_epoch") as caught:
                epochs = [list(loader), list(loader)]
            assert len(epochs) == 2
            assert len(caught) == 1
            assert caught[0].filename == __file__


def test_who_shuffles_nothing_or_calls_set_epoch_is_not_warned() -> None:
    dataset = Draws(8)
    for sampler in (DistributedSampler(dataset, 2, 0, shuffle=False), DistributedSampler(dataset, 2, 0)):
        loader = DataLoader(dataset, 2, sampler=sampler)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            list(loader)


@pytest.mark.parametrize(
    "indices",
    [[0, 1, 5, 5, 2**62, 2**63 - 1], [3], [2**63, 1], [-1, 1], [True, 1], [np.int64(4), 5], ["a", 1], []],
    ids=["numbers", "one", "large", "negative", "bool", "of numpy", "text", "none"],
)
def test_samples_that_are_prepared_find_the_same_generators(indices: list[Any]) -> None:
    class States:
        def __getitem__(self, index: Any) -> Any:
            return _generators()

    keyed = Keyed(States(), 2**64 - 3, 7).prepared(indices)
    for index in indices:
        random.gauss(0, 1)  # keeps its second number for the next time
        found = keyed[index]
        seed_sample(2**64 - 3, 7, index)
        assert found == _generators()
        first = random.random()
        random.seed(random_seed(index))
        assert first == random.random()


def random_seed(index: Any) -> int:
    return mix64(key(2**64 - 3, 7, index) + 0x9E3779B97F4A7C15)
