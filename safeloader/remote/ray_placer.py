"""Speaks with Ray in a process of its own, so that a trainer outlives the cluster.

Ray ends every program that is connected to a cluster whose head has been gone for a minute. So the trainer is not
connected; its *placer* is, a small process beside it, which asks for actors and ends them, for all its loaders. If the
placer ends, Ray ends its actors, the loaders' processes are here, and another placer is started when one is needed
again. So it is where the cluster does not answer a placer any more, as one whose head was started anew does: that
placer asks for nothing more, and stays as long as processes are with its actors.
(A program that has connected itself to Ray asks for itself: it shares the cluster's fate anyhow.)
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import marshal
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from time import monotonic
from typing import Any

from safeloader.notes import in_one_line
from safeloader.remote.launcher import Place, Unplaceable
from safeloader.remote.ray_placing import GONE, Disconnected, RayPlacing, Wanted
from safeloader.runtime import system
from safeloader.runtime.start.parent_watch import lifeline

__all__ = ["Placer", "main"]

_OPEN, _PLACE, _RELEASE, _CLOSE = range(4)
_START = 60.0  # seconds for the placer to start, besides what Ray is given
_PAUSE = 60.0  # seconds until another placer is started
_END = 10.0
_MOST = 1 << 16


class Placer:
    """One loader's; a `safeloader.remote.launcher.Placing`.

    Args:
        wanted: what a user says.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.key, self.silence, self.local, self.tls = os.urandom(32), wanted.silence, wanted.local, wanted.tls
        self._patience = 4 * wanted.patience + _START
        self._wanted = wanted
        self._number = next(_numbers)
        self._opened: list[_Process] = []
        self._lock = threading.Lock()

    def place(self) -> Place:
        """Room for one process, as Ray says."""
        with self._lock:
            process = _process(self, self._wanted.address)
            if process not in self._opened:
                process.tell(_OPEN, self._number, (self.key, tuple(self._wanted)))
                self._opened.append(process)
        place, why = process.ask(self._number, self._patience)
        if place is None:
            raise Unplaceable(why)
        (address, node), number = place
        return Place(tuple(address), node, (process, number))

    def release(self, place: Place, usable: bool) -> None:
        """Its actor serves the next process, or is ended."""
        process, number = place.agent
        process.release(number, usable)

    def close(self) -> None:
        """End this loader's actors; with the last loader, all placers."""
        with _lock:
            _users.discard(self)
            running = [process for process in _running if process.ours]
            last = not _users
        for process in running:
            if process in self._opened:
                process.tell(_CLOSE, self._number, None)
            if last:
                process.end()


_numbers = itertools.count()
_lock = threading.RLock()  # a loader may be collected, and closed, at any time
_users: set[Placer] = set()
_running: list[_Process] = []  # the placers of this program; of a cluster's, the last one asks for what is new
_paused: dict[str | None, tuple[float, str]] = {}  # by a cluster's address: until when it is not asked, and why


def _process(user: Placer, address: str | None) -> _Process:
    """The placer of this program that asks this cluster.

    Raises:
        Unplaceable: there is none.
    """
    with _lock:
        _users.add(user)
        _running[:] = [process for process in _running if process.ours]
        for process in _running:
            if process.address == address and not process.retired:
                return process
        if importlib.util.find_spec("ray") is None:
            raise Unplaceable("Ray cannot be imported (No module named 'ray'): pip install 'ray>=2.40'")
        until, why = _paused.get(address, (0.0, ""))
        if monotonic() < until:
            raise Unplaceable(why)
        try:
            _running.append(_Process(address))
        except OSError as error:
            raise Unplaceable(str(error)) from error
        return _running[-1]


