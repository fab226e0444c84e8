"""A rank's part in the board, with stores that do not answer: nobody waits for them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from safeloader.distributed.health import access as accesses
from safeloader.distributed.health import member as members
from safeloader.distributed.health.access import Access
from safeloader.distributed.health.line import Line
from safeloader.distributed.health.member import Member
from safeloader.observe.stall import Glance
from tests.until import until


@pytest.fixture
def store() -> Iterator[dist.TCPStore]:
    """That of a group of one rank."""
    made = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    dist.init_process_group("gloo", store=made, rank=0, world_size=1)
    yield made
    dist.destroy_process_group()


@contextlib.contextmanager
def mute() -> Iterator[tuple[str, int]]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken: list[socket.socket] = []

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])

        taking = threading.Thread(target=take)
        taking.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        taking.join()
        for one in taken:
            one.close()


def test_a_store_that_takes_connections_and_never_answers_holds_nobody_up(
    store: dist.TCPStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And is asked anew, over a new line, until it answers."""
    monkeypatch.setattr(members, "_LINE_HANGS", 0.2)
    monkeypatch.setattr(accesses, "_SECONDS_TO_ANSWER", 1.0)
    access = Access(store)
    real, member = access._address, Member(access, 0, 1, 0.05, 300.0)
    with mute() as address:
        access._address = address
        assert until(lambda: (member.look(Glance()), "does not answer: no answer in" in caplog.text)[1])
        assert "no answer in" in member.reading().problem
        assert member.status()["ranks"]["rows"] == []
        access._address = real
        assert until(lambda: (member.look(Glance()), "answers again" in caplog.text)[1])
        seen = until(lambda: (member.status(), member.look(Glance()), member.reading())[2].seen)
        assert seen[0].row.state in {"idle", "between"}  # other tests' loaders may be alive
        assert member.reading().problem == ""
    member.leave()
    assert member.look(Glance()) is None
    assert sum("does not answer" in line for line in caplog.messages) == 1
    assert until(lambda: not any(line.alive for line in member._left_behind)), "their sockets are other tests' surprise"


def test_a_member_ends_with_its_process_group_and_says_so_on_the_board(store: dist.TCPStore) -> None:
    member = Member(Access(store), 0, 1, 0.05, 300.0)
    watcher = Member(Access(store), 0, 1, 0.05, 300.0)
    assert until(lambda: (member.look(Glance()), member._count > 1)[1])
    member.leave()
    assert member.gone
    rows = watcher.access._read(store, 1)
    assert rows[0].state == "left"
    dist.destroy_process_group()
    assert watcher.look(Glance()) is None, "no group, no board"
    assert watcher.gone
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


@pytest.mark.parametrize("kind", ["file", "hash"])
def test_any_store_of_torch_will_do(kind: str, tmp_path: object) -> None:
    base = dist.FileStore(f"{tmp_path}/store", 1) if kind == "file" else dist.HashStore()
    access = Access(dist.PrefixStore("0", dist.PrefixStore("default_pg", base)))
    from safeloader.distributed.health.row import Row, encode

    for rank in (0, 2):
        assert access.visit(rank, encode(Row(rank, 1, 5.0, "idle", 0.0)), None) is None
    rows = access.visit(3, encode(Row(3, 1, 5.0, "idle", 0.0)), 600)
    assert rows is not None
    assert sorted(rows) == [0, 2, 3], "who has published nothing is not waited for"


def test_a_line_tells_how_its_job_ended_once() -> None:
    ended = threading.Semaphore(0)
    line = Line(ended.release)
    assert line.outcome() is None
    line.begin(lambda: 7)
    ended.acquire()
    outcome = line.outcome()
    assert outcome is not None and (outcome.value, outcome.error, line.busy) == (7, None, False)
    assert line.outcome() is None
    line.begin(lambda: {}["x"])
    ended.acquire()
    outcome = line.outcome()
    assert outcome is not None and isinstance(outcome.error, KeyError)
    line.close()


def test_what_the_package_shows_is_this() -> None:
    import safeloader.distributed

    assert {"Board", "ElasticDistributedSampler", "board"} <= set(safeloader.distributed.__all__)
    assert safeloader.distributed.board.__module__ == "safeloader.distributed.health"
