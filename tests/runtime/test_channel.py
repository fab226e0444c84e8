"""Messages arrive whole and in order, however the bytes are cut, and the trainer's end never blocks."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeloader.runtime import protocol as p
from safeloader.runtime.channel import Blocking, NonBlocking, frame

MESSAGES = [
    p.Left(), p.Loaded(7, 5, b"x" * 300, None, [(0, 5)], None, 0.0, 0.0, (), None, 0.0, b""), p.Unshadowed("text"),
    p.Refused(b""), p.Unshadowed("y" * 70_000), p.More(),
]  # fmt: skip


@pytest.fixture
def ends() -> Iterator[tuple[NonBlocking, Blocking]]:
    ours, theirs = socket.socketpair()
    channel, link = NonBlocking(ours), Blocking(theirs)
    yield channel, link
    channel.close()
    link.socket.close()


def test_a_message_cut_at_any_byte_is_put_together() -> None:
    data = frame(MESSAGES[1]) + frame(MESSAGES[2])
    for cut in range(len(data) + 1):
        ours, theirs = socket.socketpair()
        channel = NonBlocking(ours)
        theirs.sendall(data[:cut])
        first = channel.receive()
        theirs.sendall(data[cut:])
        came = first + channel.receive()
        assert came == MESSAGES[1:3], cut
        assert [type(message) for message in came] == [p.Loaded, p.Unshadowed]
        assert not channel.ended
        channel.close()
        theirs.close()


@settings(deadline=None, max_examples=60)
@given(cuts=st.lists(st.integers(1, 3000), max_size=60), order=st.permutations(range(len(MESSAGES))))
def test_messages_in_pieces_of_any_size_arrive_in_order(cuts: list[int], order: list[int]) -> None:
    wanted = [MESSAGES[number] for number in order]
    data = b"".join(map(frame, wanted))
    ours, theirs = socket.socketpair()
    channel, came = NonBlocking(ours), []
    for size in [*cuts, *[60_000] * 3]:
        theirs.sendall(data[:size])
        data = data[size:]
        came += channel.receive()
    assert came == wanted
    channel.close()
    theirs.close()


def test_half_a_message_of_a_dead_process_is_no_message_and_blocks_nobody(ends: tuple[NonBlocking, Blocking]) -> None:
    channel, link = ends
    link.send(p.Unshadowed("whole"))
    link.socket.sendall(frame(p.Unshadowed("half"))[:-1])
    assert channel.receive() == [p.Unshadowed("whole")]
    assert channel.receive() == []
    assert not channel.ended
    link.socket.close()
    assert channel.receive() == []
    assert channel.ended


def test_a_very_long_message_arrives_in_both_directions(ends: tuple[NonBlocking, Blocking]) -> None:
    channel, link = ends
    message = p.Task(0, 0, list(range(1 << 18)), (), 0)
    assert channel.send(message), "it does not fit into the socket's buffer"
    poller = select.poll()
    poller.register(channel.fileno(), select.POLLOUT)
    got = None
    while got is None:
        link.socket.setblocking(False)
        try:
            got = link.receive()
        except BlockingIOError:
            assert channel.waits
            assert poller.poll(5000), "there is room again"
            channel.flush()
    assert got == message
    assert not channel.waits


def test_sending_to_a_peer_that_does_not_read_never_blocks_and_loses_nothing(
    ends: tuple[NonBlocking, Blocking],
) -> None:
    channel, link = ends
    sent = [p.Hosted(number, None, 0.0, "z" * 2000, 0, ()) for number in range(500)]
    waited = [channel.send(message) for message in sent]
    assert not waited[0]
    assert waited[-1]
    came = []
    for _ in sent:
        came.append(link.receive())
        channel.flush()
    assert came == sent
    assert not channel.flush()


def test_sending_to_a_peer_that_is_gone_is_quiet(ends: tuple[NonBlocking, Blocking]) -> None:
    channel, link = ends
    link.socket.close()
    assert not channel.send(p.Drop(0))
    assert not channel.waits
    assert channel.receive() == []
    assert channel.ended


def test_a_channel_shut_by_the_trainer_ends_the_process_after_what_was_sent(ends: tuple[NonBlocking, Blocking]) -> None:
    channel, link = ends
    channel.send(p.Drop(1))
    channel.shut()
    assert link.receive() == p.Drop(1)
    assert link.receive() is None
    link.send(p.Changed(1))
    assert channel.receive() == [p.Changed(1)]


def test_several_messages_in_one_read_come_one_after_another(ends: tuple[NonBlocking, Blocking]) -> None:
    channel, link = ends
    for number in range(3):
        channel.send(p.Drop(number))
    assert [link.receive() for _ in range(3)] == [p.Drop(0), p.Drop(1), p.Drop(2)]


def test_what_has_arrived_can_be_looked_at_before_it_is_received(ends: tuple[NonBlocking, Blocking]) -> None:
    channel, link = ends
    assert link.arrived() == ()
    for number in range(2):
        channel.send(p.Rewind(number, b"x" * 100_000))
    assert [message.worker for message in link.arrived()] == [0, 1]
    channel.send(p.Drop(2))
    assert link.receive().worker == 0
    assert [message.worker for message in link.arrived()] == [1, 2]
    channel.shut()
    assert [message.worker for message in link.arrived()] == [1, 2]
    assert [link.receive().worker for _ in range(2)] == [1, 2]
    assert link.receive() is None
    link.socket.close()
    assert link.arrived() == ()
