"""The parts of the way to another host, each alone."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeloader import Policy, RayHosts, SettingsError
from safeloader.config import resolve
from safeloader.remote import handshake, node, wire
from safeloader.remote.glance import glance
from safeloader.remote.node_slots import NodeSlots
from safeloader.remote.payloads import Payloads, digest_of
from safeloader.runtime import by_value
from safeloader.runtime import protocol as p
from safeloader.runtime.channel import frame
from safeloader.runtime.child.generators import States
from safeloader.runtime.child.heartbeat import Heartbeat, HeartbeatReading
from safeloader.runtime.memory.arena import Arena
from safeloader.runtime.start.launcher import Launcher
from safeloader.runtime.start.surroundings import Surroundings
from safeloader.start_method import Starting


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


# ---------------------------------------------------------------- messages and slots


class Trap:
    """Does something when it is unpickled."""

    def __reduce__(self) -> Any:
        return os._exit, (99,)


def test_a_glance_sees_plain_values_and_makes_nothing_else() -> None:
    message = (p.HOSTED, 3, {"a": Trap(), "b": [Trap()]}, 1.5, States(b"", None, None), (1, "x"))
    seen = glance(pickle.dumps(message, protocol=5))
    assert (seen[:2], seen[3], seen[5]) == ((p.HOSTED, 3), 1.5, (1, "x"))


def test_tasks_keep_their_indices() -> None:
    packed = (p.TASK, 0, 5, p.Packed(b"xyz"), (), 31)
    slots = NodeSlots()
    assert pickle.loads(frame(slots.task(glance(pickle.dumps(packed))))[8:]) == (p.TASK, 0, 5, p.Packed(b"xyz"), (), 0)


def test_a_process_has_as_many_slots_as_it_has_tasks_at_a_time() -> None:
    slots = NodeSlots()
    for task in range(100):
        assert slots.task((p.TASK, 0, task, [task], (), 40 + task % 7))[-1] in (0, 1, 2)
        if task >= 2:
            answer = slots.answer((p.CANCELLED, task - 2, 0.0))
            assert answer is not None
            assert (answer.there, answer.nbytes) == (40 + (task - 2) % 7, 0)
            slots.release(answer.here)
    assert slots.answer((p.READY, 0.0)) is None


def test_all_of_a_batch_is_sent_with_what_lies_behind_it() -> None:
    def extent(nbytes: int, place: Any, states: Any, said: Any) -> int:
        slots = NodeSlots()
        slots.task((p.TASK, 0, 1, [0], (), 9))
        loaded = (p.LOADED, 1, nbytes, b"", place, [], states, 0.0, 0.0, (), said, 0.0, b"")
        answer = slots.answer(loaded)
        assert answer is not None
        return answer.nbytes

    assert extent(0, None, None, None) == 0
    assert extent(100, None, None, None) == 100
    assert extent(100, (100, 20), (128, 50), None) == 178
    assert extent(0, None, (0, 50), (64, 7)) == 71


# ---------------------------------------------------------------- page, payload, host


def test_a_page_says_there_what_it_says_here_by_this_host_s_clock() -> None:
    here, there = Arena(), Arena()
    own, far = Heartbeat(here.page(3)), Heartbeat(there.page(3))
    own.cancel_before(17)
    own.wait(True)
    far.copy_asks(own.asks(), 1e6)
    assert far.is_cancelled(16)
    assert not far.is_cancelled(17)
    assert (far.awaited, far.left) == (True, False)
    at = far.take_task(4)
    far.sample(2)
    own.copy_says(far.says(), "S")
    assert own.read() == far.read() == HeartbeatReading(4, None, 2, at, far.progressed_at, 0, 0)
    assert 1e6 <= own.read().taken_at < 1e6 + 1e9
    assert own.state == "S"
    assert far.state == ""
    own.disown()
    assert own.read().task is None
    here.close()
    there.close()


def test_a_payload_is_fetched_once_and_by_another_if_who_fetches_it_is_gone() -> None:
    packed = by_value.pack(os.urandom(100_000))
    descriptor = os.memfd_create("test")
    by_value.write(packed, descriptor)
    packed.close()
    data = os.pread(descriptor, 1 << 20, 0)
    digest, size = digest_of(descriptor)
    os.close(descriptor)
    payloads = Payloads()
    first, fetches = payloads.want("one", digest, size)
    assert fetches
    assert payloads.want("two", digest, size) == (first, False)
    first.write(data[:50_000], 0)
    payloads.let_go("one")
    assert not payloads.is_wanted(first)
    second, fetches = payloads.want("two", digest, size)
    assert fetches
    assert not second.write(data[:50_000], 0)
    assert second.write(data[50_000:], 50_000)
    assert payloads.want("three", digest, size) == (second, False)
    for user in ("two", "three"):
        payloads.let_go(user)
    assert payloads.want("four", digest, size) == (second, False)


def test_a_payload_that_arrives_damaged_is_refused() -> None:
    pending, _ = Payloads().want("one", "0" * 64, 100)
    with pytest.raises(ValueError, match="did not arrive as it was sent"):
        pending.write(bytes(100), 0)


def test_the_same_objects_are_one_payload_whatever_numbers_descriptors_have() -> None:
    def digest() -> tuple[str, int]:
        packed = by_value.pack(list(range(1000)))
        descriptor = os.memfd_create("test")
        by_value.write(packed, descriptor)
        assert packed.tracker is not None
        packed.close()
        found = digest_of(descriptor)
        os.close(descriptor)
        return found

    one = digest()
    taken = [os.dup(0) for _ in range(5)]
    other = digest()
    for number in taken:
        os.close(number)
    assert one == other


def test_a_process_has_the_trainer_s_surroundings_and_its_own_host_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    surroundings = Surroundings()
    facts = surroundings.facts
    surroundings.close()
    theirs = facts._replace(
        path=[str(tmp_path), "/nowhere/at/all"], directory=("/nowhere/at/all", 1, 2), hash_seed=77, argv=["x"],
        environment={"PATH": "/theirs", "DATA": "there", "RAY_X": "1"},
    )  # fmt: skip
    monkeypatch.setenv("PATH", "/ours")
    monkeypatch.delenv("RAY_X", raising=False)
    here = node.Here(theirs, own_first=False).facts
    assert here.path[0] == str(tmp_path)
    assert "/nowhere/at/all" not in here.path
    assert set(facts.path) <= set(here.path)
    assert here.directory == facts.directory
    assert (here.hash_seed, here.argv, here.limits) == (77, ["x"], facts.limits)
    assert here.environment["DATA"] == "there"
    assert here.environment["PATH"] == "/ours"
    assert "RAY_X" not in here.environment
    assert node.Here(theirs, own_first=True).facts.path[-1] == str(tmp_path)


# ---------------------------------------------------------------- settings


def test_hosts_are_a_word_or_an_object_and_anything_else_is_an_error() -> None:
    assert resolve(Policy(hosts="ray")).hosts == "ray"
    assert resolve(Policy(), {"SAFELOADER_HOSTS": "Ray"}).hosts == "ray"
    assert resolve(Policy(), {}).hosts == "local"
    assert resolve(Policy(hosts="local"), {"SAFELOADER_HOSTS": "ray"}).hosts == "local"
    assert resolve(Policy(hosts=RayHosts(num_cpus_per_worker=0.5))).hosts == RayHosts(num_cpus_per_worker=0.5)
    for wrong in ("spark", 7, object()):
        with pytest.raises(SettingsError, match=r"hosts=.* is not accepted"):
            Policy(hosts=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"num_cpus_per_worker": -1}, {"workers_local": -1}, {"strategy": "PACK"}, {"patience": 0}, {"silence": 0}]
)
def test_a_value_of_ray_hosts_out_of_range_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"{next(iter(wrong))}=.* is not accepted"):
        RayHosts(**wrong)


def test_a_system_without_pidfd_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("safeloader.runtime.system.HAS_PIDFD", False)
    monkeypatch.setattr(Launcher, "forks", False)
    spec: Any = SimpleNamespace(modules=())
    launcher = Starting(resolve(Policy(hosts="ray")), "train").launcher(None, spec)
    assert type(launcher) is Launcher
    assert "train: processes stay on this host: this system has no descriptors of processes" in caplog.text
