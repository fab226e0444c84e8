"""The stream between a stand-in and a relay, and who may speak on it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeloader.remote import handshake, wire


class Taker:
    """Keeps what comes."""

    def __init__(self) -> None:
        self.records: list[tuple[int, int, bytes]] = []
        self.slots: dict[int, bytearray] = {}

    def room(self, slot: int, offset: int, length: int) -> memoryview:
        memory = self.slots.setdefault(slot, bytearray(4 << 20))
        return memoryview(memory)[offset : offset + length]

    def take(self, kind: int, offset: int, data: bytearray) -> None:
        self.records.append((kind, offset, bytes(data)))


@pytest.fixture
def ends() -> Iterator[tuple[wire.Stream, wire.Stream]]:
    server = socket.create_server(("127.0.0.1", 0))
    one = socket.create_connection(server.getsockname())
    other, _ = server.accept()
    server.close()
    streams = wire.Stream(one), wire.Stream(other)
    yield streams
    for stream in streams:
        stream.close()


def _carry(one: wire.Stream, other: wire.Stream, taker: Taker, count: int) -> None:
    while len(taker.records) < count:
        one.flush()
        other.receive(taker)


def test_records_come_whole_and_in_order_whatever_their_length(ends: Any) -> None:
    taker, sent = Taker(), []
    for size in (0, 1, 25, 70_000, 3 << 20, 0, 5):
        data = os.urandom(size)
        ends[0].put(wire.FRAMES, data, offset=size)
        sent.append((wire.FRAMES, size, data))
    _carry(*ends, taker, len(sent))
    assert taker.records == sent
    assert not ends[0].waits


def test_a_batch_is_received_where_it_belongs_and_its_slot_is_free_when_it_is_sent(ends: Any) -> None:
    taker, data, freed = Taker(), os.urandom(3 << 20), []
    ends[0].put(wire.BYTES, memoryview(data)[: 1 << 20], 7, 0)
    ends[0].put(wire.BYTES, memoryview(data)[1 << 20 :], 7, 1 << 20, lambda: freed.append(7))
    ends[0].put(wire.FRAMES, b"and")
    _carry(*ends, taker, 3)
    assert taker.slots[7][: 3 << 20] == data
    assert [record[2] for record in taker.records] == [b"", b"", b"and"]
    assert freed == [7]


def test_words_on_the_page_overtake_what_waits_but_break_nothing(ends: Any) -> None:
    taker, data = Taker(), os.urandom(12 << 20)
    ends[0].put(wire.FRAMES, data)
    ends[0].put(wire.FRAMES, b"last")
    ends[0].flush()
    assert ends[0].waits
    ends[0].put_next(wire.SAYS, b"page")
    _carry(*ends, taker, 3)
    assert [(kind, content) for kind, _, content in taker.records] == [
        (wire.FRAMES, data), (wire.SAYS, b"page"), (wire.FRAMES, b"last"),
    ]  # fmt: skip


def test_the_end_of_the_other_side_is_seen(ends: Any) -> None:
    ends[0].socket.shutdown(socket.SHUT_WR)
    ends[1].receive(Taker())
    assert ends[1].ended


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 40))
def test_frames_are_cut_as_they_were_made_however_they_arrive(bodies: list[bytes], step: int) -> None:
    data = b"".join(wire.FRAME_HEAD.pack(len(body)) + body for body in bodies) + b"\1\2"
    cutter = wire.Cutter()
    found = [body for at in range(0, len(data), step) for body in cutter.feed(data[at : at + step])]
    assert found == bodies
    assert cutter.rest() == b"\1\2"


# ---------------------------------------------------------------- who may speak


def _both(key: bytes, other: bytes) -> tuple[Any, Any]:
    one, two = socket.socketpair()
    told: list[Any] = []

    def accept() -> None:
        try:
            told.append(handshake.accept(two, other, 5.0))
        except OSError as error:
            told.append(error)
        two.close()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        mine: Any = handshake.connect(one, key, 5.0)
    except OSError as error:
        mine = error
    thread.join()
    one.close()
    return mine, told[0]


def test_both_ends_prove_that_they_know_the_key() -> None:
    assert _both(b"k" * 32, b"k" * 32) == (None, None)
    mine, told = _both(b"k" * 32, b"l" * 32)
    assert isinstance(told, handshake.NotProved)
    assert isinstance(mine, OSError)


def test_a_proof_that_was_overheard_is_worth_nothing() -> None:
    one, two = socket.socketpair()
    with one, two:
        one.sendall(b"SLhosts1" + bytes(32) + bytes(32))
        with pytest.raises(handshake.NotProved, match="does not know the key"):
            handshake.accept(two, b"k" * 32, 5.0)


def test_silence_is_no_proof() -> None:
    one, two = socket.socketpair()
    with one, two, pytest.raises(OSError, match="timed out"):
        handshake.accept(two, b"k" * 32, 0.05)
