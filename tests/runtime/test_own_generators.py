"""Random generators that a dataset holds: after any fault, and at any rung, the bytes are torch's."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Sampler

from safeloader import Policy, WorkerPool
from tests.fixtures_data import Draws, Orders
from tests.runtime import own_data as own
from tests.runtime.harness import _bytes, kill_all, processes_of, seed
from tests.runtime.unshadowed import DataLoader

pytestmark = pytest.mark.usefixtures("forked")

TRANSFORMS = {**{f"a {kind}": lambda kind=kind: own.Jitter(own.KINDS[kind]()) for kind in own.KINDS}, **own.PLACES}
SEVERAL = ["a PCG64", "a torch", "two places", "the module", "the first sample"]
QUICK = Policy(batch_timeout=1.5, max_restarts=1000)


def torchs(dataset: Any, epochs: int = 1, **options: Any) -> list[bytes]:
    """What torch's own workers give; forked, since torch cannot send each kind of generator to a spawned one."""
    loader = TorchLoader(dataset, 4, num_workers=2, multiprocessing_context="fork", **options)
    return taken(loader, epochs)


@functools.cache
def reference(transform: str, kind: type[Any] = own.Own, epochs: int = 1) -> list[bytes]:
    return torchs(kind(TRANSFORMS[transform]()), epochs, persistent_workers=epochs > 1)


def taken(loader: Any, epochs: int = 1) -> list[bytes]:
    seed()
    return [_bytes(batch) for _ in range(epochs) for batch in loader]


def killed_at(loader: Any, *batches: int) -> list[bytes]:
    """All processes are killed after these batches."""
    seed()
    got = []
    for number, batch in enumerate(loader):
        got.append(_bytes(batch))
        if number in batches:
            kill_all(loader)
    return got


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_generator_that_a_dataset_holds_goes_on_after_its_process_was_killed(transform: str) -> None:
    with DataLoader(own.Own(TRANSFORMS[transform]()), 4, num_workers=2, policy=QUICK) as loader:
        assert killed_at(loader, 2, 7) == reference(transform)
        assert len(loader.report().faults) >= 2
        assert loader.report().replays == []


# Each fault with one of them; the others, which cost a deadline each, are slow.
@pytest.mark.parametrize(
    ("deed", "transform"),
    [
        *(("SIGKILL", transform) for transform in SEVERAL),
        ("sleep", "a PCG64"),
        ("SIGSTOP", "the module"),
        *(
            pytest.param(deed, transform, marks=pytest.mark.slow)
            for deed in ("sleep", "SIGSTOP")
            for transform in SEVERAL
            if (deed, transform) not in (("sleep", "a PCG64"), ("SIGSTOP", "the module"))
        ),
    ],
)
def test_it_goes_on_after_any_fault_in_a_sample(transform: str, deed: str, orders: Orders) -> None:
    orders.give("sample", 9, deed)
    orders.give("sample", 30, deed)
    dataset = own.Own(TRANSFORMS[transform](), orders=orders)
    with DataLoader(dataset, 4, num_workers=2, policy=QUICK) as loader:
        assert taken(loader) == reference(transform)
        assert len(loader.report().faults) == 2


@pytest.mark.parametrize(
    "transform", ["a PCG64", "a Random", "the module", "the class", "the first sample of each class", "two places"]
)
def test_it_goes_on_at_every_rung_and_back(transform: str) -> None:
    policy = Policy(batch_timeout=1.5, max_restarts=0, recover_after=3)
    with DataLoader(own.Own(TRANSFORMS[transform]()), 4, num_workers=2, policy=policy) as loader:
        assert killed_at(loader, 1) == reference(transform)
        report = loader.report()
        assert report.fallbacks >= 1
        assert report.recoveries >= 1


