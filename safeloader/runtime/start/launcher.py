"""How a loader's processes come to be: spawned, or forked from a clean server where there is one to be had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from safeloader.codes import log_info
from safeloader.runtime import system
from safeloader.runtime.start.spawned import LOST, Spawned

if TYPE_CHECKING:
    from safeloader.runtime.start.client import ForkServer
    from safeloader.runtime.start.surroundings import Surroundings

__all__ = ["LOST", "Body", "Launcher", "Starter"]

_slowest: dict[str, float] = {}  # by method


class Body(Protocol):
    """What the trainer holds of an operating-system process."""

    @property
    def why_lost(self) -> str:
        """What is known of its end where ``poll`` says `LOST`."""

    @property
    def pid(self) -> int:
        """0 until it is known."""

    @property
    def pidfd(self) -> int:
        """Becomes readable when ``poll`` has news; -1 where the system has no such thing."""

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it lives."""

    def settle(self) -> None:
        """It spoke: its pid can be known from now on."""

    @property
    def phase(self) -> str:
        """How far its start is, for people."""

    def send_signal(self, number: int) -> None:
        """Nothing if it is gone, or does not know the signal yet."""

    def forfeited(self) -> bool:
        """True if it was lost with others by one cause, which counts once, or found no room and is of no use here."""

    @property
    def fell_back(self) -> bool:
        """True if it was to be on another host, where there was no room."""

    @property
    def host(self) -> str:
        """The other host that it is on, for people; "" if it is on this one."""

    def close(self) -> None:
        """Close what the trainer holds of it."""


class Starter(Protocol):
    """How processes come to be: a `Launcher`, or ``template.Templates``."""

    def begin(self, given: Surroundings, channel: int, stacks: int, modules: tuple[str, ...]) -> Body:
        """Start one."""


class Launcher:
    """One loader's way to start processes. Holds the fork server for as long as the loader may need it.

    Args:
        method: "spawn" or "forkserver".
        accelerators: whether devices stay visible in its processes.
        strict: complaints are errors.

    Attributes:
        preload: modules that a fork server should import.
        wanted: those of them that the user named.
        complaints: what does not go as it was asked for (no fork server, a module that it cannot import); to be told,
            and cleared.
        outdated: files that changed since a server imported them.
    """

    def __init__(
        self, method: Literal["spawn", "forkserver"] = "spawn", accelerators: bool = False, strict: bool = False
    ) -> None:
        self.method = method
        self.strict = strict
        self.preload: tuple[str, ...] = ()
        self.wanted: tuple[str, ...] = ()
        self.complaints: list[str] = []
        self.outdated: list[str] = []
        self._accelerators = accelerators
        self._server: ForkServer | None = None
        self._said: set[str] = set()
        self._noted: set[str] = set()

    def begin(self, given: Surroundings, channel: int, stacks: int, modules: tuple[str, ...]) -> Body:
        """Start a process.

        Args:
            given: what it takes over from the trainer.
            channel: its end of the channel; stays open here.
            stacks: where its Python stacks are written; stays open here.
            modules: what it imports before it says that it is ready.

        Raises:
            OSError: the system cannot start another process.
        """
        if self.method == "forkserver" and not self.forks:
            self.complain("this system has no descriptors of processes (pidfd)")
            self.method = "spawn"
        if self.method == "spawn":
            return Spawned(given, channel, stacks, modules)
        from safeloader.runtime.start.forked import Forked

        return Forked(self, given, channel, stacks, modules)

    def server(self, given: Surroundings | None = None) -> ForkServer:
        """The trainer's fork server for these surroundings, or for those of now.

        Raises:
            Unavailable: there is none to be had.
        """
        from safeloader.runtime.start import client
        from safeloader.runtime.start.surroundings import Surroundings

        self._server = client.obtain(self.preload, self._accelerators, given or Surroundings())
        return self._server

    @property
    def forks(self) -> bool:
        """Whether a fork server is wanted, and can be."""
        return self.method == "forkserver" and system.HAS_PIDFD and system.HAS_SIGNAL_ON_HANGUP

    @property
    def failback(self) -> Starter:
        """How a process comes to be that is of use on another host only."""
        return self

    @property
    def slowest_start(self) -> float:
        """Seconds of the slowest start that this program has seen; 0: none."""
        return _slowest.get(self.method, 0.0)

    def learn(self, seconds: float) -> None:
        """A process was ready after so many seconds."""
        _slowest[self.method] = max(self.slowest_start, seconds)

    def complain(self, why: str) -> None:
        """Processes are spawned instead, for this reason."""
        self._complain(f"no fork server ({why}); processes are spawned instead")

    def not_imported(self, modules: dict[str, str]) -> None:
        """The fork server cannot import these modules, for these reasons."""
        for name in self.wanted:
            if name in modules:
                self._complain(
                    f"the fork server cannot import {name} of preload ({modules[name]}); processes do without"
                )

    def note(self, text: str) -> None:
        """Something goes another way, which costs memory or time: a line of the log, once."""
        if text not in self._noted:
            self._noted.add(text)
            log_info("SL156", "%s", text)

    def _complain(self, text: str) -> None:
        """Each is told once."""
        if text not in self._said:
            self._said.add(text)
            self.complaints.append(text)

    def close(self) -> None:
        """This loader needs no further process. The server ends with the last loader that holds it."""
        self._server = None
