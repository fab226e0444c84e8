"""The process that asks Ray, with a package in Ray's place: what the trainer makes of its answers, and of its end."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from safeloader import RayHosts
from safeloader.remote import ray_placer, ray_placing
from safeloader.remote.launcher import Place, Unplaceable
from tests.programs import ROOT, start
from tests.until import until

RAY = """
import os
import time

time.sleep(0.3)  # whoever looks at it now finds it half imported
FOLDER = os.path.dirname(__file__)
connected = []


class AuthenticationError(Exception):
    pass


def look_up():
    if head() != connected[0]:
        raise AuthenticationError("WrongClusterID: it was started anew. Ensure that something else is right.")


def head():
    with open(os.path.join(FOLDER, "head")) as file:
        return file.read()


def is_initialized():
    return bool(connected)


def init(address, **_):
    connected.append(head())


def get_runtime_context():
    return Context()


class Context:
    gcs_address = "10.0.0.9:6379"

    def get_runtime_env_string(self):
        return '{"env_vars": {"A": "1"}}'


def nodes():
    os.abort()  # as Ray does where the head is another


def remote(**wanted):
    Remote.wanted = wanted
    return Remote


class Remote:
    def __init__(self, _):
        self.about = self

    def remote(self, *given):
        look_up()
        if given:
            if "full" in connected[0]:
                raise RuntimeError("no room")
            return self
        return ("127.0.0.1", 7), connected[0] + Remote.wanted.get("runtime_env", {}).get("env_vars", {}).get("A", "")


def get(what):
    return what


def kill(actor, no_restart):
    pass
"""

INTERNAL_KV = """
import ray


def _internal_kv_list(prefix):
    ray.look_up()
"""


PROGRAM = """
import os, signal, sys
from safeloader.remote import ray_placer, ray_placing
placer = ray_placer.Placer(ray_placing.Wanted(1.0, 0, "SPREAD", {}, None, 30.0, 15.0))
pid = placer.place().agent[0]._process.pid
os.kill(pid, signal.SIGSTOP)
print(pid, flush=True)
sys.stdin.read()
"""


class Cluster:
    """What the package in Ray's place finds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._head = folder / "ray" / "head"
        self._head.parent.mkdir()
        (folder / "ray" / "__init__.py").write_text(RAY)
        (folder / "ray" / "experimental").mkdir()
        (folder / "ray" / "experimental" / "__init__.py").touch()
        (folder / "ray" / "experimental" / "internal_kv.py").write_text(INTERNAL_KV)
        self.start_head("first")

    def start_head(self, name: str) -> None:
        """Whoever is connected does not know it."""
        self._head.with_suffix(".new").write_text(name)
        self._head.with_suffix(".new").rename(self._head)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """One that answers."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    return Cluster(tmp_path)


@pytest.fixture
def placer(monkeypatch: pytest.MonkeyPatch) -> Iterator[ray_placer.Placer]:
    """One loader's."""
    monkeypatch.setattr(ray_placer, "_paused", {})
    placer = _placer()
    yield placer
    placer.close()
    until(lambda: not [t for t in threading.enumerate() if t.name == "safeloader-placer"])


def _placer(address: str | None = None) -> ray_placer.Placer:
    return ray_placer.Placer(ray_placing.Wanted(1.0, 0, "SPREAD", {}, address, 30.0, 15.0))


def _processes() -> list[psutil.Process]:
    def line(process: psutil.Process) -> str:
        with contextlib.suppress(psutil.Error):  # it has just ended
            return " ".join(process.cmdline())
        return ""

    return [process for process in psutil.Process().children() if "ray_placer" in line(process)]


