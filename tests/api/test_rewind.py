"""``loader.rewind`` and ``loader.reshard``: the iterator that runs goes back, or among other ranks, where it lives."""

from __future__ import annotations

import time
import warnings
from typing import Any

import pytest
import torch

from safeloader import DataLoader, Policy, SettingsError, StateError, WorkerPool
from safeloader.distributed import ElasticDistributedSampler
from tests.fixtures_data import Draws, Stream
from tests.runtime.harness import _bytes, processes_of

pytestmark = [pytest.mark.usefixtures("forked"), pytest.mark.filterwarnings("ignore:.*nobody has called set_epoch")]

KEYED = Policy(sample_rng=True)
COUNT = 48


def make(dataset: Any, ranks: tuple[int, int] = (1, 0), **more: Any) -> DataLoader[Any]:
    sampler = ElasticDistributedSampler(range(COUNT), *ranks, batch_size=more.pop("batch_size", 4))
    return DataLoader(dataset, batch_sampler=sampler, **{"num_workers": 2, **more})


def numbers() -> torch.Tensor:
    return torch.arange(COUNT)


def got(batches: Any) -> list[bytes]:
    return [_bytes(batch) for batch in batches]


WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "no randomness": (numbers, {}),
    "persistent": (numbers, {"persistent_workers": True}),
    "keyed": (lambda: Draws(COUNT), {"policy": KEYED}),
    "keyed, no workers": (lambda: Draws(COUNT), {"policy": KEYED, "num_workers": 0}),
    "in the trainer": (lambda: Draws(COUNT), {"policy": Policy(sample_rng=True, max_processes=0)}),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_last_batches_come_again_to_the_byte_and_then_the_rest(way: str) -> None:
    dataset, more = WAYS[way]
    torch.manual_seed(0)
    with make(dataset(), **more) as straight:
        expected = got(straight)
    torch.manual_seed(0)
    with make(dataset(), **more) as loader:
        batches = iter(loader)
        assert got(next(batches) for _ in range(5)) == expected[:5]
        pids = [process.pid for process in processes_of(loader)]
        loader.rewind(2)
        assert _bytes(next(batches)) == expected[3]
        loader.rewind()
        loader.rewind(0)
        assert got(next(batches) for _ in range(3)) == expected[3:6]
        state = loader.state_dict()
        assert [process.pid for process in processes_of(loader)] == pids, "they live"
        assert got(batches) == expected[6:]
        loader.load_state_dict(state)
        assert got(loader) == expected[6:], "a state that is taken after going back"
        following = got(loader)
    assert len(following) == len(expected)


@pytest.mark.parametrize("any_sampler", [False, True])
def test_a_batch_comes_again_within_50_ms(any_sampler: bool) -> None:
    made = plainly(shuffle=True) if any_sampler else make(numbers(), persistent_workers=True)
    with made as loader:
        batches, took = iter(loader), []
        for _ in range(5):
            batch = next(batches)
            begun = time.perf_counter()
            loader.rewind()
            again = next(batches)
            took.append(time.perf_counter() - begun)
            assert torch.equal(batch, again)
        assert min(took) < 0.05


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("now", [1, 2, 3])
def test_ranks_that_come_and_go_share_what_none_has_got(now: int, workers: int) -> None:
    ranks = [make(numbers(), (2, rank), num_workers=workers) for rank in range(2)]
    running = [iter(loader) for loader in ranks]
    seen = [index for batches in running for _ in range(2) for index in next(batches).tolist()]
    if now == 3:  # a third rank begins where the others stand
        ranks.append(make(numbers(), (2, 0), num_workers=workers))
        ranks[2].batch_sampler.load_state_dict(ranks[0].state_dict()["sampler"]["state"])  # type: ignore[union-attr]
    pids = [[process.pid for process in processes_of(loader)] for loader in ranks[:2]]
    for rank in range(now):
        ranks[rank].reshard(now, rank)
    assert [[process.pid for process in processes_of(loader)] for loader in ranks[:2]] == pids, "they live"
    running = [*running, *(iter(loader) for loader in ranks[2:])][:now]
    left = [index for batches in running for batch in batches for index in batch.tolist()]
    assert set(seen) | set(left) == set(range(COUNT))
    assert len(seen) + len(left) - COUNT < now, "what pads the last batches"
    for loader in ranks:
        loader.close()


