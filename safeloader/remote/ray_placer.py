"""Speaks with Ray in a process of its own, so that a trainer outlives the cluster.

Ray ends every program that is connected to a cluster whose head has been gone for a minute. So the trainer is not
connected; its *placer* is, a small process beside it, which asks for actors and ends them, for all its loaders. If the
placer ends, Ray ends its actors, the loaders' processes are here, and another placer is started when one is needed
again. (A program that has connected itself to Ray asks for itself: it shares the cluster's fate anyhow.)
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

from safeloader.remote.launcher import Place, Unplaceable
from safeloader.remote.ray_placing import RayPlacing, Wanted

__all__ = ["Placer", "main"]

_OPEN, _PLACE, _RELEASE, _CLOSE = range(4)
_LOOK = 1.0  # seconds between two looks whether the trainer lives
_START = 60.0  # seconds for the placer to start, besides what Ray is given
_PAUSE = 60.0  # seconds until another placer is started
_END = 10.0
_MOST = 1 << 16
_GONE = "what asks the Ray cluster has ended, as it does when the cluster's head is gone"


class Placer:
    """One loader's; a `safeloader.remote.launcher.Placing`.

    Args:
        wanted: what a user says.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.key, self.silence, self.local = os.urandom(32), wanted.silence, wanted.local
        self._patience = 3 * wanted.patience + _START
        self._wanted = wanted
        self._number = next(_numbers)
        self._opened: _Process | None = None
        self._lock = threading.Lock()

    def place(self) -> Place:
        """Room for one process, as Ray says."""
        with self._lock:
            process = _process(self)
            if process is not self._opened:
                process.tell(_OPEN, self._number, (self.key, tuple(self._wanted)))
                self._opened = process
        place, why = process.ask(self._number, self._patience)
        if place is None:
            raise Unplaceable(why)
        (address, node), number = place
        return Place(tuple(address), node, (process, number))

    def release(self, place: Place, usable: bool) -> None:
        """Its actor serves the next process, or is ended."""
        process, number = place.agent
        process.tell(_RELEASE, number, usable)

    def close(self) -> None:
        """End this loader's actors; with the last loader, the placer."""
        with _lock:
            _users.discard(self)
            process = _running[0] if _running else None
            last = not _users
        if self._opened is not None and self._opened is process:
            process.tell(_CLOSE, self._number, None)
        if process is not None and last:
            process.end()


_numbers = itertools.count()
_lock = threading.RLock()  # a loader may be collected, and closed, at any time
_users: set[Placer] = set()
_running: list[_Process] = []  # the placer of this program, if there is one
_not_before = [0.0]


def _process(user: Placer) -> _Process:
    """The placer of this program, that lives.

    Raises:
        Unplaceable: there is none.
    """
    with _lock:
        _users.add(user)
        if _running and _running[0].ours:
            return _running[0]
        if importlib.util.find_spec("ray") is None:
            raise Unplaceable("Ray cannot be imported (No module named 'ray'): pip install 'safeloader[ray]'")
        if monotonic() < _not_before[0]:
            raise Unplaceable(_GONE)
        try:
            _running[:] = [_Process()]
        except OSError as error:
            raise Unplaceable(str(error)) from error
        return _running[0]


class _Process:
    """A placer, from the trainer's side.

    Attributes:
        ours: this process started it (a fork of it has none), and it has not ended.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main({theirs.fileno()})"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._trainer = os.getpid()
        self._ended = self._asked_to_end = False
        self._waiting: dict[int, queue.SimpleQueue[Any]] = {}
        self._lock = threading.Lock()
        self._socket.send(marshal.dumps(self._trainer))
        threading.Thread(target=self._hear, name="safeloader-placer", daemon=True).start()

    @property
    def ours(self) -> bool:
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
                return None, _GONE
        self.tell(_PLACE, number, loader)
        try:
            place, why = answer.get(timeout=seconds)
        except queue.Empty:
            place, why = None, "the Ray cluster does not answer"
        with self._lock:
            self._waiting.pop(number, None)
        return (None if place is None else (place, number)), why

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
            _not_before[0] = monotonic() + _PAUSE
        with self._lock:
            self._ended = True
            for waiting in self._waiting.values():
                waiting.put((None, _GONE))
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


def main(descriptor: int) -> None:
    """Until the trainer closes its end, or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a trainer that is asked to end may still want batches
    trainer = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    parent = marshal.loads(trainer.recv(_MOST))
    trainer.settimeout(_LOOK)
    serves = _Serves(trainer)
    while os.getppid() == parent:
        try:
            said = trainer.recv(_MOST)
        except TimeoutError:
            continue
        if not said:
            break
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
        elif what == _CLOSE:
            threading.Thread(target=self._placings.pop(number).close, daemon=True).start()

    def _place(self, placing: RayPlacing | None, number: int) -> None:
        try:
            if placing is None:
                raise Unplaceable("the loader is closed")
            place = placing.place()
        except Unplaceable as error:
            told: Any = None, str(error)
        else:
            self._placed[number], told = (placing, place), ((place.address, place.node), "")
        with contextlib.suppress(OSError):
            self._trainer.send(marshal.dumps((number, *told)))

    def close(self) -> None:
        """End all actors."""
        for placing in list(self._placings.values()):
            placing.close()
