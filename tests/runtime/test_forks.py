"""Forks of the trainer: a batch in a fork never changes, and nothing that a fork does reaches the parent."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from safeloader import DataLoader, LoaderClosedError, Policy, WorkerPool
from tests.until import until

pytestmark = [pytest.mark.usefixtures("forked"), pytest.mark.timeout(120)]


class Numbers(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 160

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((64, 64), float(index))


def batch_of(number: int) -> list[float]:
    return [float(number * 4 + i) for i in range(4)]


def seen(batch: torch.Tensor) -> list[float]:
    return [float(x) for x in batch[:, 0, 0]]


class Fork:
    """A fork of this process that calls a function, tells what it returned, and ends without a word to pytest."""

    def __init__(self, act: Callable[[], Any], end: Callable[[], Any] | None = None) -> None:
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(writer)
            return
        signal.alarm(60)
        code = 1
        try:
            os.write(writer, pickle.dumps(act()))
            code = 0
            if end is not None:
                end()
        except BaseException as error:
            os.write(writer, pickle.dumps(f"{type(error).__name__}: {error}"))
        finally:
            os._exit(code)

    def result(self) -> Any:
        with open(self._reader, "rb") as file:
            told = pickle.load(file)
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return told


class Gate:
    """Holds a fork until its parent has gone on."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def wait(self) -> None:
        os.close(self._writer)
        os.read(self._reader, 1)

    def open(self) -> None:
        os.close(self._writer)
        os.close(self._reader)


def numbers(**more: Any) -> DataLoader[torch.Tensor]:
    more.setdefault("num_workers", 2)
    return DataLoader(Numbers(), batch_size=4, **more)


def slots(iterator: Any) -> int:
    return int(iterator._driver.supervisor.leases._new)


# ---------------------------------------------------------------- the bytes


def test_a_fork_sees_the_bytes_of_its_batch_whatever_the_parent_does_with_later_ones() -> None:
    gate, iterator = Gate(), iter(numbers())
    batch = [next(iterator) for _ in range(4)][-1]
    fork = Fork(lambda: (gate.wait(), seen(batch))[1])  # noqa: F821 - it is deleted later
    del batch
    assert [seen(b) for b in iterator] == [batch_of(n) for n in range(4, 40)]
    gate.open()
    assert fork.result() == batch_of(3)


def test_a_fork_of_a_fork_sees_them_after_its_own_parent_has_ended() -> None:
    gate, iterator, (reader, writer) = Gate(), iter(numbers()), os.pipe()
    batch = next(iterator)

    def inner() -> None:
        os.close(reader)
        gate.wait()
        os.write(writer, pickle.dumps(seen(batch)))  # noqa: F821

    fork = Fork(lambda: Fork(inner).pid)
    os.close(writer)
    fork.result()
    del batch
    assert [seen(b) for b in iterator] == [batch_of(n) for n in range(1, 40)]
    gate.open()
    with open(reader, "rb") as file:
        assert pickle.load(file) == batch_of(0)


def test_a_fork_that_closes_every_file_still_sees_them() -> None:
    gate, iterator = Gate(), iter(numbers())
    batch = next(iterator)

    def look() -> list[float]:
        keep = {gate._reader, gate._writer, *range(3)}
        for number in {int(n) for n in os.listdir("/proc/self/fd")} - keep:
            try:
                if not os.readlink(f"/proc/self/fd/{number}").startswith("pipe:"):
                    os.close(number)
            except OSError:
                pass
        gate.wait()
        return seen(batch)  # noqa: F821

    fork = Fork(look)
    del batch
    assert len(list(iterator)) == 39
    gate.open()
    assert fork.result() == batch_of(0)


def test_multiprocessings_fork_sees_them_too() -> None:
    context, iterator = multiprocessing.get_context("fork"), iter(numbers())
    batch = next(iterator)
    go, told = context.Pipe(), context.Pipe()

    def look() -> None:
        go[0].recv()
        told[1].send(seen(batch))  # noqa: F821

    process = context.Process(target=look)
    process.start()
    del batch
    assert len(list(iterator)) == 39
    go[1].send(None)
    assert told[0].recv() == batch_of(0)
    process.join()
    for end in (*go, *told):
        end.close()


def test_a_fork_by_another_thread_while_batches_arrive_changes_nothing() -> None:
    gates, forks, batches, stop = [], [], [], threading.Event()
    iterator, held = iter(numbers()), []

    def keep_forking() -> None:
        while not stop.is_set() and len(forks) < 6:
            mine, gate = list(held), Gate()
            expected = [seen(b) for b in mine]
            forks.append(Fork(lambda g=gate, m=mine, e=expected: (g.wait(), [seen(b) for b in m] == e)[1]))  # type: ignore[misc]
            gates.append(gate)

    thread = threading.Thread(target=keep_forking)
    thread.start()
    for batch in iterator:
        held[:] = [batch]
        batches.append(seen(batch))
    stop.set()
    thread.join()
    for gate in gates:
        gate.open()
    assert [fork.result() for fork in forks] == [True] * len(forks) and forks
    assert batches == [batch_of(n) for n in range(40)]


