"""However a loop ends, nothing is left: the check after each test looks for processes, descriptors and memory."""

from __future__ import annotations

import functools
import gc
import os
import signal
import weakref
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader as TorchLoader

from safeloader import DataLoader, Policy, WorkerPool
from tests.fixtures_data import Draws, Orders
from tests.runtime.conftest import Rig
from tests.runtime.harness import (
    BATCH,
    COUNT,
    TORCHS,
    Epoch,
    digest,
    driver_of,
    end,
    gone,
    kill_all,
    make,
    persistent_epochs,
    play,
    processes_of,
    program,
    run_epoch,
    run_script,
    seed,
    start_script,
)
from tests.until import until


def test_a_loop_that_is_left_early_leaves_nothing() -> None:
    loader = make(Draws(COUNT))
    for _ in loader:
        break
    del loader, _


def test_an_exception_in_the_loop_leaves_nothing() -> None:
    loader = make(Draws(COUNT))

    def train(loader: DataLoader[Any]) -> None:
        for batch in loader:
            raise ArithmeticError(f"loss is not finite at {batch.shape}")

    with pytest.raises(ArithmeticError):
        train(loader)
    del loader


class Fails(Draws):
    """Its sixth sample cannot be read."""

    def __getitem__(self, index: int) -> Any:
        if index == 5:
            raise ArithmeticError("sample 5")
        return super().__getitem__(index)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("processes", [0, 2])
def test_an_error_about_a_sample_that_ends_the_loop_leaves_nothing(processes: int) -> None:
    """Its traceback knows the loader, so whoever is left behind must not know the error."""
    loader = make(Fails(COUNT), shuffle=False, policy=Policy(max_processes=processes))
    with pytest.raises(ArithmeticError, match="sample 5"):
        for _ in loader:
            pass
    del loader


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("kind", ["own", "none", "pool"])
def test_what_ran_a_closed_loader_does_not_wait_for_the_garbage_collector(kind: str) -> None:
    with WorkerPool(1) as pool:
        given = {"own": {}, "none": {"max_processes": 0}, "pool": {"pool": pool}}[kind]
        gc.disable()
        try:
            loader = make(Draws(COUNT), policy=Policy(**given))
            next(iterator := iter(loader))
            driver = weakref.ref(driver_of(iterator))
            loader.close()
            del iterator, loader  # it can still tell its state
            until(lambda: driver() is None, 10)
        finally:
            gc.enable()


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("kind", ["own", "killed", "none", "pool"])
def test_nothing_of_a_loader_that_is_gone_waits_for_the_garbage_collector(kind: str) -> None:
    """The watch of stalls looks at all pulses that live: that of a loader that is gone would speak for those that are
    not."""
    with WorkerPool(1) as pool:
        given: dict[str, Any] = {"none": {"max_processes": 0}, "pool": {"pool": pool}}.get(kind, {})
        gc.disable()
        try:
            loader = make(Draws(COUNT), persistent_workers=True, policy=Policy(**given))
            next(iterator := iter(loader))
            if kind == "killed":
                kill_all(loader)
            assert len(list(iterator)) > 0
            state, pulse = weakref.ref(loader._safe), weakref.ref(loader._safe.recorder.pulse)
            del iterator, loader
            until(lambda: state() is None and pulse() is None, 10)
        finally:
            gc.enable()


@pytest.mark.usefixtures("forked")
def test_a_with_block_ends_the_processes_and_keeps_the_batches() -> None:
    with make(Draws(COUNT), persistent_workers=True) as loader:
        batches = list(loader)
        assert len(processes_of(loader)) == 2
    assert processes_of(loader) == []
    assert sorted(int(row[0]) for batch in batches for row in batch) == list(range(COUNT))


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("deed", ["wait there", "lock in C", "SIGSTOP", "thread"])
def test_close_ends_processes_that_are_busy_stuck_or_stopped(orders: Orders, deed: str) -> None:
    orders.give("sample", 4, deed)
    loader = make(Draws(COUNT, orders), shuffle=False, num_workers=1, persistent_workers=True)
    next(iter(loader))
    if deed == "wait there":
        orders.await_arrival("there")
    loader.close()
    assert processes_of(loader) == []


def test_close_while_processes_start_leaves_nothing() -> None:
    loader = make(Draws(COUNT))
    stream = iter(loader)
    loader.close()
    del stream


# ---------------------------------------------------------------- an epoch that is broken off, and the next one


@functools.cache
def _after_a_break() -> Epoch:
    """torch lets its workers finish what was sent to them, so their generators move on with it."""
    loader = TorchLoader(
        Draws(COUNT), BATCH, shuffle=True, num_workers=2, multiprocessing_context=TORCHS, persistent_workers=True
    )
    seed(0)
    for number, _ in enumerate(loader):
        if number == 2:
            break
    return run_epoch(loader, 1)


@pytest.mark.usefixtures("forked")
def test_after_a_break_the_next_epoch_is_torchs() -> None:
    with make(Draws(COUNT), persistent_workers=True) as loader:
        seed(0)
        stream = iter(loader)
        for _ in range(3):
            next(stream)
        assert run_epoch(loader, 1) == _after_a_break()


@pytest.mark.usefixtures("forked")
def test_after_a_break_and_the_death_of_all_processes_the_next_epoch_is_torchs() -> None:
    with make(Draws(COUNT), persistent_workers=True) as loader:
        seed(0)
        stream = iter(loader)
        for _ in range(3):
            next(stream)
        kill_all(loader)
        assert run_epoch(loader, 1) == _after_a_break()
        faults = loader.report().faults
        assert len(faults) >= 2
        assert {fault.worker for fault in faults} <= {0, 1, None}  # None: one that had taken in the other's worker


