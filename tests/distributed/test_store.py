"""The process group's store answers, or it is known at once that it does not."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from safeloader.distributed.store import GroupStore, group_store
from tests.until import until

SERVER = """
import sys, torch.distributed as dist
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
sys.stdin.read()
"""


class Server:
    """A store in a process of its own, and what asks it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self._port = int(self.process.stdout.readline())

    def connect(self, prefix: str) -> None:
        tcp = dist.TCPStore("127.0.0.1", self._port, timeout=timedelta(seconds=60))
        self.torchs = dist.PrefixStore(prefix, tcp)
        self.store = GroupStore(self.torchs)
        self.store._prefix += prefix

    def freeze(self) -> None:
        """Stop it, and wait until all its threads have stopped: until then it may answer."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def one_for_all() -> Iterator[Server]:
    made = Server()
    yield made
    made.end()


@pytest.fixture
def server(one_for_all: Server, request: pytest.FixtureRequest) -> Iterator[Server]:
    one_for_all.connect(request.node.name)
    yield one_for_all
    one_for_all.process.send_signal(signal.SIGCONT)
    one_for_all.store.close()


def test_what_is_written_is_found_and_what_is_not_there_is_not_waited_for(server: Server) -> None:
    server.store.first("a", "1", 30.0)
    server.store.first("b", "3", 30.0)
    assert server.store.look(["a", "b", "nobody's"], 30.0) == {"a": b"1", "b": b"3"}
    server.store.delete("a")
    assert server.store.look(["a"], 30.0) == {}
    assert server.store.look([], 30.0) == {}
    many = [f"many/{number}" for number in range(600)]
    assert server.store.ask(lambda store: [store.set(key, key) for key in many[::7]], 30.0) is not None
    assert server.store.look(many, 30.0) == {key: key.encode() for key in many[::7]}


def test_of_several_the_first_one_counts(server: Server) -> None:
    assert [server.store.first("place", str(rank), 30.0) for rank in range(3)] == [b"0"] * 3
    assert server.store.first("place", "7", 30.0, instead_of=b"5") == b"0"
    assert server.store.first("place", "7", 30.0, instead_of=b"0") == b"7"


def test_a_frozen_store_holds_nobody_and_is_well_again_when_it_comes_back(server: Server) -> None:
    assert server.store.look(["a"], 30.0) == {}
    server.freeze()
    assert server.store.look(["a"], 0.2) is None
    assert server.store.trouble == "the store did not answer within 0.2 s"
    assert server.store.first("a", "1", 3600.0) is None, "at once: it is known that it does not answer"
    server.store.delete("a")  # says nothing
    server.process.send_signal(signal.SIGCONT)
    assert until(lambda: server.store.look(["a"], 1.0) == {})
    assert server.store.first("b", "2", 30.0) == b"2"


def test_a_frozen_store_is_free_for_torchs_own_connection(server: Server) -> None:
    """Ours is another: a call of ours that is blocked holds no lock that torch's needs."""
    server.freeze()
    assert server.store.look(["a"], 0.2) is None
    server.process.send_signal(signal.SIGCONT)
    server.torchs.set("theirs", "1")
    assert server.torchs.get("theirs") == b"1"


def test_a_store_that_is_gone_holds_nobody() -> None:
    server = Server()
    server.connect("gone")
    assert server.store.look(["a"], 30.0) == {}
    server.end()
    assert server.store.look(["a"], 30.0) is None
    assert "ConnectionRefusedError" in server.store.trouble
    assert server.store.first("a", "1", 3600.0) is None
    server.store.delete("a")  # says nothing
    assert server.store.look(["a"], 3600.0) is None
    server.store.close()


def test_a_call_that_hangs_is_left_behind_with_its_thread_and_only_so_often(server: Server) -> None:
    free = threading.Event()
    for _ in range(3):
        hanging = server.store.start(lambda store: free.wait())
        assert not hanging.wait()
        assert server.store.renew()
    assert server.store.look(["a"], 30.0) == {}
    assert not server.store.renew(), "three threads hang"
    free.set()
    assert until(lambda: not any(line.is_alive() for line in server.store._hanging))
    assert server.store.renew()


def test_an_error_of_a_call_is_its_own(server: Server) -> None:
    failed = server.store.start(lambda store: {}["x"])
    assert failed.wait(30.0)
    assert isinstance(failed.error, KeyError)
    call = server.store.start(lambda store: 7)
    assert call.wait(30.0)
    assert (call.value, call.error) == (7, None)


def test_a_closed_store_leaves_no_thread(server: Server) -> None:
    server.store.look(["a"], 30.0)
    thread = server.store._line
    assert thread in threading.enumerate()
    server.store.close()
    assert thread is not None
    thread.join(30.0)
    assert not thread.is_alive()


def test_other_kinds_of_stores_serve_as_well(tmp_path: object) -> None:
    for torchs in (dist.HashStore(), dist.FileStore(f"{tmp_path}/store", 1)):
        store = GroupStore(torchs)
        assert store.first("a", "1", 30.0) == b"1"
        assert store.first("a", "2", 30.0) == b"1"
        assert store.look(["a", "b"], 30.0) == {"a": b"1"}
        store.close()


def test_one_rank_alone_needs_none() -> None:
    assert group_store() is None
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert group_store() is None
    finally:
        dist.destroy_process_group()


def test_a_group_that_is_gone_has_no_store_any_more() -> None:
    import torch.testing._internal.distributed.fake_pg  # noqa: F401 - a group of one process

    dist.init_process_group("fake", store=dist.HashStore(), rank=1, world_size=2)
    try:
        assert group_store() is not None
    finally:
        dist.destroy_process_group()
    gc.collect()
    assert group_store() is None, "torch's store was collected, and ours asks nobody"


def test_a_process_knows_when_it_began() -> None:
    code = "import time; t = time.time(); time.sleep(0.3); from safeloader.distributed.store import born; print(born() - t)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert float(said.stdout) < 0.05, "the process, not the module"