def test_where_the_cluster_does_not_know_a_placer_any_more_another_one_asks(
    cluster: Cluster, placer: ray_placer.Placer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = placer.place()
    assert (place.address, place.node) == (("127.0.0.1", 7), "first")
    cluster.start_head("second")
    for _ in range(2):  # the second time without a question
        with pytest.raises(Unplaceable, match=f"^{ray_placing.GONE}$"):
            placer.place()
    (first,) = _processes()  # its process may still be of use
    monkeypatch.setattr(ray_placer, "_paused", {})
    second = placer.place()
    assert second.node == "second"
    assert len(_processes()) == 2
    placer.release(place, usable=True)
    until(lambda: first not in _processes())
    placer.release(second, usable=True)
    assert placer.place().agent[0] is second.agent[0]


def test_where_the_cluster_only_has_no_room_the_same_placer_asks_again(
    cluster: Cluster, placer: ray_placer.Placer
) -> None:
    cluster.start_head("full")
    with pytest.raises(Unplaceable, match=r"^RuntimeError: no room$"):
        placer.place()
    assert [process.retired for process in ray_placer._running] == [False]


def test_whoever_asks_while_another_asks_for_the_first_time_is_answered(
    cluster: Cluster, placer: ray_placer.Placer
) -> None:
    places: list[Place] = []
    asking = [threading.Thread(target=lambda: places.append(placer.place())) for _ in range(3)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(30)
    assert [place.node for place in places] == ["first"] * 3


def test_a_program_that_is_connected_to_a_cluster_has_it_asked_by_another_with_its_runtime_env(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    ray.init(None)
    placing = RayHosts().launcher("train", accelerators=False, strict=False).placing
    assert isinstance(placing, ray_placer.Placer)
    place = placing.place()
    assert place.node == "first1"
    assert place.agent[0].address == "10.0.0.9:6379"
    placing.close()
    monkeypatch.delattr(ray.Context, "gcs_address")
    placing = RayHosts().launcher("train", accelerators=False, strict=False).placing
    assert isinstance(placing, ray_placing.RayPlacing)  # a client of a cluster that this host is not in
    until(lambda: not [t for t in threading.enumerate() if t.name == "safeloader-placer"])


@pytest.mark.slow
def test_each_cluster_is_asked_by_a_placer_of_its_own(cluster: Cluster, placer: ray_placer.Placer) -> None:
    other = _placer("10.0.0.7:6379")
    places = placer.place(), other.place()
    assert places[0].agent[0] is not places[1].agent[0]
    other.close()


def test_a_placer_that_has_ended_is_no_room_and_not_started_again_at_once(
    cluster: Cluster, placer: ray_placer.Placer
) -> None:
    first = placer.place()
    first.agent[0]._process.kill()
    until(lambda: first.agent[0]._ended)
    with pytest.raises(Unplaceable, match="is gone"):
        placer.place()


@pytest.mark.slow
def test_whoever_waits_for_a_placer_that_ends_is_told(cluster: Cluster, placer: ray_placer.Placer) -> None:
    places: list[str] = []

    def place() -> None:
        try:
            placer.place()
        except Unplaceable as error:
            places.append(str(error))

    asking = threading.Thread(target=place)
    asking.start()
    until(lambda: ray_placer._running)[0]._process.kill()
    asking.join(20)
    assert places == [ray_placing.GONE]


def test_with_the_trainer_a_placer_ends_even_if_it_is_stopped(cluster: Cluster) -> None:
    with start("-c", PROGRAM, cwd=cluster.folder, PYTHONPATH=f"{cluster.folder}:{ROOT}") as running:
        assert running.stdout is not None
        stopped = psutil.Process(int(running.stdout.readline()))
        running.kill()
        until(lambda: not stopped.is_running())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("Version mismatch: It is:\n    Ray: 2.1\n    Python: 3.11"),
            "mismatch: It is: Ray: 2.1 Python: 3.11$",
        ),
        (ValueError('The actor died.\n  File "a.py", line 1\nKeyError: 1'), "^ValueError: KeyError: 1$"),
        (ImportError("no"), "^ImportError: no$"),
    ],
)
def test_whatever_ray_raises_is_no_room(error: Exception, said: str) -> None:
    def act() -> None:
        raise error

    with pytest.raises(Unplaceable, match=said):
        ray_placing._within(20, act, "")
    answer = threading.Event()
    with pytest.raises(Unplaceable, match=r"the cluster does not answer within 0\.05 s"):
        ray_placing._within(0.05, answer.wait, "the cluster does not answer")
    answer.set()
