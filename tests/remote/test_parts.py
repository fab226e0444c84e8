"""The parts of the way to another host, each alone."""

from __future__ import annotations

import contextlib
import copyreg
import os
import pickle
import socket
from collections import OrderedDict, defaultdict
from enum import Enum
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.hosts import simulated
from safeloader import Policy, RayHosts, SettingsError
from safeloader.config import resolve
from safeloader.remote import node
from safeloader.remote.glance import glance
from safeloader.remote.node_slots import NodeSlots
from safeloader.remote.node_store import NodeStore
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
from tests.until import until


class OddKey(str):
    """No plain text."""


class Trap:
    """Does something when it is unpickled."""

    def __reduce__(self) -> Any:
        return os._exit, (99,)


class Manners:
    """Pickled by each way there is."""

    def __init__(self, *, named: int = 0) -> None:
        self.named = named

    def __reduce_ex__(self, _: Any) -> Any:
        return copyreg.__newobj_ex__, (Manners, (), {"named": 1}), {"state": [1]}, iter([1]), iter([(1, 2)])  # type: ignore[attr-defined]

    def append(self, _: Any) -> None: ...

    def __setitem__(self, *_: Any) -> None: ...


class Colour(Enum):
    """An enumeration."""

    RED = 1


class Many(set[Any]):
    """A set of another class."""


def test_a_glance_stumbles_over_nothing() -> None:
    odd = [Manners(), Many([1, 2]), {Many.__name__: Many}, defaultdict(list, {1: [2]}), OrderedDict(a=1), slice(1, 2)]
    held = {
        frozenset([1]): odd,
        Fraction(1, 3): Path("/x"),
        np.float64(2.0): np.arange(3),
        (1, OddKey("x")): Colour.RED,
    }
    assert glance(frame(p.Hosted(1, held, 2.5, None, 0, ()))[8:]).worker == 1


def test_a_glance_sees_plain_values_and_makes_nothing_else() -> None:
    message = p.Hosted(3, (1, {"a": Trap(), "b": [Trap()]}), 1.5, States(b"", None, None), 4, ("x",))
    seen = glance(frame(message)[8:])
    assert (type(seen), seen.worker, seen.finished_at, seen.compared, seen.lost) == (p.Hosted, 3, 1.5, 4, ("x",))


@pytest.mark.parametrize("slot", [3, 255, 256, 70_000])
@pytest.mark.parametrize(
    "indices", [[1, 2], p.Packed(b"xyz"), p.Carried(b"abc"), 7, [1, np.int64(2), OddKey("x")], list(range(70_000)), []]
)
def test_a_task_has_another_slot_and_the_same_indices(indices: Any, slot: int) -> None:
    slots = NodeSlots()
    for expected in (0, 1):
        body = frame(p.Task(0, expected, indices, (1,), slot))[8:]
        found = pickle.loads(slots.task(glance(body), body))
        assert found == (p.NUMBERS[p.Task], 0, expected, indices, (1,), expected)
        assert type(found[3]) is type(indices)
    with pytest.raises(ValueError, match="does not end with its slot"):
        slots.task(p.Task(0, 9, [], (), 31), pickle.dumps((1, 2, 3)))


def test_a_process_has_as_many_slots_as_it_has_tasks_at_a_time() -> None:
    slots = NodeSlots()
    for task in range(100):
        given = p.Task(0, task, [task], (), 40 + task % 7)
        assert pickle.loads(slots.task(given, frame(given)[8:]))[-1] in (0, 1, 2)
        if task >= 2:
            answer = slots.answer(p.Cancelled(task - 2, 0.0))
            assert answer is not None
            assert (answer.there, answer.nbytes) == (40 + (task - 2) % 7, 0)
            slots.release(answer.here)
    assert slots.answer(p.Ready(0.0)) is None