class _Process:
    """A placer, from the trainer's side.

    Args:
        address: of the cluster, as a user says it.

    Attributes:
        retired: the cluster does not answer it any more; it ends with the last process that it found room for.
    """

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.retired = False
        self._why_ended = GONE
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        given = theirs.fileno(), lifeline()
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main(*{given})"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], pass_fds=given,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._trainer = os.getpid()
        self._ended = self._asked_to_end = False
        self._waiting: dict[int, queue.SimpleQueue[Any]] = {}
        self._placed: set[int] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._hear, name="safeloader-placer", daemon=True).start()

    @property
    def ours(self) -> bool:
        """This process started it (a fork of it has none), and it has not ended."""
        return self._trainer == os.getpid() and not self._ended and not self._asked_to_end

    def tell(self, *told: Any) -> None:
        with contextlib.suppress(OSError):  # it has ended: whoever waits for it is told so
            self._socket.send(marshal.dumps(told))

    def ask(self, loader: int, seconds: float) -> tuple[Any, str]:
        """Room for a process of this loader, with the number that it goes by; or None, and why."""
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._lock:
            number = next(_numbers)
            self._waiting[number] = answer
            if self._ended:
                return None, self._why_ended
        self.tell(_PLACE, number, loader)
        try:
            place, why, disconnected = answer.get(timeout=seconds)
        except queue.Empty:
            place, why, disconnected = None, "the Ray cluster does not answer", True
        with self._lock:
            del self._waiting[number]
            if place is not None:
                self._placed.add(number)
        if disconnected:
            self._retire(why)
        return (None if place is None else (place, number)), why

    def release(self, number: int, usable: bool) -> None:
        """See `Placer.release`."""
        with self._lock:
            self._placed.discard(number)
        self.tell(_RELEASE, number, usable)
        self._end_if_idle()

    def _retire(self, why: str) -> None:
        self.retired, self._why_ended = True, why
        _paused[self.address] = monotonic() + _PAUSE, why
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        with self._lock:
            idle = self.retired and not self._placed and not self._waiting
        if idle and not self._asked_to_end:
            threading.Thread(target=self.end, name="safeloader-placer", daemon=True).start()

    def _hear(self) -> None:
        """Until the placer ends."""
        with contextlib.suppress(OSError):
            while answer := self._socket.recv(_MOST):
                number, *told = marshal.loads(answer)
                with self._lock:
                    waiting = self._waiting.get(number)
                if waiting is None:
                    self.tell(_RELEASE, number, True)
                else:
                    waiting.put(told)
        self._process.wait()
        if not self._asked_to_end:
            _paused[self.address] = monotonic() + _PAUSE, GONE
        with self._lock:
            self._ended = True
            for waiting in self._waiting.values():
                waiting.put((None, self._why_ended, False))
        self._socket.close()

    def end(self) -> None:
        """It ends its actors, and itself."""
        self._asked_to_end = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(_END)
        except subprocess.TimeoutExpired:
            self._process.kill()


# ---------------------------------------------------------------- the placer


def main(descriptor: int, line: int) -> None:
    """Until the trainer closes its end, or is gone: then the kernel ends it where it can, and Ray ends its actors."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a trainer that is asked to end may still want batches
    for given in (descriptor, line):
        os.set_inheritable(given, False)
    system.die_with(line)
    trainer = socket.socket(fileno=descriptor)
    serves = _Serves(trainer)
    while said := trainer.recv(_MOST):
        serves.take(*marshal.loads(said))
    closing = threading.Thread(target=serves.close, daemon=True)
    closing.start()
    closing.join(_END / 2)
    os._exit(0)


class _Serves:
    """What a placer does for each loader."""

    def __init__(self, trainer: socket.socket) -> None:
        self._trainer = trainer
        self._placings: dict[int, RayPlacing] = {}
        self._placed: dict[int, tuple[RayPlacing, Place]] = {}

    def take(self, what: int, number: int, told: Any) -> None:
        """One thing that the trainer wants."""
        if what == _OPEN:
            key, wanted = told
            self._placings[number] = RayPlacing(Wanted(*wanted), key)
        elif what == _PLACE:
            threading.Thread(target=self._place, args=(self._placings.get(told), number), daemon=True).start()
        elif what == _RELEASE and number in self._placed:
            placing, place = self._placed.pop(number)
            placing.release(place, told)
        elif what == _CLOSE and number in self._placings:
            threading.Thread(target=self._placings.pop(number).close, daemon=True).start()

    def _place(self, placing: RayPlacing | None, number: int) -> None:
        try:
            if placing is None:
                raise Unplaceable("the loader is closed")
            place = placing.place()
        except Unplaceable as error:
            told: Any = None, str(error), isinstance(error, Disconnected)
        except BaseException as error:  # whoever asked is told in any case
            told = None, in_one_line(error), False
        else:
            self._placed[number], told = (placing, place), ((place.address, place.node), "", False)
        with contextlib.suppress(OSError):
            self._trainer.send(marshal.dumps((number, *told)))

    def close(self) -> None:
        """End all actors."""
        for placing in list(self._placings.values()):
            placing.close()