def test_an_epoch_that_is_over_and_one_that_has_not_begun_are_resharded() -> None:
    with make(numbers(), (2, 0)) as loader:
        loader.reshard(4, 1)
        assert [index for batch in loader for index in batch.tolist()] == [
            index for batch in ElasticDistributedSampler(range(COUNT), 4, 1, batch_size=4) for index in batch
        ]
        loader.reshard(1, 0)
        assert sorted(index for batch in loader for index in batch.tolist()) == list(range(COUNT))
        loader.rewind(2)
        assert len(list(loader)) == 2
        assert len(list(loader)) == 12


ANY: dict[str, dict[str, Any]] = {
    "shuffled": {"shuffle": True},
    "persistent": {"shuffle": True, "persistent_workers": True},
    "a list of batches": {"batch_size": 1, "batch_sampler": [[i, i + 1] for i in range(0, COUNT, 2)]},
    "single samples": {"batch_size": None, "shuffle": True},
    "more ahead": {"shuffle": True, "prefetch_factor": 5},
    "one process for two workers": {"policy": Policy(max_processes=1)},
    "in the trainer": {"policy": Policy(max_processes=0)},
    "keyed": {"shuffle": True, "policy": KEYED},
    "keyed, no workers": {"shuffle": True, "policy": KEYED, "num_workers": 0},
}


def plainly(**more: Any) -> DataLoader[Any]:
    torch.manual_seed(0)
    return DataLoader(Draws(COUNT), **{"batch_size": 4, "num_workers": 2, **more})


@pytest.mark.parametrize("way", ANY)
def test_with_any_sampler_what_draws_random_numbers_comes_again_to_the_byte(way: str) -> None:
    with plainly(**ANY[way]) as straight:
        expected, following = got(straight), got(straight)
    with plainly(**ANY[way]) as loader:
        batches = iter(loader)
        assert got(next(batches) for _ in range(7)) == expected[:7]
        pids = [process.pid for process in processes_of(loader)]
        for back in (1, 2, 7, 4):
            loader.rewind(back)
            assert got(next(batches) for _ in range(back)) == expected[7 - back : 7]
        loader.rewind(3)
        state = loader.state_dict()
        assert _bytes(next(batches)) == expected[4]
        loader.rewind(2)
        assert [process.pid for process in processes_of(loader)] == pids, "they live"
        assert got(batches) == expected[3:]
        assert got(loader) == following
    with plainly(**ANY[way]) as other:
        other.load_state_dict(state)
        assert got(other) == expected[4:], "a state that is taken after going back"


def test_without_order_the_same_batches_come_again() -> None:
    with plainly(shuffle=True, in_order=False) as loader:
        batches = iter(loader)
        first = [next(batches) for _ in range(5)]
        loader.rewind(3)
        rest = list(batches)
        assert set(got(first[2:])) <= set(got(rest))
        assert sorted(index for batch in first[:2] + rest for index in batch[:, 0].tolist()) == list(range(COUNT))


def test_in_a_pool() -> None:
    with plainly(shuffle=True) as straight:
        expected = got(straight)
    with WorkerPool(processes=1) as pool, plainly(shuffle=True, policy=Policy(pool=pool)) as loader:
        batches = iter(loader)
        assert got(next(batches) for _ in range(4)) == expected[:4]
        loader.rewind(3)
        assert got(batches) == expected[1:]


@pytest.mark.parametrize("shadow", [False, True])
def test_a_process_that_is_lost_after_going_back_loses_nothing(shadow: bool) -> None:
    with plainly(shuffle=True) as straight:
        expected = got(straight)
    with plainly(shuffle=True, policy=Policy(shadow=shadow)) as loader:
        batches = iter(loader)
        for first, back in ((0, 2), (1, 1)):
            assert got(next(batches) for _ in range(3)) == expected[first : first + 3]
            loader.rewind(back)
            for process in processes_of(loader):
                process.kill()
        assert got(batches) == expected[3:]
        assert loader.report().faults


