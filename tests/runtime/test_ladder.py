"""Fewer processes, same workers, same bytes: the ladder down to the trainer itself, and up again."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import get_worker_info

from safeloader import BadSampleError, Policy, SafeLoaderError
from tests.fixtures_data import Draws, Orders, Stream, WithFacts, worker_facts
from tests.runtime.harness import (
    COUNT,
    first_index,
    make,
    nobody_has_a_turn,
    persistent_epochs,
    play,
    processes_of,
    reference,
    run_epoch,
    seed,
)

pytestmark = [
    pytest.mark.usefixtures("forked"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 4:UserWarning"),
]


# ---------------------------------------------------------------- no process at all


@pytest.mark.parametrize("kind", ["draws", "stream"])
def test_without_any_process_the_bytes_are_torchs_over_several_epochs(kind: str) -> None:
    dataset = Draws(COUNT) if kind == "draws" else Stream(COUNT)
    loader = make(dataset, persistent_workers=True, policy=Policy(max_processes=0))
    for epoch in range(3):
        assert run_epoch(loader, epoch) == persistent_epochs(kind)[epoch]
        assert processes_of(loader) == []
    assert multiprocessing.active_children() == []
    loader.close()


def test_workers_in_the_trainer_know_who_they_are() -> None:
    """``get_worker_info()``, ``worker_init_fn``, the collation of dicts and the number of threads are a worker's."""
    (expected,) = reference("facts", worker_init_fn=worker_facts)
    threads = torch.get_num_threads()
    loader = make(WithFacts(), worker_init_fn=worker_facts, policy=Policy(max_processes=0))
    assert run_epoch(loader) == expected
    assert get_worker_info() is None
    assert torch.get_num_threads() == threads
    assert run_epoch(loader, 1) == reference("facts", 2, worker_init_fn=worker_facts)[1]


def test_an_exception_out_of_a_worker_in_the_trainer_is_that_out_of_a_torch_worker(orders: Orders) -> None:
    """Its class, which a loop may catch, does not depend on where the worker is; what the dataset raised is its cause."""
    orders.give("sample", 24, "OddError")
    loader = make(Draws(COUNT, orders), shuffle=False, policy=Policy(max_processes=0))
    stream = iter(loader)
    delivered = [next(stream) for _ in range(6)]
    with pytest.raises(RuntimeError, match=r"(?s)Caught OddError in DataLoader worker process 0\..*7: odd") as caught:
        next(stream)
    assert type(caught.value) is RuntimeError
    assert type(caught.value.__cause__).__name__ == "OddError"
    assert len(delivered) + len(list(stream)) == 11


@pytest.mark.parametrize("deed", ["sleep", "lock", "spin"])
def test_a_hang_in_the_trainer_is_interrupted_and_goes_on_in_a_process(orders: Orders, deed: str) -> None:
    orders.give("sample", 24, deed)
    loader = make(Draws(COUNT, orders), policy=Policy(max_processes=0, batch_timeout=1.0))
    assert run_epoch(loader) == persistent_epochs()[0]
    fault = next(fault for fault in loader.report().faults if fault.sample == 24)
    assert (fault.cause, fault.process, fault.action) == ("hung", os.getpid(), "moved to a process")
    assert "__getitem__" in (fault.stack or "")
    assert [thread.name for thread in threading.enumerate()].count("safeloader-watchdog") == 1


# ---------------------------------------------------------------- down


def test_many_faults_lead_down_to_the_trainer_and_the_bytes_stay_torchs(orders: Orders) -> None:
    (expected,) = reference(num_workers=4)
    for number in (1, 3, 5):
        orders.give("sample", first_index(expected.batches[number]), "SIGKILL")
    loader = make(Draws(COUNT, orders), num_workers=4, policy=Policy(max_restarts=0))
    seed()
    stream = iter(loader)
    assert len(processes_of(loader)) == 4
    assert play(stream) == expected
    report = loader.report()
    assert (report.rung, report.fallbacks, report.workers) == (0, 3, 4)
    assert [fault.detail for fault in report.faults] == ["SIGKILL"] * 3


def test_fallback_to_processes_stays_at_one(orders: Orders) -> None:
    (expected,) = persistent_epochs()[:1]
    for number in (1, 3, 5, 8):
        orders.give("sample", first_index(expected.batches[number]), "SIGKILL")
    loader = make(Draws(COUNT, orders), policy=Policy(max_restarts=0, fallback="process"))
    seed()
    stream = iter(loader)
    first = [next(stream) for _ in range(9)]
    assert len(processes_of(loader)) == 1
    assert play([*first, *stream]) == expected
    report = loader.report()
    assert (report.rung, report.fallbacks) == (1, 1)


