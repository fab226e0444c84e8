"""The small parts of a shared process: whose turn it is, and how open files get there."""

from __future__ import annotations

import os
import socket

import pytest

from safeloader.runtime.child.fair_queue import Turns
from safeloader.runtime.child.fd_passing import Receiver, hand_over

# ---------------------------------------------------------------- turns


def serve(costs: dict[str, float], rounds: int, turns: Turns[str] | None = None) -> dict[str, float]:
    """Everybody always waits; who has got how much time."""
    turns, got = turns or Turns(), dict.fromkeys(costs, 0.0)
    for _ in range(rounds):
        chosen = turns.choose(list(costs))
        turns.spend(chosen, costs[chosen])
        got[chosen] += costs[chosen]
    return got


def test_slow_and_quick_get_the_same_time_to_within_one_message() -> None:
    got = serve({"slow": 10.0, "quick": 0.1, "other": 1.0}, 1000)
    assert max(got.values()) - min(got.values()) <= 10.0 + 1e-6
    assert min(got.values()) > 50.0


def test_equal_ones_alternate() -> None:
    turns: Turns[str] = Turns()
    order = []
    for _ in range(6):
        order.append(turns.choose(["a", "b"]))
        turns.spend(order[-1], 1.0)
    assert order == ["a", "b"] * 3


def test_who_had_nothing_to_do_saves_no_time_up() -> None:
    turns: Turns[str] = Turns()
    serve({"a": 1.0, "b": 1.0}, 2, turns)
    serve({"a": 1.0}, 100, turns)
    got = serve({"a": 1.0, "b": 1.0}, 10, turns)
    assert abs(got["a"] - got["b"]) <= 2.0


def test_a_name_that_is_used_again_begins_anew() -> None:
    turns: Turns[str] = Turns()
    serve({"a": 1.0, "b": 5.0}, 20, turns)
    turns.forget("b")
    got = serve({"a": 1.0, "b": 1.0}, 10, turns)
    assert abs(got["a"] - got["b"]) <= 2.0


# ---------------------------------------------------------------- files


def test_each_message_comes_with_its_own_files() -> None:
    ours, theirs = socket.socketpair()
    counts = (0, 3, 1, 450, 0, 2)  # 450 need several messages of the system
    with ours, theirs:
        null = os.open(os.devnull, os.O_RDONLY)
        receiver, got = Receiver(theirs), []
        for number, count in enumerate(counts):
            hand_over(ours, ("message", number), [null] * count)
            while len(got) <= number:
                got += receiver.receive()
        os.close(null)
        assert [message for message, _ in got] == [("message", number) for number in range(len(counts))]
        assert [len(files) for _, files in got] == list(counts)
        for file in (file for _, files in got for file in files):
            assert not os.get_inheritable(file)
            os.close(file)
        ours.close()
        assert receiver.receive() == []
        assert receiver.ended


def test_handing_over_never_waits() -> None:
    def fill(end: socket.socket) -> None:
        for _ in range(100_000):
            hand_over(end, "nobody reads this", [])

    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(BlockingIOError):
        fill(ours)


def test_handing_over_to_a_process_that_is_gone_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(BrokenPipeError):
        hand_over(ours, "nobody is there", [])
