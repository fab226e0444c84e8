"""A rank's part in the board, with stores that do not answer: nobody waits for them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from safeloader.distributed import store as stores
from safeloader.distributed.board import member as members
from safeloader.distributed.board.member import BoardMember, key_of, visit
from safeloader.distributed.board.rank_status import RankStatus, decode, encode
from safeloader.distributed.store import GroupStore, found
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
    monkeypatch.setattr(members, "_CALL_HANGS", 0.2)
    monkeypatch.setattr(stores, "_SECONDS_TO_ANSWER", 1.0)
    member = BoardMember(store, 0, 1, 0.05, 300.0)
    real = member.store.address
    with mute() as address:
        member.store.address = address
        assert until(lambda: (member.look(Glance()), "does not answer: no answer in" in caplog.text)[1])
        assert "no answer in" in member.reading().problem
        assert member.status()["ranks"]["rows"] == []
        member.store.address = real
        assert until(lambda: (member.look(Glance()), "answers again" in caplog.text)[1])
        seen = until(lambda: (member.status(), member.look(Glance()), member.reading())[2].seen)
        assert seen[0].row.state in {"idle", "between"}  # other tests' loaders may be alive
        assert member.reading().problem == ""
    member.leave()
    assert member.look(Glance()) is None
    assert sum("does not answer" in line for line in caplog.messages) == 1
    assert until(lambda: not any(line.is_alive() for line in member.store._hanging)), (
        "their sockets are other tests' surprise"
    )


def test_a_member_ends_with_its_process_group_and_says_so_on_the_board(store: dist.TCPStore) -> None:
    member = BoardMember(store, 0, 1, 0.05, 300.0)
    watcher = BoardMember(store, 0, 1, 0.05, 300.0)
    assert until(lambda: (member.look(Glance()), member._count > 1)[1])
    member.leave()
    assert member.gone
    rows = until(lambda: watcher.store.ask(lambda store: found(store, [key_of(0)]), 30.0))
    row = decode(rows[key_of(0)])
    assert row is not None
    assert row.state == "left"
    dist.destroy_process_group()
    assert watcher.look(Glance()) is None, "no group, no board"
    assert watcher.gone
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


@pytest.mark.parametrize("kind", ["file", "hash"])
def test_any_store_of_torch_will_do(kind: str, tmp_path: object) -> None:
    base = dist.FileStore(f"{tmp_path}/store", 1) if kind == "file" else dist.HashStore()
    opened = GroupStore(dist.PrefixStore("0", dist.PrefixStore("default_pg", base))).open()
    for rank in (0, 2):
        assert visit(opened, rank, encode(RankStatus(rank, 1, 5.0, "idle", 0.0)), None) is None
    rows = visit(opened, 3, encode(RankStatus(3, 1, 5.0, "idle", 0.0)), 600)
    assert rows is not None
    assert sorted(rows) == [0, 2, 3], "who has published nothing is not waited for"


def test_what_the_package_shows_is_this() -> None:
    import safeloader.distributed

    assert {"Board", "ElasticDistributedSampler", "board"} <= set(safeloader.distributed.__all__)
    assert safeloader.distributed.board.__module__ == "safeloader.distributed.board"
