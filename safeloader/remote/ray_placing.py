"""Asks Ray for actors: Ray says where, counts processors, and finds other nodes.

Each process has an actor of its own, so that Ray's books are right; the actor runs an `Agent`, and the bytes go over
the agent's own connection, not through Ray. An actor stays when its process ends, for the next; one that was of no use
is ended, and another is asked for, which may be anywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from safeloader.remote.agent import Agent
from safeloader.remote.launcher import Place, Unplaceable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GONE", "Disconnected", "HostAgent", "RayPlacing", "Wanted"]

GONE = "the head of the Ray cluster is gone, or was started again"

T = TypeVar("T")
_PAUSE = 60.0  # seconds until a cluster that did not answer, or had no room, is asked again
_LOOK = 1.0  # seconds between two looks whether the node's raylet is there
_END = 5.0  # seconds for Ray to take notice that actors are of no use any more
_OF_CODE = ("working_dir", "py_modules", "pip", "conda", "uv", "image_uri")  # parts of a runtime_env that bring code


class Wanted(NamedTuple):
    """What a user says (`safeloader.RayHosts`); plain values."""

    num_cpus: float
    local: int
    strategy: str
    resources: dict[str, float]
    address: str | None
    patience: float
    silence: float
    tls: tuple[str, str, str] | None = None
    runtime_env: str = ""  # that of the program's job, as Ray writes it


class Disconnected(Unplaceable):
    """This program's connection to the cluster is of no use any more; that of another program may be.

    A head that was started anew, at the same address or not, does not know who was connected to the one before it.
    """


class HostAgent:
    """The actor.

    Args:
        key: the job's; Ray carries it.
        silence, tls: see `Wanted`.
    """

    def __init__(self, key: bytes, silence: float, tls: tuple[str, str, str] | None) -> None:
        import ray

        context = ray.get_runtime_context()
        environment = dict(context.runtime_env)
        self._node = context.get_node_id()
        brings_code = any(environment.get(part) for part in _OF_CODE)
        threading.Thread(target=_end_with, args=(os.getppid(),), name="safeloader-parent", daemon=True).start()
        self._agent = Agent(key, ray.util.get_node_ip_address(), silence, brings_code, tls)

    def about(self) -> tuple[tuple[str, int], str]:
        """Its address, and its node."""
        return self._agent.address, self._node


def _end_with(parent: int) -> None:
    """End when the node's raylet is gone: nobody else would end the actor then."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)


class RayPlacing:
    """A `safeloader.remote.launcher.Placing`, in a program that is connected to Ray, or will be.

    Args:
        wanted: what a user says.
        key: what the agents and stand-ins of the job know.
    """

    def __init__(self, wanted: Wanted, key: bytes) -> None:
        self.key, self.silence, self.local, self.tls = key, wanted.silence, wanted.local, wanted.tls
        self._wanted = wanted
        self._free: list[Place] = []
        self._actors: set[Any] = set()
        self._not_before = 0.0
        self._why = ""
        self._closed = False
        self._lock = threading.Lock()

    def place(self) -> Place:
        """An actor that is free, or another."""
        with self._lock:
            if self._free:
                return self._free.pop()
            if time.monotonic() < self._not_before:
                raise Unplaceable(self._why)
        connected = _was_connected.is_set()
        try:
            return self._another()
        except Unplaceable as error:
            told = Disconnected(GONE if connected else str(error)) if self._is_disconnected() else error
            with self._lock:
                self._not_before, self._why = time.monotonic() + _PAUSE, str(told)
            raise told from error.__cause__

    def _is_disconnected(self) -> bool:
        if sys.modules.get("ray") is None:
            return False
        try:
            _within(self._wanted.patience, _look_up, "")
        except Unplaceable:
            return True
        return False

    def _another(self) -> Place:
        wanted = self._wanted
        try:
            import ray
        except ImportError as error:
            raise Unplaceable(f"Ray cannot be imported ({error}): pip install 'ray>=2.40'") from error
        _within(wanted.patience, lambda: _connect(ray, wanted.address), "the Ray cluster does not answer")
        actor = _within(wanted.patience, lambda: self._make(ray), "the Ray cluster does not answer")
        with self._lock:
            self._actors.add(actor)
        try:
            cpus = f"{wanted.num_cpus:g} CPUs"
            address, node = _within(
                wanted.patience, lambda: ray.get(actor.about.remote()), f"the Ray cluster has no room for {cpus}"
            )
        except Unplaceable:
            self._end(actor)
            raise
        return Place(tuple(address), node, actor)

    def _make(self, ray: Any) -> Any:
        wanted = self._wanted
        environment = {"runtime_env": json.loads(wanted.runtime_env)} if wanted.runtime_env else {}
        remote = ray.remote(
            num_cpus=wanted.num_cpus, resources=dict(wanted.resources), scheduling_strategy=wanted.strategy,
            max_restarts=0, **environment,
        )  # fmt: skip
        return remote(HostAgent).remote(self.key, self.silence, self.tls)

    def release(self, place: Place, usable: bool) -> None:
        """It serves the next process, or is ended."""
        with self._lock:
            if usable and not self._closed:
                self._free.append(place)
                return
        self._end(place.agent)

    def _end(self, actor: Any) -> threading.Thread:
        with self._lock:
            self._actors.discard(actor)
        thread = threading.Thread(target=_kill, args=(actor,), name="safeloader-ray", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """End all actors."""
        with self._lock:
            self._closed = True
            self._free.clear()
            actors = list(self._actors)
        end = time.monotonic() + _END
        for thread in [self._end(actor) for actor in actors]:
            thread.join(max(end - time.monotonic(), 0.0))


def _look_up() -> None:
    """Ask the cluster's head for something. ``ray.nodes()`` would end the program where the head was started again."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_list(b"safeloader")


def _kill(actor: Any) -> None:
    """Takes as long as the cluster's head takes to answer."""
    import ray

    with contextlib.suppress(Exception):  # it is gone, or the cluster is
        if ray.is_initialized():
            ray.kill(actor, no_restart=True)


def _connect(ray: Any, address: str | None) -> None:
    with _connecting:
        if not ray.is_initialized():
            where = address or os.environ.get("RAY_ADDRESS") or "auto"
            ray.init(address=where, log_to_driver=False, configure_logging=False)
        _was_connected.set()


_connecting = threading.Lock()
_was_connected = threading.Event()  # Ray cannot be asked at any time: another thread may be about to import it


def _within(seconds: float, act: Callable[[], T], too_late: str) -> T:
    """What it returns, if it does so in time: Ray's own timeouts do not hold where a cluster's head is gone.

    Raises:
        Unplaceable: it takes longer, or fails.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(act())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="safeloader-ray", daemon=True)
    thread.start()
    thread.join(seconds)
    if done:
        return done[0]
    if not failed:
        raise Unplaceable(f"{too_late} within {seconds:g} s")
    raise Unplaceable(f"{type(failed[0]).__name__}: {_last_words(failed[0])}") from failed[0]


def _last_words(error: BaseException) -> str:
    """Of Ray's messages, which begin with a traceback, or go on with advice about other errors."""
    text = str(error).strip()
    if "version mismatch" in text.lower():
        return " ".join(text.split())
    return (text.splitlines() or [""])[-1].partition(". ")[0]
