"""Where there is no room, or a host is another than this one, processes stay here, and one line says why."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from safeloader import Policy
from safeloader.remote import node
from tests.fixtures_data import Draws, Orders
from tests.programs import environment
from tests.remote.links import KEY, AgentProgram, hosts, linked
from tests.runtime.harness import COUNT, make, persistent_epochs, reference, run_epoch
from tests.until import until


def _lines(caplog: pytest.LogCaptureFixture, code: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if getattr(record, "code", "") == code]


def _stays(caplog: pytest.LogCaptureFixture, policy: Policy) -> str:
    """An epoch is torch's, on this host alone; returns the one line."""
    with caplog.at_level(logging.WARNING, "safeloader"), make(Draws(COUNT), policy=policy) as loader:
        assert [run_epoch(loader)] == reference()
        assert loader.report().faults == []
    (line,) = set(_lines(caplog, "SL039"))
    return line


@pytest.mark.slow
def test_an_agent_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    line = _stays(caplog, Policy(hosts=hosts(address)))
    assert "train: processes stay on this host" in line
    assert "refused" in line


@pytest.mark.slow
def test_a_port_that_leads_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # it takes connections, and never says a word
        line = _stays(caplog, Policy(hosts=hosts(server.getsockname())))
    assert "timed out" in line


@pytest.mark.slow
def test_an_agent_with_another_key_is_not_used_and_reads_nothing(
    agent: AgentProgram, caplog: pytest.LogCaptureFixture
) -> None:
    line = _stays(caplog, Policy(hosts=hosts(agent.address, key=bytes(32))))
    assert "proved itself" in line
    assert agent.processes() == []


def test_an_agent_closes_on_who_does_not_prove_itself(agent: AgentProgram) -> None:
    with socket.create_connection(agent.address) as connection:
        connection.sendall(b"SLhosts1" + bytes(32) + bytes(32))
        connection.settimeout(20)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(100):
                said += data
    assert len(said) == 40  # a greeting, and no proof
    with socket.create_connection(agent.address) as connection:
        connection.sendall(b"\x80\x05" + bytes(100))
        connection.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""


def test_an_agent_listens_at_its_address_alone(agent: AgentProgram) -> None:
    assert agent.address[0] == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", agent.address[1]), timeout=20)


@pytest.mark.slow
def test_another_version_is_refused_by_name(
    agent: AgentProgram, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "_PACKAGES", ("torch", "numpy", "click"))
    line = _stays(caplog, Policy(hosts=hosts(agent.address)))
    assert "click is (none) there and" in line


def test_a_module_of_the_user_s_that_differs_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n")
    own = node.likeness(with_sources=False)
    told = node.Likeness(own.versions, {"mine": "0" * 64, "not_there": "1" * 64})
    assert node.differences(told, [str(tmp_path)]) == f"the source of mine ({tmp_path / 'mine.py'} there) is another"
    assert node.differences(own, []) == ""


@pytest.mark.slow
def test_what_shares_memory_with_the_program_stays(caplog: pytest.LogCaptureFixture, agent: AgentProgram) -> None:
    class Shares(Draws):
        def __init__(self) -> None:
            super().__init__(COUNT)
            self.counter = torch.zeros(1).share_memory_()

    policy = Policy(hosts=hosts(agent.address))
    with caplog.at_level(logging.WARNING, "safeloader"), make(Shares(), policy=policy) as loader:
        assert [run_epoch(loader)] == reference()
    assert "shares with this program" in "".join(_lines(caplog, "SL039"))


@pytest.mark.slow
def test_some_stay_where_that_is_asked_for(agent: AgentProgram) -> None:
    with make(Draws(COUNT), policy=Policy(hosts=hosts(agent.address, local=1))) as loader:
        batches = iter(loader)
        next(batches)
        assert len(agent.processes()) == 1
    assert until(lambda: not agent.processes())


