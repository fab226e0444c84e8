"""Starts stand-ins, and has them placed: a launcher like any other to its loader.

Placing takes time (an actor has to start), so each stand-in starts at once, and a thread tells it where there is room
as soon as that is known, or that there is none; then it is the process itself.
"""

from __future__ import annotations

import contextlib
import marshal
import socket
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from safeloader.codes import log_info, log_warning
from safeloader.remote import node, stand_in
from safeloader.remote.named_paths import named_paths
from safeloader.runtime.start.launcher import LOST, Launcher
from safeloader.runtime.start.spawned import Spawned

if TYPE_CHECKING:
    from safeloader.runtime.payload import Payload
    from safeloader.runtime.start.launcher import Body, Starter
    from safeloader.runtime.start.surroundings import Surroundings

__all__ = ["HostLauncher", "Place", "Placing", "Unplaceable"]

_SHOWN = 5  # paths
_TOGETHER = 10.0  # seconds: what is lost on one host within that time is lost by one cause


class Unplaceable(Exception):
    """There is no room; the text says why."""


class Place(NamedTuple):
    """Room for one process.

    Attributes:
        address: host and port of an agent.
        node: what tells one host from another.
        agent: whatever the placing knows it by.
    """

    address: tuple[str, int]
    node: str
    agent: Any = None


class Placing(Protocol):
    """Says where there is room, and takes it back. Any thread may ask.

    Attributes:
        key: what its agents and this job's stand-ins know, and nobody else.
        silence: seconds without a word after which a link counts as cut.
        local: so many processes at a time stay on the trainer's host.
        tls: the files that its links are encrypted with (`tls.tls_files`), if they are.
    """

    key: bytes
    silence: float
    local: int
    tls: tuple[str, str, str] | None

    def place(self) -> Place:
        """Room for one process; may take a while.

        Raises:
            Unplaceable: there is none.
        """

    def release(self, place: Place, usable: bool) -> None:
        """The process is gone; the agent served it well, or did not."""

    def close(self) -> None:
        """No further process is placed."""


class HostLauncher(Launcher):
    """One loader's way to processes on other hosts.

    Args:
        placing: says where there is room.
        name: the loader's, for people.
        accelerators, strict: as a launcher is given them.
    """

    def __init__(self, placing: Placing, name: str, accelerators: bool = False, strict: bool = False) -> None:
        super().__init__("spawn", accelerators, strict)
        self.placing = placing
        self._name = name
        self._likeness: node.Likeness | None = None
        self._stays = ""
        self._paths: tuple[str, ...] = ()
        self._local = 0  # processes that were left on this host on purpose
        self._lost: dict[str, float] = {}
        self._slowest = 0.0
        self._lock = threading.Lock()

    def serve(self, spec: Payload) -> None:
        """Its processes will get this payload."""
        self._likeness = node.likeness(with_sources=True)
        self._stays = spec.tied
        self._paths = named_paths(spec.dataset)
        if self._stays:
            self.tell(f"the dataset holds {self._stays}, which cannot leave this host")

    @property
    def slowest_start(self) -> float:
        """Those of other loaders say nothing of a start on another host."""
        return self._slowest

    def learn(self, seconds: float) -> None:
        """A process was ready after so many seconds."""
        self._slowest = max(self._slowest, seconds)

    def begin(self, given: Surroundings, channel: int, stacks: int, modules: tuple[str, ...]) -> Body:
        """Start a process, here or there."""
        if self._stays or self._likeness is None:
            return Spawned(given, channel, stacks, modules)
        with self._lock:
            stays = self._local < self.placing.local
            self._local += stays
        if stays:
            return _Here(self, given, channel, stacks, modules)
        return StandInBody(self, given, channel, stacks, modules, (self._likeness, self._paths))

    @property
    def failback(self) -> Starter:
        """How a process comes to be that is of use on another host only."""
        return _Failback(self)

    def begin_failback(self, given: Surroundings, channel: int, stacks: int, modules: tuple[str, ...]) -> Body:
        """Start a process there, or none."""
        assert self._likeness is not None
        return StandInBody(self, given, channel, stacks, modules, (self._likeness, self._paths), failback=True)

    def left(self) -> None:
        """A process that was left on this host on purpose is gone."""
        with self._lock:
            self._local -= 1

    def tell(self, why: str) -> None:
        """A process is on this host, for this reason; each reason is told once."""
        if not self._is_new(why):
            return
        log_warning("SL039", "%s: processes stay on this host: %s", self._name, why)
        if self.strict:
            self.complaints.append(f"processes stay on this host: {why}")

    def _is_new(self, said: str) -> bool:
        with self._lock:
            is_new = said not in self._said
            self._said.add(said)
            return is_new

    def placed(self, own: int, host: str, pid: int, absent: list[str]) -> None:
        """A process is there, and some of the paths that the dataset names are not."""
        log_info("SL040", "%s: process %d stands in for process %d on %s", self._name, own, pid, host)
        names = ", ".join(map(repr, absent[:_SHOWN])) + (", ..." if len(absent) > _SHOWN else "")
        if names and self._is_new(f"{host}: {names}"):
            log_warning("SL041", "%s: what the dataset names is not on %s: %s", self._name, host, names)

    def is_first_loss(self, node_name: str) -> bool:
        """Whether a loss on this host is no part of one that was seen just before."""
        with self._lock:
            now = monotonic()
            first = now - self._lost.get(node_name, float("-inf")) > _TOGETHER
            if first:
                self._lost[node_name] = now
            return first

    def close(self) -> None:
        """This loader needs no further process."""
        self.placing.close()
        super().close()


