"""Train and val on the same processes: each gets torch's bytes, whatever they do in between and in which order."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from safeloader import DataLoader, LoaderClosedError, Policy, SettingsError, StartError, WorkerPool
from tests.fixtures_data import (
    Draws,
    Habitual,
    Orders,
    Served,
    Stream,
    UnpickleTrap,
    WithFacts,
    other_habits,
    worker_facts,
)
from tests.runtime.harness import (
    COUNT,
    Epoch,
    driver_of,
    make,
    persistent_epochs,
    play,
    processes_of,
    reference,
    run_epoch,
    seed,
)
from tests.runtime.test_ends import _after_a_break


def on(pool: WorkerPool, dataset: Any, **options: Any) -> DataLoader[Any]:
    """A loader with persistent workers on this pool."""
    policy = Policy(pool=pool, **options.pop("settings", {}))
    return make(dataset, policy=policy, **{"persistent_workers": True, **options})


def begin(loader: DataLoader[Any], epoch: int = 0) -> Any:
    """An epoch's iterator; its bytes are the reference's, though others are iterated meanwhile."""
    seed(epoch)
    return iter(loader)


# ---------------------------------------------------------------- bytes


def test_train_and_val_in_turn_are_torchs_on_the_same_processes(pool: WorkerPool) -> None:
    with on(pool, Draws(COUNT)) as train, on(pool, Stream(COUNT), name="val") as val:
        for epoch in range(3):
            assert run_epoch(train, epoch) == persistent_epochs("draws")[epoch]
            assert run_epoch(val, epoch) == persistent_epochs("stream")[epoch]
        assert {p.pid for p in processes_of(train)} == {p.pid for p in processes_of(val)}
        assert len(processes_of(train)) == 2
        assert train.report().faults == val.report().faults == []


def test_two_live_iterators_are_torchs(pool: WorkerPool) -> None:
    with on(pool, Draws(COUNT)) as train, on(pool, Stream(COUNT), name="val") as val:
        train.generator = val.generator = None
        one, two = begin(train), begin(val)
        pairs = list(zip(one, two, strict=False))
        ours = play([batch for batch, _ in pairs]).batches + play(one).batches
        theirs = play([batch for _, batch in pairs]).batches + play(two).batches
    expected = persistent_epochs("draws")[0].batches
    assert ours == expected[: len(ours)]
    assert len(ours) >= len(expected) - 1  # zip took one of the first that it dropped
    assert theirs == persistent_epochs("stream")[0].batches


def test_a_validation_within_an_epoch_is_torchs(pool: WorkerPool) -> None:
    with on(pool, Draws(COUNT)) as train, on(pool, Draws(COUNT), name="val", num_workers=1) as val:
        stream = begin(train)
        first = [next(stream) for _ in range(3)]
        assert run_epoch(val).batches == reference(num_workers=1)[0].batches
        assert play([*first, *stream]).batches == persistent_epochs()[0].batches


def test_workers_that_are_not_persistent_begin_anew_in_the_same_processes(pool: WorkerPool) -> None:
    pids = set(pool.shared_pool().pids)
    train, val = on(pool, Draws(COUNT), persistent_workers=False), on(pool, Stream(COUNT), persistent_workers=False)
    for _ in range(2):  # with the same seed they begin the same
        assert run_epoch(train) == persistent_epochs("draws")[0]
        assert run_epoch(val) == persistent_epochs("stream")[0]
    assert set(pool.shared_pool().pids) == pids


def test_after_a_break_the_next_epoch_is_torchs_and_the_other_loader_is_not_disturbed(pool: WorkerPool) -> None:
    with on(pool, Draws(COUNT)) as train, on(pool, Draws(COUNT), name="val") as val:
        stream = begin(val)
        for _ in range(3):
            next(stream)
        assert run_epoch(train) == persistent_epochs()[0]
        assert run_epoch(val, 1) == _after_a_break()


def test_an_exception_of_one_loader_is_its_own(pool: WorkerPool, orders: Orders) -> None:
    orders.give("sample", 24, "OddError")
    with on(pool, Draws(COUNT, orders), shuffle=False) as train, on(pool, Draws(COUNT), name="val") as val:
        stream, other = iter(train), begin(val)
        early = [next(other), next(other)]
        with pytest.raises(Exception, match="7: odd"):
            list(stream)
        assert play([*early, *other]).batches == persistent_epochs()[0].batches
        assert len(list(stream)) == 5


def test_each_worker_knows_who_it_is(pool: WorkerPool) -> None:
    """Ids, seeds, copies and ``worker_init_fn``, and the number of workers is the loader's own."""
    options: dict[str, Any] = {"worker_init_fn": worker_facts}
    with on(pool, WithFacts(), **options) as train, on(pool, WithFacts(), num_workers=1, **options) as val:
        one, two = begin(train), begin(val)
        ours, theirs = zip(*zip(one, two, strict=True), strict=True)
    assert play(ours).batches == reference("facts", **options)[0].batches
    assert {tuple(batch["workers"].tolist()) for batch in theirs} == {(1,) * 4}
    assert {tuple(batch["init"].tolist()) for batch in theirs} == {(10,) * 4}
    assert all(batch["own"].all() and batch["threads"].eq(1).all() for batch in theirs)


