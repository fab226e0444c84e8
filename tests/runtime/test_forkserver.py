"""Processes that a clean server forks: like spawned ones in all but the time they take."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from safeloader import DataLoader, Policy
from safeloader.runtime.start import client
from safeloader.runtime.start.launcher import Launcher
from tests.fixtures_data import Draws, Orders, Stream, Surroundings, UnpickleTrap, as_they_are
from tests.runtime.harness import (
    COUNT,
    digest,
    end,
    fault_of,
    gone,
    is_settled,
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

FORKED = Policy(start_method="forkserver", batch_timeout=2.0, max_restarts=1000)


@pytest.fixture(scope="module", autouse=True)
def _warm() -> Iterator[None]:
    """A server that all of these share; the first of them would have to wait for it anyway. It has imported nothing
    for the loaders of other tests."""
    launcher = Launcher("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_trainer", client._Trainer())
        launcher.server()
        yield
    launcher.close()


def server_of(loader: DataLoader[Any]) -> psutil.Process:
    """The server that forked a loader's processes."""
    launcher = loader._safe.starting._launcher
    assert launcher is not None
    return psutil.Process(launcher.server().pid)


def parents(loader: DataLoader[Any]) -> set[int | None]:
    return {process.ppid() for process in processes_of(loader)}


# ---------------------------------------------------------------- like spawned ones


@pytest.mark.parametrize("kind", ["draws", "stream"])
def test_its_batches_are_torchs_over_several_epochs(kind: str) -> None:
    dataset = Draws(COUNT) if kind == "draws" else Stream(COUNT)
    with make(dataset, policy=FORKED, persistent_workers=True) as loader:
        for epoch in range(3):
            assert run_epoch(loader, epoch) == persistent_epochs(kind)[epoch]
        assert parents(loader) == {server_of(loader).pid}
        assert loader.report().faults == []


def test_a_forked_process_finds_what_a_spawned_one_finds() -> None:
    def look(method: Any) -> Any:
        with make(Surroundings(), policy=Policy(start_method=method), num_workers=1, collate_fn=as_they_are) as loader:
            return next(iter(loader))[0]

    assert look("forkserver") == look("spawn")


def test_what_the_dataset_shares_with_the_trainer_is_shared(orders: Orders) -> None:
    shared = torch.zeros(COUNT).share_memory_()
    with make(Shared(shared), policy=FORKED, shuffle=False) as loader:
        assert torch.cat(list(loader)).tolist() == list(range(COUNT))
    assert shared.tolist() == [2 * index for index in range(COUNT)]


class Shared(Draws):
    """Writes into memory that it shares with the trainer."""

    def __init__(self, shared: torch.Tensor) -> None:
        super().__init__(COUNT)
        self.shared = shared

    def __getitem__(self, index: int) -> torch.Tensor:
        self.shared[index] = 2 * index
        return torch.tensor(index)


@pytest.mark.parametrize(
    "asked", ["forkserver", torch.multiprocessing.get_context("forkserver")], ids=["name", "object"]
)
def test_torchs_own_argument_asks_for_it(asked: Any) -> None:
    with make(Draws(COUNT), multiprocessing_context=asked, persistent_workers=True) as loader:
        assert run_epoch(loader) == persistent_epochs()[0]
        assert parents(loader) == {server_of(loader).pid}


# ---------------------------------------------------------------- faults of its processes


def test_every_end_of_a_process_is_seen_and_explained(orders: Orders) -> None:
    """Killed, ended, crashed, hung with its stack, stopped: one epoch each."""
    deeds = {
        "SIGKILL": ("died", "SIGKILL"), "exit 7": ("died", "exit code 7"), "SIGSEGV": ("died", "SIGSEGV"),
        "sleep": ("hung", ""), "SIGSTOP": ("stopped", ""),
    }  # fmt: skip
    with make(UnpickleTrap(COUNT, orders), policy=FORKED, persistent_workers=True) as loader:
        for epoch, (deed, (cause, detail)) in enumerate(deeds.items()):
            until(lambda: is_settled(loader))  # else a worker may meet the order on its way to its new process
            orders.give("sample", 24, deed)
            assert run_epoch(loader, epoch) == persistent_epochs()[epoch]
            fault = loader.report().faults[-1]
            assert (fault.cause, fault.detail, fault.sample) == (cause, detail, 24)
            assert "__getitem__" in (fault.stack or "") or deed not in ("SIGSEGV", "sleep")
            orders.withdraw()
        assert parents(loader) == {server_of(loader).pid}


# ---------------------------------------------------------------- faults of the server