def test_without_fallback_too_many_faults_are_an_error_that_lists_them(orders: Orders) -> None:
    orders.give("sample", 8, "SIGKILL")
    loader = make(Draws(COUNT, orders), shuffle=False, policy=Policy(max_restarts=0, fallback="off"))
    stream = iter(loader)
    with pytest.raises(SafeLoaderError, match="too many faults") as caught:
        list(stream)
    assert caught.value.report is not None
    assert [(fault.sample, fault.detail) for fault in caught.value.report.faults] == [(8, "SIGKILL")]
    assert processes_of(loader) == []


class SlowOnce(torch.utils.data.Dataset[Any]):
    """An innocent sample that is slow in a process."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 4 and multiprocessing.current_process().name != "MainProcess":
            with open(os.path.join(self.folder, f"at-{os.getpid()}"), "w"):
                pass
            time.sleep(600)
        return torch.tensor(index)


@pytest.mark.parametrize(
    ("in_work", "skip"),
    [
        (0, False),
        (1, False),
        (2, True),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in [(0, True), (1, True), (2, False)]),
    ],
)
def test_where_every_process_is_killed_the_trainer_loads_all_but_what_was_in_work(
    in_work: int, skip: bool, tmp_path: Path
) -> None:
    """The first processes are killed with a slow sample in work, all others while they start."""
    policy = Policy(max_restarts=2, restart_period=600, on_bad_sample="skip" if skip else "raise", start_method="spawn")
    loader = make(SlowOnce(str(tmp_path)), shuffle=False, batch_size=2, num_workers=1, policy=policy)
    got, errors = [], []
    with Killer(loader, tmp_path, in_work):
        iterator = iter(loader)
        while True:
            try:
                got.append(next(iterator).tolist())
            except StopIteration:
                break
            except BadSampleError as error:
                errors.append((error.indices, str(error)))
    batches = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    report = loader.report()
    assert report.rung == 0
    if not in_work:
        assert (got, errors) == (batches, [])
    elif skip:
        assert (got, errors) == ([*batches[:2], *batches[3:]], [])
        assert sorted(index for _, _, index in report.skipped) == [4, 5], "5 was in work with it"
    else:
        assert got == [*batches[:2], *batches[3:]]
        assert [indices for indices, _ in errors] == [[4]]
        assert "sample 4 was in work when a process was lost (died), and no process can be started" in errors[0][1]


class Killer(threading.Thread):
    """Kills every process of a loader: the first ones when they are at the slow sample, the others at once,
    and those never get further than to their imports: a kill might meet a set-up."""

    def __init__(self, loader: Any, folder: Path, in_work: int) -> None:
        super().__init__(daemon=True)
        self._loader, self._folder, self._left = loader, folder, in_work
        self._over = threading.Event()
        self._held = contextlib.ExitStack()

    def run(self) -> None:
        while not self._over.wait(0.01):
            for iterator in list(self._loader._safe.iterators):
                for process in list(iterator._driver.processes.values()):
                    pid = process.pid
                    if pid and (not self._left or (self._folder / f"at-{pid}").exists()):
                        self._kill(pid)

    def _kill(self, pid: int) -> None:
        if self._left == 1:
            self._held.enter_context(nobody_has_a_turn())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if (self._folder / f"at-{pid}").exists():
            self._left = max(self._left - 1, 0)
            (self._folder / f"at-{pid}").unlink()

    def __enter__(self) -> None:
        if not self._left:
            self._held.enter_context(nobody_has_a_turn())
        self.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self.join()
        self._held.close()


# ---------------------------------------------------------------- up


def test_after_enough_good_batches_the_processes_are_as_many_as_before(orders: Orders) -> None:
    expected = persistent_epochs()[0]
    orders.give("sample", first_index(expected.batches[1]), "SIGKILL")
    loader = make(Draws(COUNT, orders), policy=Policy(max_restarts=0, recover_after=3))
    seed()
    stream = iter(loader)
    first = [next(stream) for _ in range(8)]
    assert len(processes_of(loader)) == 2
    assert play([*first, *stream]) == expected
    report = loader.report()
    assert (report.rung, report.fallbacks, report.recoveries) == (2, 1, 1)


def test_from_the_trainer_the_workers_go_back_to_a_process(orders: Orders) -> None:
    """One worker: a fault leads to no process, good batches back to one, in the middle of the epoch."""
    expected = reference(num_workers=1)[0]
    orders.give("sample", first_index(expected.batches[1]), "SIGKILL")
    loader = make(Draws(COUNT, orders), num_workers=1, policy=Policy(max_restarts=0, recover_after=3))
    assert run_epoch(loader) == expected
    report = loader.report()
    assert (report.rung, report.fallbacks, report.recoveries) == (1, 1, 1)


def test_the_trainer_keeps_no_batch_that_it_has_loaded_itself() -> None:
    loader = make(Draws(COUNT), policy=Policy(max_processes=0))
    given: list[weakref.ref[torch.Tensor]] = []
    for batch in loader:
        given.append(weakref.ref(batch))
        del batch
        assert sum(ref() is not None for ref in given) <= 1, "only the last one may still be needed, to be given again"
    loader.close()