@pytest.mark.parametrize("most", [0, 1])
@pytest.mark.parametrize("transform", ["a RandomState", "the module", "the class", "a partial"])
def test_two_workers_in_one_process_or_in_the_trainer_share_none(transform: str, most: int) -> None:
    policy = Policy(max_processes=most)
    with DataLoader(own.Own(TRANSFORMS[transform]()), 4, num_workers=2, policy=policy) as loader:
        assert taken(loader) == reference(transform)


def test_what_the_trainer_itself_draws_with_is_put_back_at_rung_0() -> None:
    before = own.MODULES.bit_generator.state, own.OfTheClass.generator.getstate()
    for transform in ("the module", "the class"):
        with DataLoader(own.Own(TRANSFORMS[transform]()), 4, num_workers=2, policy=Policy(max_processes=0)) as loader:
            taken(loader)
    assert (own.MODULES.bit_generator.state, own.OfTheClass.generator.getstate()) == before


@pytest.mark.parametrize("transform", ["a PCG64", "a RandomState", "two places", "the module", "the first sample"])
def test_a_stream_goes_on_with_it(transform: str) -> None:
    with DataLoader(own.OwnStream(TRANSFORMS[transform]()), 4, num_workers=2, persistent_workers=True) as loader:
        assert killed_at(loader, 3) == reference(transform, own.OwnStream)
        assert {(r.outcome, r.compared == r.of > 0) for r in loader.report().replays} == {("same", True)}


@pytest.mark.parametrize("transform", ["a PCG64", "a Random"])
def test_epochs_of_living_workers_go_on_with_it(transform: str) -> None:
    with DataLoader(own.OwnStream(TRANSFORMS[transform]()), 4, num_workers=2, persistent_workers=True) as loader:
        seed()
        got = []
        for _ in range(3):
            for number, batch in enumerate(loader):
                got.append(_bytes(batch))
                if number == 5:
                    kill_all(loader)
        assert got == reference(transform, own.OwnStream, 3)


@pytest.mark.parametrize("options", [{"collate_fn": own.CollateDraws()}, {"worker_init_fn": own.give_generator}])
def test_one_in_the_collate_function_or_made_by_worker_init_fn_goes_on(options: dict[str, Any]) -> None:
    dataset = own.Own(own.Jitter(own.KINDS["PCG64"]()))
    with DataLoader(dataset, 4, num_workers=2, **options) as loader:
        assert killed_at(loader, 2, 6) == torchs(dataset, **options)


def test_one_without_a_seed_gives_no_number_twice() -> None:
    dataset = own.Own(None)
    with DataLoader(dataset, 4, num_workers=2, worker_init_fn=own.give_unseeded) as loader:
        seen = []
        for number, batch in enumerate(loader):
            seen += batch[:, 1].tolist()
            if number in (2, 5):
                kill_all(loader)
        assert len(set(seen)) == len(seen)


def test_a_stream_with_one_without_a_seed_comes_again_as_it_was() -> None:
    with DataLoader(own.OwnStream(None), 4, num_workers=2, worker_init_fn=own.give_unseeded) as loader:
        killed_at(loader, 5)
        assert {replay.outcome for replay in loader.report().replays} == {"same"}


@pytest.mark.parametrize("options", [{"standby": 1}, {"start_method": "spawn"}, {"sample_rng": True}], ids=str)
def test_other_ways_to_have_processes(options: dict[str, Any]) -> None:
    policy = Policy(batch_timeout=20, **options)
    expected = reference("the module")
    with DataLoader(own.Own(own.of_the_module), 4, num_workers=2, policy=policy) as loader:
        got = killed_at(loader, 2)
    column = 1 if "sample_rng" in options else None  # the other one is not torch's there
    assert [row(batch, column) for batch in got] == [row(batch, column) for batch in expected]


def row(batch: bytes, column: int | None) -> Any:
    numbers = np.frombuffer(batch.partition(b"|")[2], dtype=np.int64).reshape(-1, 3)
    return (numbers if column is None else numbers[:, column]).tolist()