def test_a_server_that_is_killed_hurts_no_process_and_is_replaced(orders: Orders) -> None:
    with make(Draws(COUNT, orders), policy=FORKED, persistent_workers=True) as loader:
        assert run_epoch(loader) == persistent_epochs()[0]
        pids = {process.pid for process in processes_of(loader)}
        server = server_of(loader)
        server.kill()
        assert run_epoch(loader, 1) == persistent_epochs()[1]
        assert {process.pid for process in processes_of(loader)} == pids
        assert loader.report().faults == []
        orders.give("sample", 24, "exit 7")
        assert run_epoch(loader, 2) == persistent_epochs()[2]
        fault = fault_of(loader, cause="died")
        assert "fork server was gone" in fault.detail
        assert server_of(loader).pid != server.pid
        assert server_of(loader).pid in parents(loader)


def test_processes_asked_of_a_server_that_is_killed_are_born_elsewhere() -> None:
    launcher = Launcher("forkserver", accelerators=True)  # another one, still importing
    server = psutil.Process(launcher.server().pid)
    with make(Draws(COUNT), policy=Policy(start_method="forkserver", accelerators=True)) as loader:
        seed()
        stream = iter(loader)
        server.kill()
        assert play(stream) == persistent_epochs()[0]
        assert loader.report().faults == []


def test_a_server_that_is_stopped_is_replaced(orders: Orders) -> None:
    with make(Draws(COUNT, orders), policy=FORKED) as loader:
        seed()
        stream = iter(loader)
        first = [next(stream)]
        server = server_of(loader)
        server.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, server.pid, os.WSTOPPED)
        processes_of(loader)[0].kill()
        assert play([*first, *stream]) == persistent_epochs()[0]
        assert loader.report().causes == {"died": 1}
    assert gone([server.pid])


@pytest.mark.slow
def test_a_server_that_is_stopped_while_it_is_asked_costs_the_startup_timeout() -> None:
    launcher = Launcher("forkserver", accelerators=True)
    server = psutil.Process(launcher.server().pid)
    policy = Policy(start_method="forkserver", accelerators=True, startup_timeout=10.0, max_processes=1)
    with make(Draws(COUNT), policy=policy) as loader:
        seed()
        stream = iter(loader)
        server.send_signal(signal.SIGSTOP)
        assert play(stream) == persistent_epochs()[0]
        assert loader.report().causes.keys() <= {"failed_start"}
    assert gone([server.pid])


# ---------------------------------------------------------------- one a trainer


def test_loaders_share_a_server_and_it_ends_with_the_last_of_them() -> None:
    policy = Policy(start_method="forkserver", accelerators=True)  # not the one that this module keeps
    loaders = [make(Draws(COUNT), policy=policy, num_workers=1) for _ in range(2)]
    for loader in loaders:
        list(loader)
    servers = {server_of(loader).pid for loader in loaders}
    assert len(servers) == 1
    loaders[0].close()
    assert psutil.pid_exists(*servers)
    loaders.clear()
    del loader
    assert gone(servers)


def test_another_environment_is_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with make(Surroundings(), policy=FORKED, num_workers=1, collate_fn=as_they_are) as loader:
        next(iter(loader))
        before = server_of(loader).pid
        monkeypatch.setenv("SOMETHING", "new")
        assert next(iter(loader))[0]["environment"]["SOMETHING"] == "new"
        assert server_of(loader).pid != before


FORKS = """
    import os, sys
    from tests.runtime.harness import *
    loader = make(Draws(COUNT), policy=Policy(start_method="forkserver"))
    first = run_epoch(loader)
    server = loader._safe.starting._launcher.server().pid
    pid = os.fork()
    if not pid:
        again = make(Draws(COUNT), policy=Policy(start_method="forkserver"))
        same = run_epoch(again) == first
        other = again._safe.starting._launcher.server().pid
        again.close()
        sys.exit(0 if same and other != server else 1)
    assert os.waitpid(pid, 0)[1] == 0
    print(digest(first), digest(run_epoch(loader)) == digest(first), loader._safe.starting._launcher.server().pid == server)
    """


def test_a_fork_of_the_trainer_has_a_server_of_its_own(tmp_path: Path) -> None:
    out = run_script(program(tmp_path, FORKS)).split()
    assert out == [digest(persistent_epochs()[0]), "True", "True"]


# ---------------------------------------------------------------- what it imports

HARM = {
    "starts_threads": "import threading, time; threading.Thread(target=time.sleep, args=(10_000,), daemon=True).start()",
    "opens_files": "kept = open(__file__)",
    "makes_generators": "import numpy; generator = numpy.random.default_rng()",
    "is_harmless": "import random; kept = random.SystemRandom(), 'and nothing else'",
    "cannot_be_imported": "raise OSError('no such device')",
}


