"""Says who holds the run when nothing moves: the loader, or the program that does not ask for batches.

One thread a program, begun with the first epoch. It sleeps until a stall could be due, looks at the pulses of all
loaders that live, and sleeps again. A stall is told once, and its end once. A loader that waits is told of before one
whose consumer is away, and that before one between epochs: of train → val, only what moves last counts.
Between two looks it waits on the status socket (``observe.status_socket``), and sends the status to who asks. Who
accompanies it (the board of all ranks, ``safeloader.distributed.board``) looks when it looks, and must not wait.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from safeloader import clock, codes
from safeloader.observe.stall_place import Stall, StallPlace, place_of
from safeloader.observe.status import program_status
from safeloader.observe.status_socket import StatusSocket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.observe.timings import Pulse

__all__ = [
    "Companion", "Glance", "StallPlace", "Stall", "StallReporter", "accompany", "place_of", "start", "status", "wake",
    "watch",
]  # fmt: skip

_STANDS = 1.0
"""Seconds without a step from which on a status tells the program's place."""


class StallReporter(Protocol):
    """Who is told, in the words of one loader."""

    def stalled(self, seen: Stall) -> None:
        """Nothing moves; called from the watch's thread."""

    def stall_ended(self, seconds: float) -> None:
        """Something moves again, after so many seconds; called from the consumer's thread."""

    def status(self) -> dict[str, Any]:
        """How the loader stands, fit for JSON; called from the watch's thread."""

    def ranks_stalled(self, said: str, ranks: Sequence[int], why: str) -> None:
        """What the board of all ranks says of it; called from the watch's thread."""


class Glance(NamedTuple):
    """What the watch saw.

    Attributes:
        last: seconds (`safeloader.clock`) of the last step of any loader; None if there is none.
        teller: who is told of what holds the run.
    """

    last: float | None = None
    teller: StallReporter | None = None


class Companion(Protocol):
    """Who looks when the watch looks; called from the watch's thread, and never waits."""

    def look(self, glance: Glance) -> float | None:
        """Do what is due. Returns the seconds until the next look; None: no more."""

    def status(self) -> dict[str, Any]:
        """What to add to the program's status."""


class _WatchedLoader(NamedTuple):
    limit: float
    teller: weakref.ref[StallReporter]


class _Watch:
    def __init__(self) -> None:
        self._watched: weakref.WeakKeyDictionary[Pulse, _WatchedLoader] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._socket: StatusSocket | None = None  # where the thread waits, once there is one
        self._told = 0.0  # the moment from which the last stall that was told began
        self._companion: Companion | None = None
        self._thread: threading.Thread | None = None

    def add(self, pulse: Pulse, watched: _WatchedLoader) -> None:
        with self._lock:
            self._watched[pulse] = watched
        self.start()
        self.wake()

    def accompany(self, companion: Companion) -> None:
        self._companion = companion
        self.start()
        self.wake()

    def wake(self) -> None:
        if self._socket is not None:
            self._socket.wake()

    def start(self) -> None:
        with self._lock:
            if self._thread is None:
                clock.start()
                self._socket = StatusSocket(self._answer)
                self._thread = threading.Thread(
                    target=self._run, args=(self._socket,), name="safeloader-stall", daemon=True
                )
                self._thread.start()

    def _run(self, socket: StatusSocket) -> None:
        while True:
            dues = [due for due in (self._look(), self._look_along()) if due is not None]
            socket.wait(min(dues, default=None))

    def status(self) -> dict[str, Any]:
        """How all loaders that live stand."""
        with self._lock:
            watched = list(self._watched.items())
        tellers = [(pulse, how.teller()) for pulse, how in watched]
        return program_status(teller.status() | _whereabouts(pulse) for pulse, teller in tellers if teller is not None)

    def _answer(self) -> dict[str, Any]:
        companion = self._companion
        return self.status() | ({} if companion is None else companion.status())

    def _look_along(self) -> float | None:
        companion = self._companion
        if companion is None:
            return None
        with self._lock:
            watched = list(self._watched.items())
        try:
            if not watched:
                due = companion.look(Glance())
            else:
                due = companion.look(Glance(max(clock.at(p.since) for p, _ in watched), _foremost(watched)[1].teller()))
        except Exception:  # whatever it is, the watch must go on
            codes.log_warning("SL116", "the board of ranks is given up", exc_info=True)
            due = None
        if due is None and self._companion is companion:
            self._companion = None
        return due

    def leave(self) -> None:
        """This is a fork of the program that is watched."""
        if self._socket is not None:
            self._socket.close()

    def _look(self) -> float | None:
        """Tell what is due. Returns the seconds until the next look; None if nobody is watched."""
        with self._lock:
            watched = list(self._watched.items())
        if not watched:
            return None
        limit, now = min(w.limit for _, w in watched), clock.now()
        last = max(clock.at(pulse.since) for pulse, _ in watched)
        if now - last < limit:
            return limit - (now - last)
        if last > self._told:
            self._told = last
            pulse, how = _foremost(watched)
            teller = how.teller()
            if teller is not None:
                pulse.stalled = weakref.WeakMethod(teller.stall_ended)
                holder = "loader" if pulse.waiting else "program"
                teller.stalled(Stall(holder, now - clock.at(pulse.since), pulse.busy, _place(pulse)))
        return limit


def _foremost(watched: list[tuple[Pulse, _WatchedLoader]]) -> tuple[Pulse, _WatchedLoader]:
    """Of all loaders the one whose consumer is told of."""
    return max(watched, key=lambda pair: (pair[0].waiting, pair[0].busy, pair[0].since))


def _whereabouts(pulse: Pulse) -> dict[str, Any]:
    """Where the consumer is, for a status; not while it moves."""
    place = _place(pulse) if clock.now() - clock.at(pulse.since) >= _STANDS else None
    return {"place": "", "joined": False} if place is None else {"place": place.line, "joined": place.joined}


def _place(pulse: Pulse) -> StallPlace | None:
    return place_of(pulse.thread or threading.main_thread().ident or 0)


_the_watch = _Watch()


def watch(pulse: Pulse, limit: float, teller: weakref.ref[Any]) -> None:
    """Watch a pulse for as long as it lives.

    Args:
        pulse: what is watched.
        limit: seconds without a step, of any loader, that count as a stall.
        teller: who is told; held weakly.
    """
    _the_watch.add(pulse, _WatchedLoader(limit, teller))


def accompany(companion: Companion) -> None:
    """Let somebody look along with the watch, in its thread; in place of who did before."""
    _the_watch.accompany(companion)


def wake() -> None:
    """Let the watch look at once; from any thread."""
    _the_watch.wake()


def start() -> None:
    """Begin the thread, as the first epoch would."""
    _the_watch.start()


def status() -> dict[str, Any]:
    """How this program's loaders stand, from their first epoch on (see ``observe.status``)."""
    return _the_watch.status()


def _begin_anew() -> None:
    global _the_watch  # noqa: PLW0603 - one per program
    _the_watch.leave()
    _the_watch = _Watch()


os.register_at_fork(after_in_child=_begin_anew)