@pytest.mark.usefixtures("forked")
def test_two_loaders_in_turn_do_not_disturb_each_other(rig: Rig) -> None:
    """Train, validate, train: the validation is another loader, and one of its processes dies."""
    expected = persistent_epochs()[0]

    def validate() -> None:
        with make(Draws(COUNT), name="val") as val:
            seed()
            stream = iter(val)
            first = [next(stream), next(stream)]
            kill_all(val)
            assert play([*first, *stream]).batches == expected.batches

    assert rig.check_epoch() == []
    validate()
    assert rig.check_epoch() == []


# ---------------------------------------------------------------- the end of the program


def test_a_program_that_ends_with_stuck_workers_ends_well(tmp_path: Path, orders: Orders) -> None:
    orders.give("sample", 4, "sleep")
    orders.give("sample", 8, "lock in C")
    script = program(
        tmp_path,
        """
        import sys
        from tests.runtime.harness import *
        orders = Orders(sys.argv[1])
        loader = make(Draws(COUNT, orders), shuffle=False, num_workers=3, persistent_workers=True)
        stream = iter(loader)
        next(stream)
        print(*[process.pid for process in processes_of(loader)])
        """,
    )
    pids = [int(pid) for pid in run_script(script, orders.folder).split()]
    assert len(pids) == 3
    assert gone(pids)


FOLLOWS_SIGNALS = """
    import signal, sys
    from tests.runtime.harness import *
    told = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: told.append(number))
    orders = Orders(sys.argv[1])
    loader = make(Draws(COUNT, orders))
    played = run_epoch(loader)
    print(digest(played), len(told), len(loader.report().faults))
    """


@pytest.mark.usefixtures("forked")
def test_a_signal_to_the_whole_group_leaves_the_processes_to_the_trainer(tmp_path: Path, orders: Orders) -> None:
    """SIGTERM and SIGINT to the group, as from a scheduler and a terminal: the trainer's handlers finish the epoch."""
    orders.give("sample", 24, "wait there")
    running = start_script(program(tmp_path, FOLLOWS_SIGNALS), orders.folder)
    orders.await_arrival("there")
    os.killpg(running.pid, signal.SIGTERM)
    os.killpg(running.pid, signal.SIGINT)
    orders.release("there")
    _, out, err = end(running, 90)
    assert out.split() == [digest(persistent_epochs()[0]), "2", "0"], err


def test_ctrl_c_ends_the_program_and_its_processes(tmp_path: Path, orders: Orders) -> None:
    orders.give("sample", 4, "wait there")
    script = program(
        tmp_path,
        """
        import sys
        from tests.runtime.harness import *
        orders = Orders(sys.argv[1])
        for batch in make(Draws(COUNT, orders), shuffle=False):
            pass
        """,
    )
    running = start_script(script, orders.folder)
    pid = orders.await_arrival("there")
    os.killpg(running.pid, signal.SIGINT)
    _, _, err = end(running, 90)
    assert "KeyboardInterrupt" in err
    assert running.returncode in (-signal.SIGINT, 130, 1)
    assert gone([pid])


@pytest.mark.usefixtures("forked")
def test_a_fork_of_the_trainer_that_ends_does_not_hurt_the_loader(tmp_path: Path) -> None:
    script = program(
        tmp_path,
        """
        import gc, os, sys
        from tests.runtime.harness import *
        seed()
        loader = make(Draws(COUNT))
        stream = iter(loader)
        batches = [next(stream) for _ in range(3)]
        for way in ("close", "collect", "exit"):
            pid = os.fork()
            if not pid:
                if way == "close":
                    loader.close()
                if way == "collect":
                    del stream, loader
                    gc.collect()
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        print(digest(play([*batches, *stream])), len(loader.report().faults))
        """,
    )
    assert run_script(script).split() == [digest(persistent_epochs()[0]), "0"]


STAGES = """
    import signal, sys, threading, time
    from tests.runtime.harness import *

    def begin(place, key, deed):
        orders = Orders(sys.argv[1] + "/" + deed.replace(" ", "-") + "-" + place)
        os.makedirs(orders.folder)
        orders.give(place, key, deed)
        loader = make(
            Draws(COUNT, orders), shuffle=False, num_workers=1, worker_init_fn=InitFunction(orders), name=deed
        )
        threading.Thread(target=lambda: list(loader), daemon=True).start()
        return loader, orders, place, key

    begun = [begin(*stage.split("|")) for stage in sys.argv[2:]]
    for loader, orders, place, key in begun:
        until(lambda: orders.carried_out(place, key))
    late = make(Draws(COUNT), name="late")
    iter_of_late = iter(late)  # these are starting
    loaders = [late, *(loader for loader, *_ in begun)]
    if not os.fork():  # a fork that outlives the trainer must not keep them alive
        os.close(1), os.close(2)
        signal.pause()
    print(*[process.pid for loader in loaders for process in processes_of(loader)], flush=True)
    signal.pause()
    """


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_trainer_that_is_killed_takes_its_processes_with_it_whatever_they_do(tmp_path: Path, orders: Orders) -> None:
    """Starting, in worker_init_fn, asleep in a sample, in a C call that holds the GIL, stopped."""
    stages = ["init|0|sleep", "sample|4|sleep", "sample|4|lock in C", "sample|4|SIGSTOP"]
    running = start_script(program(tmp_path, STAGES), orders.folder, *stages)
    assert running.stdout is not None
    pids = [int(pid) for pid in running.stdout.readline().split()]
    running.kill()
    try:
        _, _, err = end(running, 60)
        assert len(pids) == 6, err
        assert gone(pids)
    finally:
        os.killpg(running.pid, signal.SIGKILL)  # the fork