@pytest.mark.slow
def test_faults_there_lead_down_to_the_trainer_and_back_there(agent: AgentProgram, orders: Orders) -> None:
    policy = Policy(hosts=hosts(agent.address), max_processes=1, max_restarts=0, recover_after=2)
    with make(Draws(COUNT, orders), policy=policy, persistent_workers=True) as loader:
        first, *rest = persistent_epochs()
        orders.give("sample", 24, "SIGKILL")
        assert run_epoch(loader) == first
        report = loader.report()
        assert [(fault.cause, fault.sample) for fault in report.faults] == [("died", 24)]
        assert report.fallbacks == 1  # of one process to none
        for number, epoch in enumerate(rest, 1):
            assert run_epoch(loader, number) == epoch
            if agent.processes():
                break
        assert len(agent.processes()) == 1


@pytest.mark.slow
def test_a_killed_agent_is_one_fault_and_its_processes_are_gone(
    caplog: pytest.LogCaptureFixture, orders: Orders
) -> None:
    with AgentProgram() as agent, make(Draws(COUNT, orders), policy=Policy(hosts=hosts(agent.address))) as loader:
        orders.give("sample", 24, "wait here")
        torch.manual_seed(0)
        batches = iter(loader)
        next(batches)
        there = agent.processes()
        assert there
        agent.kill()
        assert until(lambda: not any(map(_runs, there)))
        orders.withdraw()
        list(batches)
        (fault,) = loader.report().faults
        assert "is gone" in fault.detail


@pytest.mark.slow
def test_a_dataset_goes_once_to_a_host(agent: AgentProgram) -> None:
    with linked(agent) as link:
        with make(Large(), num_workers=2, shuffle=False, policy=Policy(hosts=hosts(link.address))) as loader:
            first = [row for batch in loader for row in batch.tolist()]
            second = [row for batch in loader for row in batch.tolist()]
        assert first == second == list(range(COUNT))
        assert Large.SIZE < link.there < 1.5 * Large.SIZE


@pytest.mark.slow
def test_a_dataset_goes_once_to_a_node_however_many_agents_it_has() -> None:
    with contextlib.ExitStack() as held:
        links = [held.enter_context(linked(held.enter_context(AgentProgram()))) for _ in range(2)]
        policy = Policy(hosts=hosts(*(link.address for link in links)))
        with make(Large(7), num_workers=2, shuffle=False, policy=policy) as loader:  # no agent has seen it
            assert [row for batch in loader for row in batch.tolist()] == list(range(COUNT))
            assert [row for batch in loader for row in batch.tolist()] == list(range(COUNT))
        assert all(link.there for link in links)
        assert Large.SIZE < sum(link.there for link in links) < 1.5 * Large.SIZE


class Large(torch.utils.data.Dataset[int]):
    """Holds some megabytes."""

    SIZE = 8 << 20

    def __init__(self, first: int = 0) -> None:
        self.data = torch.arange(self.SIZE // 8) + first
        self.first = first

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> int:
        return int(self.data[index]) - self.first


PROGRAM = """
import sys, torch
from safeloader import DataLoader, Policy
from tests.remote.links import hosts
from tests.fixtures_data import Draws
if __name__ == "__main__":
    loader = DataLoader(Draws(10_000), batch_size=2, num_workers=2, policy=Policy(hosts=hosts((sys.argv[1], int(sys.argv[2])))))
    for batch in loader:
        print("here", flush=True)
        sys.stdin.read(1)
"""


@pytest.mark.parametrize("deed", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_with_the_trainer_everything_ends(agent: AgentProgram, deed: signal.Signals) -> None:
    import sys

    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, agent.address[0], str(agent.address[1])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == b"here\n"
    own = psutil.Process(running.pid).children(recursive=True)
    there = agent.processes()
    assert len(there) == 2
    os.kill(running.pid, deed)
    running.wait()
    for stream in (running.stdin, running.stdout):
        assert stream is not None
        stream.close()
    assert until(lambda: not any(map(_runs, [*own, *there])))


def _runs(process: psutil.Process) -> Any:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_key_is_shown_to_nobody() -> None:
    assert KEY.hex() not in repr(hosts(("10.0.0.1", 7)))
    assert repr(KEY) not in repr(Policy(hosts=hosts(("10.0.0.1", 7))))