def test_what_one_loader_sets_in_torch_the_other_does_not_feel(pool: WorkerPool) -> None:
    with on(pool, Habitual(), worker_init_fn=other_habits) as train, on(pool, Habitual()) as val:
        for ours, theirs in zip(train, val, strict=True):
            assert ours.tolist() == [[3, 8]] * 4
            assert theirs.tolist() == [[1, 4]] * 4
    with on(pool, Habitual()) as late:
        assert all(batch.tolist() == [[1, 4]] * 4 for batch in late)


def test_two_threads_iterate_two_loaders_of_a_pool(pool: WorkerPool, orders: Orders) -> None:
    """One of them loses a process, which is the other's too."""
    played: dict[str, list[Epoch]] = {"train": [], "val": []}
    orders.give("sample", 24, "SIGKILL")
    with on(pool, Draws(COUNT, orders), shuffle=False) as train, on(pool, Draws(COUNT), shuffle=False) as val:
        loaders = {"train": train, "val": val}
        threads = [
            threading.Thread(target=lambda n=name: played[n].extend(play(loaders[n]) for _ in range(3)))
            for name in loaders
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [fault.sample for fault in train.report().faults] == [24]
        assert val.report().faults == []
    indices = [
        [int.from_bytes(b.partition(b"|")[2][:8], "little") for b in e.batches] for es in played.values() for e in es
    ]
    assert indices == [list(range(0, COUNT, 4))] * 6


def test_processes_of_a_fork_server_serve_a_pool_too(orders: Orders) -> None:
    orders.give("sample", 24, "SIGKILL")
    with WorkerPool(2, start_method="forkserver") as pool:
        train, val = on(pool, Draws(COUNT, orders)), on(pool, Stream(COUNT), name="val")
        one, two = begin(train), begin(val)
        early = [next(two) for _ in range(2)]
        assert play(one).batches == persistent_epochs("draws")[0].batches
        assert play([*early, *two]).batches == persistent_epochs("stream")[0].batches
        assert [fault.sample for fault in train.report().faults] == [24]
        assert val.report().faults == []


# ---------------------------------------------------------------- places


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4:UserWarning")
def test_more_workers_than_processes_share_them(pool: WorkerPool) -> None:
    with on(pool, Draws(COUNT), num_workers=4) as loader:
        assert run_epoch(loader).batches == reference(num_workers=4)[0].batches
        assert len(processes_of(loader)) == 2
        assert loader.report().rung == 2


def test_loaders_come_and_go_and_the_processes_stay(pool: WorkerPool) -> None:
    pids = set(pool.shared_pool().pids)
    with on(pool, Draws(COUNT)) as train:
        stream = begin(train)
        early = [next(stream)]
        for _ in range(3):
            with on(pool, Stream(COUNT)) as passing:
                assert run_epoch(passing).batches == persistent_epochs("stream")[0].batches
        assert play([*early, *stream]).batches == persistent_epochs()[0].batches
    assert set(pool.shared_pool().pids) == pids


def test_memory_and_values_that_datasets_share_reach_a_process_that_runs(pool: WorkerPool) -> None:
    """They travel as open files, under other numbers than in the trainer."""
    tensors = [torch.arange(at, at + 8).share_memory_() for at in (0, 100)]
    one, two = (on(pool, TensorDataset(tensor), shuffle=False) for tensor in tensors)
    with one, two:
        for tensor, loader in zip(tensors, (one, two), strict=True):
            list(loader)
            tensor += 1000  # seen by who shares it
        seen = [torch.cat([batch for (batch,) in loader]).tolist() for loader in (one, two)]
    assert seen == [tensor.tolist() for tensor in tensors]


# ---------------------------------------------------------------- shares


def test_a_loader_that_asked_for_much_does_not_keep_another_waiting(orders: Orders) -> None:
    """Sixteen batches wait for the only process when the other loader comes: its four do not go last."""
    orders.give("sample", 1, "wait there")
    for index in range(2, 17):
        orders.give("sample", index, "sleep 0.1", always=True)
    options: dict[str, Any] = {"batch_size": 1, "num_workers": 1, "shuffle": False}
    with WorkerPool(1) as pool:
        greedy = on(pool, Served(17, orders), prefetch_factor=16, **options)
        modest = on(pool, Served(4), prefetch_factor=4, **options)
        one = iter(greedy)
        next(one)
        orders.await_arrival("there")
        two = iter(modest)
        orders.release("there")
        last = max(int(batch[0, 1]) for batch in two)
        before = [batch for batch in one if int(batch[0, 1]) < last]
    assert len(before) <= 6, "those that were in work before it was heard, and then hardly any: it needs little time"


def test_what_nobody_reads_holds_up_nobody(pool: WorkerPool) -> None:
    """The answers of a loader that is not asked any more fill its channel."""
    names = ["x" * 3000] * 400
    with on(pool, names, batch_size=1, shuffle=False, prefetch_factor=200) as full, on(pool, Draws(COUNT)) as train:
        stream = iter(full)
        next(stream)
        for epoch in range(2):
            assert run_epoch(train, epoch) == persistent_epochs()[epoch]
        assert len(list(stream)) == 399


# ---------------------------------------------------------------- the way in


def test_a_pool_is_no_setting_and_is_checked() -> None:
    with pytest.raises(SettingsError, match=r"it must be a safeloader\.WorkerPool"):
        Policy(pool=4)  # type: ignore[arg-type]
    for processes in (0, -1, 2.0, True, "4"):
        with pytest.raises(SettingsError, match="an integer of at least 1"):
            WorkerPool(processes)  # type: ignore[arg-type]
    for said in (False, None):
        with pytest.raises(SettingsError, match="contradicts the worker pool's False"):
            make(Draws(COUNT), policy=Policy(pool=WorkerPool(1, accelerators=said), accelerators=True))


def test_a_loader_that_is_made_again_from_its_arguments_keeps_its_pool(pool: WorkerPool) -> None:
    first = on(pool, Draws(COUNT))
    again = DataLoader(first.dataset, batch_size=4, num_workers=2, policy=first.policy, name=first.name)
    assert again.policy is not None
    assert again.policy.pool is pool
    copied = copy.deepcopy(first)
    assert copied.policy is not None
    assert copied.policy.pool is pool
    assert run_epoch(copied) == persistent_epochs()[0]
    copied.close()


def test_a_pool_in_another_program_is_a_new_one() -> None:
    pool = WorkerPool(3, name="mine")
    again = pickle.loads(pickle.dumps(pool))
    assert again is not pool
    assert (again.processes, again.name, again.closed) == (3, "mine", False)
    assert repr(again) == "WorkerPool(processes=3, name='mine')"


def test_without_workers_a_pool_changes_nothing() -> None:
    with WorkerPool(1) as pool:
        loader = on(pool, Draws(8), num_workers=0, persistent_workers=False)
        assert len(list(loader)) == 2
        assert pool.shared_pool().pids == []


# ---------------------------------------------------------------- a dataset that cannot be rebuilt


def test_a_dataset_that_cannot_be_rebuilt_costs_the_other_loader_nothing(pool: WorkerPool, orders: Orders) -> None:
    orders.give("unpickle", "dataset", "import", always=True)
    with on(pool, Draws(COUNT)) as train:
        stream = begin(train)
        early = [next(stream)]
        pids = {process.pid for process in processes_of(train)}
        with pytest.raises(StartError, match="a_module_that_is_nowhere"):
            next(iter(on(pool, UnpickleTrap(COUNT, orders))))
        assert play([*early, *stream]).batches == persistent_epochs()[0].batches
        assert {process.pid for process in processes_of(train)} == pids
    assert not any(member.place().burdened for member in pool.shared_pool()._members.values())


def test_after_the_pool_was_closed_its_loaders_say_so() -> None:
    pool = WorkerPool(1)
    loader = on(pool, Draws(8), num_workers=1)
    stream = iter(loader)
    next(stream)
    pool.close()
    with pytest.raises(LoaderClosedError):
        next(stream)
    with pytest.raises(LoaderClosedError, match=r"the worker pool 'pool \d+' was closed"):
        iter(loader)
    assert driver_of(stream).processes == {}
