"""What one loader's samples do to a process is the other's loss, but not its fault: the rows of the matrix on a pool."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from safeloader import DataLoader, SettingsError, WorkerPool
from tests.fixtures_data import Draws, Orders, Stream
from tests.runtime.harness import (
    COUNT,
    driver_of,
    fault_of,
    gone,
    kill_all,
    make,
    persistent_epochs,
    play,
    processes_of,
    program,
    run_epoch,
    run_script,
)
from tests.runtime.test_pool import begin, on
from tests.until import until

pytestmark = pytest.mark.usefixtures("forked")

BAD = 24


@pytest.fixture
def short(pool: WorkerPool) -> Any:
    """Makes loaders on the pool whose samples hang after two seconds."""
    return lambda dataset, **options: on(pool, dataset, settings={"batch_timeout": 2.0, "max_restarts": 100}, **options)


# ---------------------------------------------------------------- both are iterated


MORE = [pytest.param(deed, marks=pytest.mark.slow) for deed in ("exit 0", "SIGSTOP", "lock in C")]


@pytest.mark.parametrize("deed", ["SIGKILL", "sleep", *MORE])
def test_what_happens_in_a_sample_of_one_costs_neither_a_batch(
    pool: WorkerPool, short: Any, orders: Orders, deed: str
) -> None:
    orders.give("sample", BAD, deed)
    with short(Draws(COUNT, orders), name="train") as train, on(pool, Stream(COUNT), name="val") as val:
        one, two = begin(train), begin(val)
        pairs = [(next(one), next(two)) for _ in range(4)]
        assert play([*(ours for ours, _ in pairs), *one]).batches == persistent_epochs("draws")[0].batches
        assert play([*(theirs for _, theirs in pairs), *two]).batches == persistent_epochs("stream")[0].batches
        assert train.report().causes in ({"died": 1}, {"hung": 1}, {"stopped": 1})
        assert fault_of(train).sample == BAD
        assert val.report().faults == []


def test_processes_killed_from_outside_are_missed_by_both(pool: WorkerPool) -> None:
    with on(pool, Draws(COUNT)) as train, on(pool, Stream(COUNT), name="val") as val:
        assert run_epoch(train) == persistent_epochs("draws")[0]
        assert run_epoch(val) == persistent_epochs("stream")[0]
        kill_all(train)
        assert gone(pool.shared_pool().pids)
        assert run_epoch(train, 1) == persistent_epochs("draws")[1]
        assert run_epoch(val, 1) == persistent_epochs("stream")[1]
        assert len(pool.shared_pool().pids) == 2


def test_a_bad_sample_of_one_is_left_out_and_the_other_goes_on(pool: WorkerPool, orders: Orders) -> None:
    orders.give("sample", BAD, "exit 7", always=True)
    skip = {"on_bad_sample": "skip", "bad_sample_attempts": 1}
    with on(pool, Draws(COUNT, orders), shuffle=False, settings=skip) as train, on(pool, Draws(COUNT)) as val:
        one, two = iter(train), begin(val)
        early = [next(two) for _ in range(2)]
        assert [int(row[0]) for batch in one for row in batch] == [i for i in range(COUNT) if i != BAD]
        assert play([*early, *two]).batches == persistent_epochs()[0].batches
        assert val.report().faults == []


def test_one_goes_down_the_ladder_to_the_trainer_and_the_other_stays(pool: WorkerPool, orders: Orders) -> None:
    for sample in (8, 16):
        orders.give("sample", sample, "SIGKILL")
    with on(pool, Draws(COUNT, orders), settings={"max_restarts": 0}) as train, on(pool, Stream(COUNT)) as val:
        one, two = begin(train), begin(val)
        early = [next(two) for _ in range(2)]
        assert play(one).batches == persistent_epochs("draws")[0].batches
        assert train.report().rung == 0
        assert play([*early, *two]).batches == persistent_epochs("stream")[0].batches
        assert (val.report().rung, val.report().faults) == (2, [])


# ---------------------------------------------------------------- only one is iterated


@pytest.mark.parametrize(("deed", "cause"), [("sleep", "hung"), ("SIGSTOP", "stopped"), ("SIGKILL", "died")])
def test_a_sample_of_the_loader_that_nobody_asks_is_noticed_by_who_waits(
    pool: WorkerPool, short: Any, orders: Orders, deed: str, cause: str
) -> None:
    """Validation was left in the middle; its worker hangs; train must not."""
    orders.give("sample", BAD, deed)
    with (
        short(Draws(COUNT, orders), shuffle=False, prefetch_factor=6, name="val") as val,
        on(pool, Draws(COUNT)) as train,
    ):
        left = iter(val)
        early = [next(left)]
        for epoch in range(2):
            assert run_epoch(train, epoch) == persistent_epochs()[epoch]
        assert train.report().faults == []
        assert [int(row[0]) for batch in [*early, *left] for row in batch] == list(range(COUNT))
        assert (fault_of(val).cause, fault_of(val).sample) == (cause, BAD)


def test_a_sample_that_takes_longer_than_the_others_deadline_is_no_fault_of_the_other(orders: Orders) -> None:
    orders.give("sample", 4, "sleep 3.5")
    with WorkerPool(1) as pool:
        slow = on(pool, Draws(COUNT, orders), num_workers=1, shuffle=False)
        quick = on(pool, Draws(COUNT), num_workers=1, shuffle=False, settings={"batch_timeout": 1.0})
        one, two = iter(slow), iter(quick)
        next(one)
        assert [int(row[0]) for batch in two for row in batch] == list(range(COUNT))
        assert quick.report().faults == slow.report().faults == []


def test_what_a_closed_loader_left_hanging_is_ended_without_blame(orders: Orders) -> None:
    orders.give("sample", 4, "wait there")
    with WorkerPool(1) as pool:
        settings = {"batch_timeout": 2.0}
        with on(pool, Draws(COUNT, orders), num_workers=1, shuffle=False, settings=settings) as left:
            next(iter(left))
            pid = orders.await_arrival("there")
        assert pool.shared_pool().pids == [pid]
        with on(pool, Draws(COUNT), num_workers=1, shuffle=False) as train:
            assert [int(row[0]) for batch in train for row in batch] == list(range(COUNT))
            assert train.report().faults == []
        assert pid not in pool.shared_pool().pids


def test_a_consumer_that_was_interrupted_can_go_on_after_the_other(
    short: Any, pool: WorkerPool, orders: Orders
) -> None:
    """Ctrl-C in a validation that hangs, as in a notebook; then training; then the rest of the validation."""
    orders.give("sample", 0, "sleep")

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with short(Draws(COUNT, orders), shuffle=False, name="val") as val, on(pool, Draws(COUNT)) as train:
        stream = iter(val)
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(KeyboardInterrupt):
                next(stream)
        finally:
            signal.signal(signal.SIGALRM, before)
        for epoch in range(2):
            assert run_epoch(train, epoch) == persistent_epochs()[epoch]
        assert [int(row[0]) for batch in stream for row in batch] == list(range(COUNT))
        assert {fault.cause for fault in val.report().faults} == {"hung"}


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize("order", ["train val pool", "val pool train", "pool train val"])
def test_whatever_is_closed_first_nothing_is_left(order: str) -> None:
    pool = WorkerPool(2)
    things = {"pool": pool, "train": on(pool, Draws(COUNT)), "val": on(pool, Stream(COUNT))}
    streams = [iter(things["train"]), iter(things["val"])]  # type: ignore[call-overload]
    for stream in streams[: 1 + order.startswith("val")]:
        next(stream)
    for name in order.split():
        things[name].close()
    assert pool._shared_pool is not None
    assert pool._shared_pool.pids == []


def test_a_pool_that_nobody_refers_to_ends() -> None:
    def use() -> Iterator[int]:
        stream = iter(on(WorkerPool(1), Draws(COUNT), num_workers=1))
        yield len(next(stream))
        yield len(next(stream))  # the loader is gone, the pool is not: its iterator needs it

    assert list(use()) == [4, 4]


def test_a_pool_closed_from_another_thread_ends_the_wait(orders: Orders) -> None:
    script = """
        import sys, threading
        from tests.runtime.harness import *
        from safeloader import LoaderClosedError, WorkerPool
        orders = Orders(sys.argv[1])
        pool = WorkerPool(2)
        train, val = (make(Draws(COUNT, o), shuffle=False, policy=Policy(pool=pool)) for o in (orders, None))
        stream = iter(val)
        next(stream)

        def close():
            orders.await_arrival("there")
            pool.close()

        threading.Thread(target=close).start()
        for waiting in (train, stream):
            try:
                list(waiting)
            except LoaderClosedError:
                print("closed")
        print(pool.closed)
        """
    folder = os.path.dirname(orders.folder)
    from pathlib import Path

    orders.give("sample", 0, "wait there")
    assert run_script(program(Path(folder), script), orders.folder).split() == ["closed", "closed", "True"]


def test_a_program_that_ends_with_a_pool_and_stuck_workers_ends_well(orders: Orders) -> None:
    script = """
        import sys
        from tests.runtime.harness import *
        from safeloader import WorkerPool
        orders = Orders(sys.argv[1])
        pool = WorkerPool(2)
        train = make(Draws(COUNT, orders), shuffle=False, persistent_workers=True, policy=Policy(pool=pool))
        val = make(Draws(COUNT), persistent_workers=True, policy=Policy(pool=pool))
        assert len(list(val)) == 12
        stream = iter(train)
        next(stream)
        print(*pool.shared_pool().pids)
        """
    from pathlib import Path

    from tests.runtime.harness import gone

    orders.give("sample", 4, "sleep")
    orders.give("sample", 8, "lock in C")
    path = program(Path(os.path.dirname(orders.folder)), script)
    pids = [int(pid) for pid in run_script(path, orders.folder).split()]
    assert len(pids) == 2
    assert gone(pids)


def test_a_pool_without_loaders_is_replenished(pool: WorkerPool) -> None:
    victim = pool.shared_pool().pids[0]
    os.kill(victim, signal.SIGKILL)
    assert gone([victim])
    assert run_epoch(on(pool, Draws(COUNT), persistent_workers=False)) == persistent_epochs()[0]
    assert victim not in pool.shared_pool().pids
    assert len(pool.shared_pool().pids) == 2


def test_a_loader_of_its_own_beside_a_pool_is_not_the_pools_business(pool: WorkerPool) -> None:
    with on(pool, Draws(COUNT)) as train, make(Draws(COUNT), persistent_workers=True) as own:
        assert run_epoch(own) == run_epoch(train) == persistent_epochs()[0]
        assert not {p.pid for p in processes_of(own)} & set(pool.shared_pool().pids)


# ---------------------------------------------------------------- standbys


@pytest.fixture
def kept() -> Iterator[WorkerPool]:
    """A pool of two processes with a standby."""
    with WorkerPool(2, standby=1, start_method="forkserver") as pool:
        yield pool


def standby_of(pool: WorkerPool, loader: DataLoader[Any]) -> psutil.Process:
    """The standby, once it is ready; whoever waits for a batch hears of it, or looks."""

    def ready() -> int:
        driver_of(loader._iterator).loop.look(0.05)
        return next((m.process.pid for m in pool.shared_pool()._members.values() if m.standby and m.is_ready()), 0)

    return psutil.Process(until(ready))


def test_a_standby_of_a_pool_takes_the_place_of_a_process_that_is_lost_for_all_loaders(
    kept: WorkerPool, orders: Orders
) -> None:
    with on(kept, Draws(COUNT, orders), name="train") as train, on(kept, Stream(COUNT), name="val") as val:
        assert run_epoch(train) == persistent_epochs("draws")[0]
        assert run_epoch(val) == persistent_epochs("stream")[0]
        standby = standby_of(kept, train)
        assert len(kept.shared_pool().pids) == 3
        orders.give("sample", BAD, "SIGKILL")
        assert run_epoch(train, 1) == persistent_epochs("draws")[1]
        assert run_epoch(val, 1) == persistent_epochs("stream")[1]
        assert fault_of(train).action == "handed over"
        assert val.report().faults == []
        assert standby.pid in {p.pid for p in processes_of(train)} & {p.pid for p in processes_of(val)}
        assert standby_of(kept, train) != standby  # another one was started


@pytest.mark.parametrize(("number", "cause"), [(signal.SIGKILL, "died"), (signal.SIGSTOP, "stopped")])
def test_a_standby_of_a_pool_that_is_lost_costs_no_batch(kept: WorkerPool, number: signal.Signals, cause: str) -> None:
    with on(kept, Draws(COUNT)) as train:
        assert run_epoch(train) == persistent_epochs()[0]
        standby = standby_of(kept, train)
        standby.send_signal(number)
        if number == signal.SIGSTOP:  # it is found when it would be needed
            until(lambda: standby.status() == psutil.STATUS_STOPPED)
            processes_of(train)[0].kill()
        else:
            assert gone([standby.pid])
        assert run_epoch(train, 1) == persistent_epochs()[1]
        assert standby_of(kept, train) != standby
        assert run_epoch(train, 2) == persistent_epochs()[2]
        fault = fault_of(train, action="standby")
        assert (fault.process, fault.cause, fault.worker) == (standby.pid, cause, None)
        assert train.report().rung == 2


def test_how_many_stand_by_is_the_pools_to_say() -> None:
    with WorkerPool(2) as pool:
        with pytest.raises(SettingsError, match=r"standby=1 is the worker pool's to say") as refused:
            on(pool, Draws(COUNT), settings={"standby": 1})
        assert "WorkerPool(processes=2, standby=1)" in str(refused.value)
    with WorkerPool(2, standby=1) as pool:
        assert pickle.loads(pickle.dumps(pool))._policy.standby == 1
        on(pool, Draws(COUNT), settings={"standby": 1})
    with pytest.raises(SettingsError, match="standby=-1"):
        WorkerPool(2, standby=-1)