def test_all_of_a_batch_is_sent_with_what_lies_behind_it() -> None:
    def extent(nbytes: int, place: Any, said: Any) -> int:
        slots = NodeSlots()
        slots.task(asked := p.Task(0, 1, [0], (), 9), frame(asked)[8:])
        loaded = p.Loaded(1, nbytes, b"", place, [], (0, ()), 0.0, 0.0, (), said, 0.0, b"")
        answer = slots.answer(loaded)
        assert answer is not None
        return answer.nbytes

    assert extent(0, None, None) == 0
    assert extent(100, None, None) == 100
    assert extent(100, (100, 20), None) == 120
    assert extent(100, (100, 20), (128, 50)) == 178
    assert extent(0, None, (64, 7)) == 71


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


def test_what_a_process_does_that_nobody_hears_of_counts_from_now_on() -> None:
    arena = Arena()
    page = Heartbeat(arena.page(0))
    page.take_task(3)
    before = page.read()
    page.excuse()
    assert page.read()._replace(progressed_at=0.0) == before._replace(progressed_at=0.0)
    assert page.progressed_at > before.progressed_at
    arena.close()


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


def _data() -> tuple[bytes, str, int]:
    packed = by_value.pack(os.urandom(100_000))
    descriptor = os.memfd_create("test")
    by_value.write(packed, descriptor)
    packed.close()
    found = os.pread(descriptor, 1 << 20, 0), *digest_of(descriptor)
    os.close(descriptor)
    return found


def test_agents_of_a_node_share_a_payload_whoever_fetches_it_and_whoever_is_gone() -> None:
    data, digest, size = _data()
    key = os.urandom(32)
    keeps, asks, third = (NodeStore(key, Payloads()) for _ in range(3))
    mine, fetches = asks.want("asks", digest, size)
    assert fetches
    assert mine is not None
    assert keeps.want("keeps", digest, size)[1] is False  # it is on its way
    assert third.want("third", digest, size) == (None, False)
    assert mine.write(data, 0)
    until(lambda: third.want("third", digest, size)[0])
    theirs, kept = third.want("third", digest, size)[0], keeps.want("keeps", digest, size)[0]
    assert theirs is not None
    assert kept is not None
    assert kept.whole
    assert theirs.whole
    assert os.fstat(kept.descriptor).st_ino == os.fstat(theirs.descriptor).st_ino == os.fstat(mine.descriptor).st_ino
    with pytest.raises(PermissionError):
        os.pwrite(theirs.descriptor, b"x", 0)
    keeps.close()
    assert third.want("third", digest, size) == (theirs, False)
    late = NodeStore(key, Payloads())
    until(lambda: late.want("late", digest, size)[1])  # it keeps from now on, and has it sent
    for store in (asks, third, late):
        store.close()


def test_who_was_to_fetch_a_payload_for_others_and_is_gone_is_replaced() -> None:
    _, digest, size = _data()
    key = os.urandom(32)
    keeps, asks, third = (NodeStore(key, Payloads()) for _ in range(3))
    mine, fetches = asks.want("asks", digest, size)
    assert fetches
    assert third.want("third", digest, size) == (None, False)
    asks.own.let_go("asks")
    del mine
    until(lambda: third.want("third", digest, size)[1])
    for store in (keeps, asks, third):
        store.close()


def test_a_dataset_is_sent_once_to_each_of_many_nodes_and_each_lost_node_is_one_fault() -> None:
    assert simulated.copies_sent(5, 4) == 5
    assert simulated.faults_counted(5, 4) == 5
    assert simulated.heartbeat_bytes() < 200


def test_whoever_does_not_know_the_key_is_given_no_payload() -> None:
    keeps = NodeStore(b"k" * 32, Payloads())
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(20)
        stranger.connect(keeps._name)
        stranger.sendall(b"SLhosts1" + bytes(32) + bytes(32))
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while data := stranger.recv(100):
                said += data
    assert len(said) == 40  # a greeting, and no proof
    keeps.close()


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
