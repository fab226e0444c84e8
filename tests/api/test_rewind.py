"""``loader.rewind`` and ``loader.reshard``: the iterator that runs goes back, or among other ranks, where it lives."""

from __future__ import annotations

import time
import warnings
from typing import Any

import pytest
import torch

from safeloader import DataLoader, Policy, SettingsError, StateError
from safeloader.distributed import ElasticDistributedSampler
from tests.fixtures_data import Draws
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


def test_a_batch_comes_again_within_50_ms() -> None:
    with make(numbers(), persistent_workers=True) as loader:
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


def test_what_would_not_be_exact_is_refused_and_nothing_has_changed() -> None:
    expected: list[bytes]
    with make(Draws(COUNT)) as straight:
        torch.manual_seed(0)
        expected = got(straight)
    with make(Draws(COUNT)) as loader:
        torch.manual_seed(0)
        batches = iter(loader)
        first = got([next(batches)])
        with pytest.raises(StateError, match="draw random numbers"):
            loader.rewind()
        with pytest.raises(SettingsError, match="rank 3 is none of 2"):
            loader.reshard(2, 3)
        assert first + got(batches) == expected
    with make(numbers(), num_workers=0) as loader:
        next(iter(loader))
        with pytest.raises(StateError, match="the program's own generators"):
            loader.rewind()


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        (lambda: DataLoader(numbers(), 4), "need an ElasticDistributedSampler"),
        (lambda: make(numbers(), in_order=False), "out of order"),
    ],
)
def test_a_loader_whose_place_ranks_do_not_share_is_refused(loader: Any, match: str) -> None:
    made = loader()
    for call in (lambda: made.rewind(), lambda: made.reshard(1, 0)):
        with pytest.raises(SettingsError, match=match):
            call()


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


class Late(Draws):
    """Draws from the fourth batch on."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return super().__getitem__(index) if index >= 16 else torch.tensor(index)


def test_what_was_prefetched_and_has_drawn_is_told() -> None:
    sampler = ElasticDistributedSampler(range(COUNT), 1, 0, shuffle=False, batch_size=4)
    with DataLoader(Late(COUNT), batch_sampler=sampler, num_workers=1, prefetch_factor=8) as loader:
        batches = iter(loader)
        next(batches)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loader.rewind()
        assert next(batches).tolist() == [0, 1, 2, 3]
        assert sum("come with others" in str(warning.message) for warning in caught) == 1