def test_memory_that_a_fork_saw_is_used_again_when_the_fork_is_gone() -> None:
    loader = numbers(persistent_workers=True)
    usual, iterator, gate = None, iter(loader), Gate()
    for n, batch in enumerate(iterator):  # noqa: B007
        if n == 20:
            usual = slots(iterator)
            fork = Fork(gate.wait)
    assert slots(iterator) <= usual + 2  # one batch was seen, and one was on its way back
    gate.open()
    fork.result()
    del batch
    views = iterator._driver.views
    for _ in iter(loader):
        pass
    assert not views.kept and not views._forks
    assert slots(iterator) <= usual + 2
    loader.close()


def test_a_program_that_is_started_costs_no_memory() -> None:
    iterator = iter(numbers())
    batch = next(iterator)
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert not iterator._driver.views._forks
    subprocess.run([sys.executable, "-c", ""], check=True, preexec_fn=os.getpid)  # this one is a fork, and then none
    assert all(fork.witness.gone() for fork in iterator._driver.views._forks)
    assert seen(batch) == batch_of(0)


# ---------------------------------------------------------------- what a fork may do


def place(loader: Any) -> dict[str, Any]:
    """A state without the program's own generators (and its seal): Python seeds its own anew in a fork."""
    return {key: value for key, value in loader.state_dict().items() if key not in ("now", "seal")}


def _deeds() -> dict[str, Callable[[Any, Any], Any]]:
    def ask(loader: Any, iterator: Any) -> str:
        with pytest.raises(LoaderClosedError, match="fork"):
            next(iterator)
        return "refused"

    def anew(loader: Any, iterator: Any) -> Any:
        try:
            return [seen(b) for b in loader] == [batch_of(n) for n in range(40)]
        finally:
            loader.close()

    def fresh(loader: Any, iterator: Any) -> Any:
        with numbers(num_workers=1, policy=Policy(start_method="forkserver")) as own:
            return [seen(b) for b in own] == [batch_of(n) for n in range(40)]

    def let_go(loader: Any, iterator: Any) -> bool:
        del loader, iterator
        gc.collect()
        return True

    def close(loader: Any, iterator: Any) -> bool:
        iterator.close()
        loader.close()
        return bool(iterator.closed)

    return {
        "ask": ask, "anew": anew, "fresh": fresh, "let go": let_go, "close": close,
        "state": lambda loader, iterator: place(loader),
        "report": lambda loader, iterator: loader.report().batches,
        "interpreter exit": lambda loader, iterator: None,
    }  # fmt: skip


_TOLD = {"ask": "refused", "anew": True, "fresh": True, "let go": True, "close": True, "interpreter exit": None}


@pytest.mark.parametrize("shared", [False, True], ids=["own", "pool"])
@pytest.mark.parametrize("deed", list(_deeds()))
def test_what_a_fork_does_harms_nobody(deed: str, shared: bool) -> None:
    pool = WorkerPool(processes=2) if shared else None
    policy = Policy(pool=pool) if shared else None
    loader = numbers(persistent_workers=True, policy=policy)
    act, exits = _deeds()[deed], deed == "interpreter exit"
    for _ in range(2):
        got, iterator = [], iter(loader)
        for n, batch in enumerate(iterator):
            got.append(seen(batch))
            if n == 5:
                wanted = place(loader) if deed == "state" else loader.report().batches
                end = (lambda: (__import__("atexit")._run_exitfuncs(), gc.collect())) if exits else None
                fork = Fork(lambda it=iterator: act(loader, it), end)
        assert fork.result() == _TOLD.get(deed, wanted), deed
        assert fork.code == 0
        assert got == [batch_of(n) for n in range(40)]
    assert loader.report().faults == []
    loader.close()
    if pool is not None:
        pool.close()


def test_events_are_written_once_though_a_fork_ends_with_them_in_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv("SAFELOADER_EVENTS", str(path))
    monkeypatch.setenv("SAFELOADER_TRACE", "1")
    with numbers() as loader:
        for n, _ in enumerate(loader):
            if n == 10:
                fork = Fork(lambda: None, lambda: (__import__("atexit")._run_exitfuncs(), loader.close()))
        fork.result()
    lines = path.read_text().splitlines()
    assert len(lines) == len(set(lines))
    assert sum('"event":"close"' in line for line in lines) == 1
    assert sum('"event":"batch"' in line for line in lines) == 40


def test_the_loader_ends_with_the_trainer_though_a_fork_lives() -> None:
    gate, iterator = Gate(), iter(numbers(num_workers=1))
    next(iterator)
    pid = iterator.inspect().posts[0].process
    fork = Fork(gate.wait)
    iterator.close()
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    gate.open()
    fork.result()


def test_a_loader_that_stands_idle_gathers_nothing_of_forks_that_have_ended(forked: None) -> None:
    with DataLoader(Numbers(), 4, num_workers=1) as loader:
        held = next(iter(loader))
        before = witnesses()
        for _ in range(5):
            assert Fork(lambda: seen(held)).result() == batch_of(0)
        assert witnesses() - before <= 1, "only of the last fork: the others have ended, and it may have"


def witnesses() -> int:
    """Memory files by which forks of this process are known."""
    with os.scandir("/proc/self/fd") as entries:
        return sum("safeloader-witness" in os.readlink(entry.path) for entry in entries)