class _Failback(NamedTuple):
    launcher: HostLauncher

    def begin(self, *given: Any) -> Body:
        return self.launcher.begin_failback(*given)


class _Here(Spawned):
    """A process that was left on this host on purpose."""

    def __init__(self, launcher: HostLauncher, *given: Any) -> None:
        self._launcher: HostLauncher | None = launcher
        super().__init__(*given)

    def close(self) -> None:
        super().close()
        launcher, self._launcher = self._launcher, None
        if launcher is not None:
            launcher.left()


class StandInBody(Spawned):
    """What the trainer holds of a stand-in.

    Args:
        launcher: whose.
        given, channel, stacks, modules: as a launcher is given them.
        compared: what its host is compared with: the likeness of this one, and paths that exist here.
        failback: where there is no room it ends, and is missed by nobody.
    """

    def __init__(
        self, launcher: HostLauncher, given: Surroundings, channel: int, stacks: int, modules: tuple[str, ...],
        compared: tuple[node.Likeness, tuple[str, ...]], failback: bool = False,
    ) -> None:  # fmt: skip
        self.fell_back = False
        self.host = ""
        self._failback = failback
        self._launcher = launcher
        self._place: Place | None = None
        self._closed = self._forfeited = self._failed = self._ready = False
        self._lost = ""
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            super().__init__(given, channel, stacks, modules, "remote.stand_in", [theirs.fileno()])
        except BaseException:
            self._control.close()
            raise
        finally:
            theirs.close()
        threading.Thread(target=self._find_place, args=(compared,), name="safeloader-placing", daemon=True).start()

    def _find_place(self, compared: tuple[node.Likeness, tuple[str, ...]]) -> None:
        placing = self._launcher.placing
        likeness, paths = tuple(compared[0]), compared[1]
        try:
            place = placing.place()
            told = place.address, placing.key, placing.silence, likeness, placing.tls, paths
            order: Any = told, "", self._failback
        except Unplaceable as error:
            place, order = None, (None, str(error), self._failback)
        with self._lock:
            if not self._closed:
                self._place = place
                with contextlib.suppress(OSError):
                    self._control.send(marshal.dumps(order))
                return
        if place is not None:
            placing.release(place, usable=True)

    def settle(self) -> None:
        """It spoke: what became of its order is known."""
        self._ready = True
        self._read_notes()

    def poll(self) -> int | None:
        """Its exit code; `LOST` where it is the link that ended it."""
        code = super().poll()
        if code is None:
            return None
        self._read_notes()
        return LOST if self._lost else code

    @property
    def why_lost(self) -> str:  # type: ignore[override]
        """How it ended, where the exit code does not say it."""
        return self._lost or Spawned.why_lost

    def forfeited(self) -> bool:
        """True if it was lost with others on its host, the first of which is the fault; or if it found no room."""
        return self._forfeited

    def _read_notes(self) -> None:
        while self._control.fileno() >= 0:
            try:
                note = self._control.recv(1 << 16, socket.MSG_DONTWAIT)
            except OSError:
                return
            if not note:
                return
            self._take_note(*marshal.loads(note))

    def _take_note(self, what: int, told: Any) -> None:
        place = self._place
        if what == stand_in.HERE:
            self._place = None
            self.fell_back, self._forfeited = not self._failback, self._failback
            if place is not None:  # it was of no use
                self._launcher.placing.release(place, usable=False)
            if told:
                self._launcher.tell(told)
        elif what == stand_in.PLACED and place is not None:
            self.host = told[0]
            self._launcher.placed(self.pid, *told)
        elif what == stand_in.LOST and place is not None:
            self._lost, self._failed = told, True
            self._forfeited = not self._launcher.is_first_loss(place.node)

    def close(self) -> None:
        """It is gone, or abandoned; its room is free."""
        self._read_notes()
        super().close()
        with self._lock:
            if self._closed:
                return
            self._closed, place = True, self._place
            usable = self._ready and not self._failed
            self._control.close()
        if place is not None:
            self._launcher.placing.release(place, usable=usable)