def test_two_loaders_of_a_pool_share_none() -> None:
    transforms = {name: TRANSFORMS[name]() for name in ("the module", "a PCG64")}
    with WorkerPool(2) as pool:
        loaders = {
            name: DataLoader(own.Own(t), 4, num_workers=2, policy=Policy(pool=pool), persistent_workers=True)
            for name, t in transforms.items()
        }
        got: dict[str, list[bytes]] = {name: [] for name in loaders}
        iterators = {}
        for name, loader in loaders.items():
            seed()
            iterators[name] = iter(loader)
        for number in range(12):
            for name, iterator in iterators.items():
                got[name].append(_bytes(next(iterator)))
            if number == 4:
                processes_of(loaders["the module"])[0].kill()
        for name, loader in loaders.items():
            assert got[name] == reference(name), name
            loader.close()


# ---------------------------------------------------------------- in another program


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "transform", ["a PCG64", "a RandomState", "a Random", "a torch", "two places", "the first sample"]
)
def test_a_state_holds_it(transform: str, workers: int) -> None:
    with DataLoader(own.Own(TRANSFORMS[transform]()), 4, num_workers=workers) as loader:
        seed()
        got = []
        for number, batch in enumerate(loader):
            got.append(_bytes(batch))
            if number == 4:
                state = json.loads(json.dumps(loader.state_dict()))
    with DataLoader(own.Own(TRANSFORMS[transform]()), 4, num_workers=workers) as loader:
        loader.load_state_dict(state)
        rest = [_bytes(batch) for batch in loader]
        missing = {replay.detail for replay in loader.report().replays if replay.outcome == "missing"}
    if transform == "the first sample" and not workers:  # the program's own dataset makes it later
        assert missing == {"dataset.transform.generator"}
    else:
        assert rest == got[5:]
        assert not missing


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_of_a_stream_holds_it(workers: int) -> None:
    with DataLoader(own.OwnStream(TRANSFORMS["a PCG64"]()), 4, num_workers=workers) as loader:
        seed()
        got = []
        for number, batch in enumerate(loader):
            got.append(_bytes(batch))
            if number == 4:
                state = json.loads(json.dumps(loader.state_dict()))
    with DataLoader(own.OwnStream(TRANSFORMS["a PCG64"]()), 4, num_workers=workers) as loader:
        loader.load_state_dict(state)
        assert [_bytes(batch) for batch in loader] == got[5:]


class DrawingSampler(Sampler[int]):
    """Orders by a generator of its own, anew in each epoch."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.generator = np.random.default_rng(5)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(self.generator.permutation(self.count).tolist())


def test_a_state_holds_a_samplers_generator() -> None:
    with DataLoader(Draws(24), 4, sampler=DrawingSampler(24), num_workers=2) as loader:
        seed()
        list(loader)
        got = []
        for number, batch in enumerate(loader):
            got.append(_bytes(batch))
            if number == 2:
                state = json.loads(json.dumps(loader.state_dict()))
    with DataLoader(Draws(24), 4, sampler=DrawingSampler(24), num_workers=2) as loader:
        loader.load_state_dict(state)
        assert [_bytes(batch) for batch in loader] == got[3:]


def test_a_state_of_before_they_were_kept_can_still_be_read() -> None:
    with DataLoader(Draws(24), 4, num_workers=2) as loader:
        seed()
        got = []
        for number, batch in enumerate(loader):
            got.append(_bytes(batch))
            if number == 2:
                state = json.loads(json.dumps(loader.state_dict()))
    del state["seal"]
    state["safeloader"] = 1
    for standing in state["workers"]:
        del standing["digests"]
        assert "own" not in standing["generators"]
    for moment in ("begin", "now"):
        state[moment].pop("held", None)
    with DataLoader(Draws(24), 4, num_workers=2) as loader:
        with pytest.warns(UserWarning, match="without a seal"):
            loader.load_state_dict(state)
        assert [_bytes(batch) for batch in loader] == got[3:]