class Asks(Draws):
    """Whether modules were imported before anybody here asked for them."""

    def __getitem__(self, index: int) -> Any:
        import sys

        return {name: torch.tensor(name in sys.modules) for name in HARM}


@pytest.mark.slow
def test_modules_that_do_more_than_define_things_are_left_to_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in HARM.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    policy = Policy(start_method="forkserver", preload=tuple(HARM))
    with make(Asks(2), policy=policy, num_workers=1) as loader:
        found = {name: bool(there.any()) for name, there in next(iter(loader)).items()}
    assert found == {**dict.fromkeys(HARM, False), "is_harmless": True}


class Version(Draws):
    """Which version of a module its process runs."""

    def __getitem__(self, index: int) -> torch.Tensor:
        import changing  # type: ignore[import-not-found]

        return torch.tensor(changing.VERSION)


def test_a_module_that_changed_since_it_was_preloaded_is_not_served_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "changing.py"
    path.write_text("VERSION = 1")
    monkeypatch.syspath_prepend(tmp_path)
    policy = Policy(start_method="forkserver", preload=("changing",))
    with make(Version(8), policy=policy, num_workers=1) as loader:
        assert [batch.tolist() for batch in loader] == [[1] * 4] * 2
        server = server_of(loader).pid
        path.write_text("VERSION = 22")
        assert [batch.tolist() for batch in loader] == [[22] * 4] * 2
        assert server_of(loader).pid != server
        assert loader.report().code_changed == [str(path)]


def test_an_edit_of_the_users_own_module_is_told_and_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next processes run the new code, and the report of any loader that starts one says so."""
    text = "class Numbers:\n    def __len__(self): return 4\n    def __getitem__(self, index): return {}"
    path = tmp_path / "users_numbers.py"
    path.write_text(text.format(1))
    monkeypatch.syspath_prepend(tmp_path)
    numbers: Any = __import__("users_numbers").Numbers()
    with make(numbers, policy=FORKED, num_workers=1) as loader:
        assert next(iter(loader)).tolist() == [1] * 4
        assert loader.report().code_changed == []
        path.write_text(text.format(20))
        assert next(iter(loader)).tolist() == [20] * 4
        assert loader.report().code_changed == [str(path)]


# ---------------------------------------------------------------- where there is none

PORTABLE = """
    import warnings
    from tests.runtime.harness import *
    loader = make(Draws(COUNT), policy=Policy(start_method="forkserver"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        print(digest(run_epoch(loader)))
    print(*[str(w.message) for w in told if "fork server" in str(w.message)], sep="|")
    os.environ["SAFELOADER_STRICT"] = "1"
    from safeloader.errors import StartError
    try:
        next(iter(make(Draws(COUNT), policy=Policy(start_method="forkserver"))))
    except StartError as error:
        print(error.hint)
    """


def test_where_there_can_be_no_server_processes_are_spawned_and_it_says_why(tmp_path: Path) -> None:
    lines = run_script(program(tmp_path, PORTABLE), _SAFELOADER_PORTABLE="1").splitlines()
    assert lines[0] == digest(persistent_epochs()[0])
    assert lines[1] == (
        "train: no fork server (this system has no descriptors of processes (pidfd)); processes are spawned instead "
        "[SL102]"
    )
    assert 'start_method="spawn"' in lines[2]


# ---------------------------------------------------------------- the end of the trainer

ENDS = """
    import signal, sys, threading
    from tests.runtime.harness import *
    orders = Orders(sys.argv[1])
    orders.give("sample", 4, "sleep")
    def go(loader):
        threading.Thread(target=lambda: list(loader), daemon=True).start()
    policy = Policy(start_method="forkserver", standby=1)
    busy = make(Draws(COUNT, orders), shuffle=False, num_workers=2, policy=policy)
    go(busy)
    until(lambda: orders.carried_out("sample", 4) and len(processes_of(busy)) == 3)
    early = make(Draws(COUNT), policy=Policy(prestart=True), num_workers=1)
    late = make(Draws(COUNT), policy=Policy(start_method="forkserver", accelerators=True), num_workers=1)
    go(late)  # its server is importing
    until(lambda: late._safe.starting._launcher)
    print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
    signal.pause()
    """


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_trainer_that_is_killed_takes_servers_standbys_and_prestarted_processes_with_it(
    tmp_path: Path, orders: Orders
) -> None:
    running = start_script(program(tmp_path, ENDS), orders.folder)
    assert running.stdout is not None
    pids = [int(pid) for pid in running.stdout.readline().split()]
    running.kill()
    _, _, err = end(running, 60)
    assert len(pids) >= 5, err
    assert gone(pids)
