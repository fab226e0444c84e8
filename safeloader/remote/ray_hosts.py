"""Processes on the nodes of a Ray cluster: Ray says where, counts processors, and finds other nodes.

Each process has an actor of its own, so that Ray's books are right; the actor runs an `Agent`, and the bytes go over
the agent's own connection, not through Ray. An actor stays when its process ends, for the next; one that was of no use
is ended, and another is asked for, which may be anywhere.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from safeloader.errors import SettingsError
from safeloader.remote.agent import SILENCE, Agent
from safeloader.remote.launcher import HostLauncher, Place, Unplaceable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HostAgent", "RayHosts"]

T = TypeVar("T")
_PATIENCE = 20.0
_PAUSE = 60.0  # seconds until a cluster that did not answer, or had no room, is asked again
_OF_CODE = ("working_dir", "py_modules", "pip", "conda", "uv", "image_uri")  # parts of a runtime_env that bring code


@dataclass(frozen=True, kw_only=True)
class RayHosts:
    """Where a Ray cluster has room, a loader's processes are there: ``Policy(hosts=RayHosts(...))``.

    The program is connected to the cluster if it is not yet (``ray.init(address=...)``). Where there is no Ray, no
    cluster, or no room, processes are on this host, and one line of the log says why.

    Attributes:
        num_cpus_per_worker: Processors that Ray reserves for each process.
        workers_local: So many processes at a time stay on this host.
        strategy: Ray's scheduling strategy: ``"SPREAD"`` or ``"DEFAULT"``.
        resources: Ray's custom resources that a node must have, and how much of each a process takes.
        address: Of the cluster, if the program is not connected: None is ``RAY_ADDRESS``, or the cluster of this host.
        patience: Seconds that Ray may take to find room.
        silence: Seconds without a word from the other host after which the link counts as cut.

    Raises:
        SettingsError: A value is out of range.
    """

    num_cpus_per_worker: float = 1.0
    workers_local: int = 0
    strategy: str = "SPREAD"
    resources: tuple[tuple[str, float], ...] | dict[str, float] = ()
    address: str | None = None
    patience: float = _PATIENCE
    silence: float = SILENCE

    def __post_init__(self) -> None:
        wrong = {
            "num_cpus_per_worker": not self.num_cpus_per_worker >= 0,
            "workers_local": self.workers_local < 0,
            "strategy": self.strategy not in ("SPREAD", "DEFAULT"),
            "patience": not self.patience > 0,
            "silence": not self.silence > 0,
        }
        for name, is_wrong in wrong.items():
            if is_wrong:
                raise SettingsError(
                    f"{name}={getattr(self, name)!r} is not accepted", where="RayHosts", hint="see hosts.md"
                )

    def launcher(self, name: str, accelerators: bool, strict: bool) -> HostLauncher:
        """What starts one loader's processes; the loader asks for it.

        Args:
            name: The loader's.
            accelerators: Leave devices visible in processes on this host.
            strict: Raise where processes could not start as they were asked to.
        """
        return HostLauncher(_RayPlacing(self), name, accelerators, strict)


class HostAgent:
    """The actor.

    Args:
        key: the job's; Ray carries it.
        silence: see `RayHosts`.
    """

    def __init__(self, key: bytes, silence: float) -> None:
        import ray

        context = ray.get_runtime_context()
        environment = dict(context.runtime_env)
        self._node = context.get_node_id()
        brings_code = any(environment.get(part) for part in _OF_CODE)
        self._agent = Agent(key, ray.util.get_node_ip_address(), silence, own_first=brings_code)

    def about(self) -> tuple[tuple[str, int], str]:
        """Its address, and its node."""
        return self._agent.address, self._node


class _RayPlacing:
    """A `safeloader.remote.launcher.Placing`."""

    def __init__(self, hosts: RayHosts) -> None:
        self.key, self.silence, self.local = os.urandom(32), hosts.silence, hosts.workers_local
        self._hosts = hosts
        self._free: list[Place] = []
        self._actors: set[Any] = set()
        self._not_before = 0.0
        self._why = ""
        self._closed = False
        self._lock = threading.Lock()

    def place(self) -> Place:
        """An actor that is free, or another."""
        from time import monotonic

        with self._lock:
            if self._free:
                return self._free.pop()
            if monotonic() < self._not_before:
                raise Unplaceable(self._why)
        try:
            return self._another()
        except Unplaceable as error:
            with self._lock:
                self._not_before, self._why = monotonic() + _PAUSE, str(error)
            raise

    def _another(self) -> Place:
        hosts = self._hosts
        try:
            import ray
        except ImportError as error:
            raise Unplaceable(f"Ray cannot be imported ({error}): pip install 'safeloader[ray]'") from error
        _within(hosts.patience, lambda: _connect(ray, hosts.address), "the Ray cluster does not answer")
        actor = _within(hosts.patience, lambda: self._make(ray), "the Ray cluster does not answer")
        with self._lock:
            self._actors.add(actor)
        try:
            cpus = f"{hosts.num_cpus_per_worker:g} CPUs"
            address, node = _within(
                hosts.patience, lambda: ray.get(actor.about.remote()), f"the Ray cluster has no room for {cpus}"
            )
        except Unplaceable:
            self._end(actor)
            raise
        return Place(tuple(address), node, actor)

    def _make(self, ray: Any) -> Any:
        hosts = self._hosts
        remote = ray.remote(
            num_cpus=hosts.num_cpus_per_worker, resources=dict(hosts.resources), scheduling_strategy=hosts.strategy,
            max_restarts=0,
        )  # fmt: skip
        return remote(HostAgent).remote(self.key, self.silence)

    def release(self, place: Place, usable: bool) -> None:
        """It serves the next process, or is ended."""
        with self._lock:
            if usable and not self._closed:
                self._free.append(place)
                return
        self._end(place.agent)

    def _end(self, actor: Any) -> None:
        with self._lock:
            self._actors.discard(actor)
        import ray

        with contextlib.suppress(Exception):  # it is gone, or the cluster is
            if ray.is_initialized():
                ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """End all actors."""
        with self._lock:
            self._closed = True
            self._free.clear()
            actors = list(self._actors)
        for actor in actors:
            self._end(actor)


def _connect(ray: Any, address: str | None) -> None:
    with _connecting:
        if not ray.is_initialized():
            where = address or os.environ.get("RAY_ADDRESS") or "auto"
            ray.init(address=where, log_to_driver=False, configure_logging=False)


_connecting = threading.Lock()


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
    lines = str(failed[0]).strip().splitlines() or [""]
    raise Unplaceable(f"{type(failed[0]).__name__}: {lines[-1]}") from failed[0]