class Own(Draws):
    """Draws from a generator of its own, too."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.generator = torch.Generator().manual_seed(3)

    def __getitem__(self, index: int) -> torch.Tensor:
        return super().__getitem__(index) + torch.rand((), generator=self.generator)


class Late(Own):
    """It makes its generator when it loads its first sample."""

    def __getitem__(self, index: int) -> torch.Tensor:
        if not hasattr(self, "late"):
            self.late = torch.Generator().manual_seed(5)
        return super().__getitem__(index) + torch.rand((), generator=self.late)


def draw(worker: int) -> None:
    """A ``worker_init_fn`` that moves the worker's generators, and the one that its dataset holds."""
    torch.utils.data.get_worker_info().dataset[worker]  # type: ignore[union-attr]


@pytest.mark.parametrize("init", [None, draw])
@pytest.mark.parametrize("processes", [None, 1, 0])
def test_generators_that_the_dataset_holds_go_back_as_well(processes: int | None, init: Any) -> None:
    policy = Policy(max_processes=processes)
    with DataLoader(Own(COUNT), 4, num_workers=2, worker_init_fn=init, policy=policy) as loader:
        torch.manual_seed(0)
        batches = iter(loader)
        first = got(next(batches) for _ in range(6))
        loader.rewind(6)
        assert got(next(batches) for _ in range(6)) == first


@pytest.mark.parametrize("processes", [1, 0])
def test_one_that_was_made_since_is_told(processes: int) -> None:
    with DataLoader(Late(COUNT), 4, num_workers=1, policy=Policy(max_processes=processes)) as loader:
        torch.manual_seed(0)
        batches = iter(loader)
        first = got(next(batches) for _ in range(3))
        loader.rewind(2)
        assert got(next(batches) for _ in range(2)) == first[1:]
        loader.rewind(3)
        next(batches)
        assert [event for event in loader.report().replays if event.outcome == "missing"]


class Counting(Draws):
    """Counts what it loads, where that is asked for only."""

    loaded = 0

    def __getitem__(self, index: int) -> torch.Tensor:
        self.loaded += 1
        return super().__getitem__(index)


def test_a_dataset_that_has_changed_in_itself_is_told() -> None:
    with plainly() as plain, warnings.catch_warnings():
        warnings.simplefilter("error")
        batches = iter(plain)
        next(batches)
        plain.rewind()
    with DataLoader(Counting(COUNT), 4, num_workers=1, policy=Policy(shadow=False)) as loader:
        batches = iter(loader)
        for _ in range(4):
            next(batches)
        with pytest.warns(UserWarning, match="has changed in itself"):
            loader.rewind()


def test_what_would_not_be_exact_is_refused_and_nothing_has_changed() -> None:
    with make(Draws(COUNT)) as straight:
        torch.manual_seed(0)
        expected = got(straight)
    with make(Draws(COUNT)) as loader:
        torch.manual_seed(0)
        batches = iter(loader)
        first = got([next(batches)])
        with pytest.raises(SettingsError, match="rank 3 is none of 2"):
            loader.reshard(2, 3)
        assert first + got(batches) == expected
        with pytest.raises(StateError, match="draw random numbers"):
            loader.rewind()
    with make(numbers(), num_workers=0) as loader:
        next(iter(loader))
        with pytest.raises(StateError, match="the program's own generators"):
            loader.rewind()
    with DataLoader(Stream(COUNT), 4, num_workers=1) as loader:
        next(iter(loader))
        with pytest.raises(SettingsError, match="a stream is not read backwards"):
            loader.rewind()
    with plainly() as loader:
        list(loader)
        with pytest.raises(SettingsError, match="into an epoch that is over"):
            loader.rewind()


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        (lambda: DataLoader(numbers(), 4), "need an ElasticDistributedSampler"),
        (lambda: make(numbers(), in_order=False), "out of order"),
    ],
)
def test_a_loader_whose_place_ranks_do_not_share_is_not_resharded(loader: Any, match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        loader().reshard(1, 0)


def test_further_back_than_is_known_is_refused() -> None:
    with make(numbers(), batch_size=1) as loader:
        with pytest.raises(StateError, match="no batch has been got"):
            loader.rewind()
        batches = iter(loader)
        for _ in range(20):
            next(batches)
        for much in (17, 21):
            with pytest.raises(StateError, match="further than is known"):
                loader.rewind(much)
        for nonsense in (-1, True):
            with pytest.raises(ValueError, match="batches must be"):
                loader.rewind(nonsense)
        loader.rewind(16)
        with pytest.raises(StateError, match="further than is known"):
            loader.rewind(1)
