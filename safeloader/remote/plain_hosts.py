"""Agents that somebody started by hand (`python -m safeloader.remote.agent`), without Ray: what the tests use."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from time import monotonic

from safeloader.remote.agent import SILENCE
from safeloader.remote.launcher import HostLauncher, Place, Unplaceable

__all__ = ["PlainHosts"]

_PAUSE = 30.0  # seconds until an agent that failed is tried again


@dataclass(frozen=True)
class PlainHosts:
    """For ``Policy(hosts=...)``.

    Attributes:
        agents: Host and port of each; processes take them in turns.
        key: What they were given.
        silence: Seconds without a word after which a link counts as cut.
        workers_local: So many processes at a time stay on this host.
        tls: The files that connections are encrypted with (`tls.tls_files`), if they are.
    """

    agents: tuple[tuple[str, int], ...]
    key: bytes = field(repr=False)
    silence: float = SILENCE
    workers_local: int = 0
    tls: tuple[str, str, str] | None = None

    def launcher(self, name: str, accelerators: bool, strict: bool) -> HostLauncher:
        """As `RayHosts` gives one."""
        return HostLauncher(_Turns(self), name, accelerators, strict)


class _Turns:
    """A `Placing`: one agent after the other, but for those that have just failed."""

    def __init__(self, hosts: PlainHosts) -> None:
        self.key, self.silence, self.local, self.tls = hosts.key, hosts.silence, hosts.workers_local, hosts.tls
        self._agents = [Place((host, port), host, (host, port)) for host, port in hosts.agents]
        self._turn = itertools.count()
        self._failed: dict[tuple[str, int], float] = {}
        self._lock = threading.Lock()

    def place(self) -> Place:
        """The next."""
        with self._lock:
            now = monotonic()
            fit = [one for one in self._agents if now - self._failed.get(one.address, -_PAUSE) >= _PAUSE]
            if not fit:
                raise Unplaceable("no agent can be reached")
            return fit[next(self._turn) % len(fit)]

    def release(self, place: Place, usable: bool) -> None:
        """It is tried again later if it was of no use."""
        with self._lock:
            if not usable:
                self._failed[place.address] = monotonic()

    def close(self) -> None:
        """Nothing is held."""
