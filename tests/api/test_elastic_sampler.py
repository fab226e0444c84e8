"""``ElasticDistributedSampler``: whatever the ranks, each sample of an epoch is seen once."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DistributedSampler, WeightedRandomSampler

from safeloader import DataLoader, Policy, SettingsError, StateError
from safeloader.distributed import ElasticDistributedSampler
from safeloader.distributed.order import Feistel, Sorted, _key
from tests.fixtures_data import Draws
from tests.runtime.harness import _bytes

pytestmark = pytest.mark.usefixtures("forked")

CALMLY = settings(deadline=None, derandomize=True, database=None, max_examples=150)
ends_of = st.sampled_from(["pad", "drop", "even"])


def group(
    length: int, world: int, batch: int | None, ends: Any = "pad", **options: Any
) -> list[ElasticDistributedSampler]:
    return [
        ElasticDistributedSampler(range(length), world, rank, ends=ends, batch_size=batch, **options)
        for rank in range(world)
    ]


def flat(items: list[Any]) -> list[int]:
    return [i for item in items for i in (item if isinstance(item, list) else [item])]


@pytest.mark.filterwarnings("ignore:.*samples are left out")
@given(length=st.integers(1, 90), world=st.integers(1, 9), batch=st.integers(1, 6), ends=ends_of, shuffle=st.booleans())
@CALMLY
def test_an_epoch_of_all_ranks_is_the_dataset(length: int, world: int, batch: int, ends: Any, shuffle: bool) -> None:
    if world > length:
        return
    ranks = group(length, world, batch, ends, shuffle=shuffle, seed=3)
    batches = [list(sampler) for sampler in ranks]
    assert len({len(own) for own in batches}) == 1, "all take as many batches"
    assert [len(sampler) for sampler in ranks] == [len(own) for own in batches]
    seen = Counter(i for own in batches for i in flat(own))
    left_out = length - len(seen)
    assert all(1 <= len(b) <= batch for own in batches for b in own)
    if ends == "pad":
        assert left_out == 0
        assert sum(seen.values()) - length < world
    elif ends == "drop":
        assert left_out < world
        assert max(seen.values()) == 1
    else:
        assert max(seen.values(), default=1) == 1
        assert left_out == 0 or (left_out < world and (batch == 1 or length < world * batch))
    again = [list(sampler) for sampler in group(length, world, batch, ends, shuffle=shuffle, seed=3)]
    assert again == batches


@pytest.mark.filterwarnings("ignore:.*samples are left out")
@given(
    length=st.integers(8, 80),
    worlds=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 5)), min_size=2, max_size=4),
    ends=ends_of,
    data=st.data(),
    batched=st.booleans(),
)
@CALMLY
def test_other_ranks_go_on_with_exactly_what_was_not_seen(
    length: int, worlds: list[tuple[int, int]], ends: Any, data: st.DataObject, batched: bool
) -> None:
    seen: list[int] = []
    state: dict[str, Any] | None = None
    order = flat(list(ElasticDistributedSampler(range(length), 1, 0, seed=5)))
    ends = ends if batched else "pad"
    for number, (world, batch) in enumerate(worlds):
        ranks = group(length, world, batch if batched else None, ends, seed=5)
        if state is not None:
            for sampler in ranks:
                sampler.load_state_dict(json.loads(json.dumps(state)))
                assert sampler.state_dict() == state
        iterators = [iter(sampler) for sampler in ranks]
        last = number == len(worlds) - 1
        steps = data.draw(st.integers(0, 12)) if not last else 10_000
        for _ in range(steps):
            step = [list(islice(iterator, 1 if batched else batch)) for iterator in iterators]
            if not any(step):
                break
            assert all(step), "all take as many"
            seen += flat(flat_step(step))
        states = [sampler.state_dict() for sampler in ranks]
        assert all(told == states[0] for told in states)
        state = states[0]
        seen = seen[: state["cursor"]] if ends == "pad" else seen
        assert sorted(seen) == sorted(order[: len(seen)]), "everything before the cursor, each once"
        assert len(seen) <= state["cursor"]
    assert state is not None
    assert state["cursor"] == length
    assert length - len(seen) < (1 if ends == "pad" else max(world for world, _ in worlds))


KINDS: dict[str, tuple[Any, bool]] = {
    "shuffled": (range(97), True),
    "in sequence": (range(97), False),
    "weighted": (WeightedRandomSampler([1.0, 2.0, 3.0] * 40, 97), True),
    "weighted, without replacement": (WeightedRandomSampler([1.0, 2.0, 3.0] * 40, 97, replacement=False), True),
}


@pytest.mark.filterwarnings("ignore:.*samples are left out")
@pytest.mark.parametrize("ends", ["pad", "drop", "even"])
@pytest.mark.parametrize("kind", KINDS)
def test_from_eight_ranks_to_four_to_six_interrupted_at_every_step(kind: str, ends: Any) -> None:
    dataset, shuffle = KINDS[kind]
    order = list(ElasticDistributedSampler(dataset, 1, 0, seed=2, shuffle=shuffle))
    for first in range(8):
        for second in range(9):
            seen: list[int] = []
            state: dict[str, Any] | None = None
            for world, batch, steps in ((8, 2, first), (4, 3, second), (6, 1, 97)):
                ranks = [
                    ElasticDistributedSampler(
                        dataset, world, rank, seed=2, shuffle=shuffle, ends=ends, batch_size=batch
                    )
                    for rank in range(world)
                ]
                for sampler in ranks if state is not None else ():
                    sampler.load_state_dict(state)
                iterators = [iter(sampler) for sampler in ranks]
                for _ in range(steps):
                    step = [next(iterator, None) for iterator in iterators]
                    if step == [None] * world:
                        break
                    assert None not in step, "all take as many batches"
                    seen += flat_step([[own] for own in step])
                states = [sampler.state_dict() for sampler in ranks]
                assert all(told == states[0] for told in states)
                state = json.loads(json.dumps(states[0]))
            exact = seen[:97] if ends == "pad" else seen
            assert exact == order[: len(exact)], (first, second)
            assert len(exact) == 97 if ends == "pad" else 97 - len(exact) < 8


def flat_step(step: list[list[Any]]) -> list[int]:
    """What the ranks took in a step, in the order of positions."""
    own = [flat(items) for items in step]
    return [items[i] for i in range(max(map(len, own))) for items in own if i < len(items)]


def test_without_padding_it_is_one_order_for_all_world_sizes() -> None:
    whole = list(ElasticDistributedSampler(range(24), 1, 0, seed=1))
    for world in (2, 3, 4, 6):
        ranks = [list(sampler) for sampler in group(24, world, None, seed=1)]
        assert [i for together in zip(*ranks, strict=True) for i in together] == whole


def test_each_epoch_and_seed_has_its_own_order_that_never_changes() -> None:
    sampler = ElasticDistributedSampler(range(10), 1, 0)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == [3, 1, 0, 2, 6, 5, 8, 7, 4, 9] or len({tuple(o) for o in orders}) == 3
    assert len({tuple(o) for o in orders}) == 3
    assert list(ElasticDistributedSampler(range(10), 1, 0, seed=1)) not in orders


def test_in_sequence_it_deals_as_torchs_sampler_does() -> None:
    for rank in range(3):
        torchs = DistributedSampler(range(20), 3, rank, shuffle=False)  # type: ignore[arg-type]
        assert list(ElasticDistributedSampler(range(20), 3, rank, shuffle=False)) == list(torchs)


# ---------------------------------------------------------------- quality


@pytest.mark.parametrize("kind", [Sorted, Feistel])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 64, 1000, 4097])
def test_it_is_a_permutation(kind: Any, length: int) -> None:
    order = kind(_key(1, 2, length), length).at(np.arange(length))
    assert sorted(order.tolist()) == list(range(length))


def chi_square(counts: np.ndarray[Any, Any], expected: float) -> float:
    """How many standard deviations the chi-square statistic lies above its mean."""
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    return (statistic - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize(("kind", "length"), [(Sorted, 50), (Feistel, 1 << 12), (Feistel, 5000)])
def test_any_sample_may_come_at_any_place(kind: Any, length: int) -> None:
    """Over many seeds: position against value, the step from one value to the next, and which of two comes first."""
    seeds, cells = 3000 if length == 50 else 400, min(length, 50)
    places, steps = np.zeros((cells, cells)), np.zeros((1, cells))
    first = 0
    for seed in range(seeds):
        order = kind(_key(seed, 0, length), length).at(np.arange(length))
        np.add.at(places, (np.arange(length) * cells // length, order * cells // length), 1)
        np.add.at(steps, (0, (np.diff(order) % length) * cells // length), 1)
        first += int(order[0] < order[1])
    assert abs(chi_square(places, seeds * length / cells**2)) < 5
    steps = steps[:, 1:]  # nothing follows itself
    assert np.abs(steps / steps.mean() - 1).max() < 0.02 + 5 / math.sqrt(steps.mean())
    assert abs(first - seeds / 2) < 5 * math.sqrt(seeds) / 2


def test_neighbours_of_a_large_order_are_strangers() -> None:
    length = 10**9
    order = Feistel(_key(0, 0, length), length).at(np.arange(200_000)).astype(float) / length
    for lag in (1, 2, 1024):
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < 5 / math.sqrt(200_000)
    assert np.abs(np.histogram(order, 100, (0, 1))[0] - 2000).max() < 5 * math.sqrt(2000)


def test_a_billion_samples_begin_at_once_in_little_memory() -> None:
    class Many:
        def __len__(self) -> int:
            return 10**9

    sampler = ElasticDistributedSampler(Many(), 10_000, 9_999)
    list(islice(sampler, 10))
    tracemalloc.start()
    began = time.perf_counter()
    sampler.load_state_dict({**sampler.state_dict(), "cursor": 999_000_000})
    taken = list(islice(iter(sampler), 100))
    took, peak = time.perf_counter() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(taken)) == 100
    assert peak < 4e6
    assert took < 5, "a few milliseconds; generous, as a guard"
    assert len(sampler) == 100_000


# ---------------------------------------------------------------- weights


def test_weights_are_those_of_the_sampler_that_is_wrapped() -> None:
    weights = [1.0, 0.0, 3.0, 6.0]
    ranks = [ElasticDistributedSampler(WeightedRandomSampler(weights, 40_000), 4, rank) for rank in range(4)]  # type: ignore[arg-type]
    drawn = Counter(i for sampler in ranks for i in sampler)
    assert sum(drawn.values()) == 40_000
    for index, weight in enumerate(weights):
        assert abs(drawn[index] - 4000 * weight) <= 5 * math.sqrt(4000 * weight)


def test_without_replacement_each_comes_once_and_the_heavy_come_first() -> None:
    weights = np.arange(1, 101).astype(float)
    firsts = []
    for seed in range(300):
        sampler = ElasticDistributedSampler(
            WeightedRandomSampler(weights.tolist(), 60, replacement=False), 1, 0, seed=seed
        )  # type: ignore[arg-type]
        drawn = list(sampler)
        assert len(set(drawn)) == 60
        firsts.append(drawn[0])
    expected = float((weights * np.arange(100)).sum() / weights.sum())
    assert abs(np.mean(firsts) - expected) < 5 * 24 / math.sqrt(300)


def test_weighted_draws_go_on_elsewhere_too() -> None:
    wrapped: Any = WeightedRandomSampler([1, 2, 3, 4], 37)
    whole = list(ElasticDistributedSampler(wrapped, 1, 0))
    two = [ElasticDistributedSampler(wrapped, 2, rank) for rank in range(2)]
    seen = [i for pair in islice(zip(*two, strict=True), 7) for i in pair]
    three = [ElasticDistributedSampler(wrapped, 3, rank) for rank in range(3)]
    for sampler in three:
        sampler.load_state_dict(two[1].state_dict())
    seen += [i for triple in zip(*three, strict=True) for i in triple]
    assert seen[:37] == whole


# ---------------------------------------------------------------- with the loader


def make(world: int, rank: int, batch: int, workers: int, as_batches: bool, keyed: bool = True) -> DataLoader[Any]:
    policy = Policy(sample_rng=keyed, max_processes=0)
    if as_batches:
        sampler = ElasticDistributedSampler(Draws(50), world, rank, batch_size=batch, ends="even")
        return DataLoader(Draws(50), batch_sampler=sampler, num_workers=workers, policy=policy)
    return DataLoader(
        Draws(50), batch, sampler=ElasticDistributedSampler(Draws(50), world, rank), num_workers=workers, policy=policy
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("as_batches", [False, True])
def test_the_loaders_state_goes_from_eight_ranks_to_four_to_six(workers: int, as_batches: bool) -> None:
    torch.manual_seed(1)
    alone = make(1, 0, 50, 0, False)
    whole = {int(row[0]): row.tolist() for batch in alone for row in batch}
    torch.manual_seed(1)
    rows: list[list[int]] = []
    state: dict[str, Any] | None = None
    for world, batch, steps in ((8, 2, 1), (4, 3, 2), (6, 2, 99)):
        loaders = [make(world, rank, batch, workers, as_batches) for rank in range(world)]
        for loader in loaders:
            if state is not None:
                loader.load_state_dict(state)
        iterators = [iter(loader) for loader in loaders]
        for _ in range(steps):
            batches = [next(iterator, None) for iterator in iterators]
            rows += [row.tolist() for batch_ in batches if batch_ is not None for row in batch_]
        states = [loader.state_dict() for loader in loaders]
        assert len({json.dumps(told["sampler"]) for told in states}) == 1
        state = json.loads(json.dumps(states[world - 1]))
        for loader in loaders:
            loader.close()
    assert {row[0] for row in rows} == set(range(50))
    assert len(rows) - 50 < (1 if as_batches else 6)
    assert all(row == whole[row[0]] for row in rows), "augmentation depends on the sample alone"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("as_batches", [False, True])
def test_the_same_ranks_go_on_with_the_same_bytes(workers: int, as_batches: bool) -> None:
    torch.manual_seed(1)
    with make(2, 1, 4, workers, as_batches, keyed=False) as loader:
        played, states = [], [loader.state_dict()]
        iterator = iter(loader)
        states.append(loader.state_dict())
        for batch in iterator:
            played.append(_bytes(batch))
            states.append(loader.state_dict())
        states.append(loader.state_dict())
        loader.set_epoch(1)
        following = [_bytes(batch) for batch in loader]
    assert len(played) > 4
    for number, state in enumerate(states):
        torch.manual_seed(99)
        with make(2, 1, 4, workers, as_batches, keyed=False) as loader:
            loader.load_state_dict(state)
            rest = played[max(number - 1, 0) :]
            if number < len(states) - 1:
                assert [_bytes(batch) for batch in loader] == rest
            loader.set_epoch(1)
            assert [_bytes(batch) for batch in loader] == following


# ---------------------------------------------------------------- ranks, and what is wrong


def test_ranks_are_those_of_torch_distributed_where_it_runs(tmp_path: Any) -> None:
    assert (ElasticDistributedSampler(range(3)).num_replicas, ElasticDistributedSampler(range(3)).rank) == (1, 0)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert ElasticDistributedSampler(range(3)).num_replicas == 1
        with DataLoader(range(3), sampler=ElasticDistributedSampler(range(3))) as loader:  # type: ignore[arg-type]
            assert loader.state_dict()["facts"]["ranks"] == [0, 1]
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_replicas": 11, "rank": 0}, "11 ranks and only 10 samples"),
        ({"num_replicas": 2, "rank": 2}, "rank 2 is none of 2 ranks"),
        ({"ends": "even"}, "needs batch_size"),
        ({"ends": "odd"}, "ends must be"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"dataset": WeightedRandomSampler([1.0, -1.0], 2)}, "none below zero"),
        ({"dataset": WeightedRandomSampler([1.0, 0.0], 2, replacement=False)}, "2 samples without replacement, of 1"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        ElasticDistributedSampler(**{"dataset": range(10), **arguments})


def test_the_state_of_another_order_is_refused() -> None:
    sampler = ElasticDistributedSampler(range(10), 2, 0)
    good = sampler.state_dict()
    for wrong, words in (
        ({}, "no state of"), ([], "no state of"), ({**good, "elastic": 2}, "of this version"),
        ({**good, "length": 11}, "length was 11 and is 10"), ({**good, "seed": 1}, "seed was 1"),
        ({**good, "shuffle": False}, "shuffle was False"), ({**good, "weighted": [3, True]}, "weighted was"),
        ({**good, "cursor": 11}, "damaged"), ({**good, "cursor": None}, "damaged"),
    ):  # fmt: skip
        with pytest.raises(StateError, match=words):
            sampler.load_state_dict(wrong)  # type: ignore[arg-type]
        assert sampler.state_dict() == good


def test_out_of_order_there_is_no_such_state() -> None:
    loader = DataLoader(
        Draws(9),
        2,
        sampler=ElasticDistributedSampler(Draws(9)),
        num_workers=1,
        in_order=False,
        policy=Policy(max_processes=0),
    )
    with loader:
        next(iter(loader))
        with pytest.raises(StateError, match="out of order"):
            loader.state_dict()


def test_what_cannot_be_even_is_left_out_with_a_warning() -> None:
    sampler = ElasticDistributedSampler(range(7), 3, 0, ends="even", batch_size=1)
    with pytest.warns(UserWarning, match="1 samples are left out"):
        assert len(list(sampler)) == 2


# ---------------------------------------------------------------- for frameworks


@pytest.mark.parametrize("batch_size", [None, 4])
def test_frameworks_take_it_for_a_distributed_sampler_of_torch_s(batch_size: int | None) -> None:
    """They put one in where they find none: where a sampler goes, and where a batch_sampler goes."""
    sampler = ElasticDistributedSampler(range(30), 4, 1, batch_size=batch_size)
    theirs = torch.utils.data.DistributedSampler(range(30), 4, 1)  # type: ignore[arg-type]
    assert isinstance(sampler, torch.utils.data.DistributedSampler)
    for name in ("num_replicas", "rank", "num_samples", "total_size", "seed", "epoch", "drop_last", "dataset"):
        assert getattr(sampler, name) == getattr(theirs, name), name
    given: dict[str, Any] = {"sampler": sampler, "batch_size": 4} if batch_size is None else {"batch_sampler": sampler}
    loader = DataLoader(range(30), **given)  # type: ignore[arg-type]
    assert loader.sampler is sampler
    loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
    assert sampler.epoch == 3
    assert sum(len(batch) for batch in loader) == 8
