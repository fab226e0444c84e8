"""The one client of the process group's key-value store, for the rank check and for the board.

A call of the store has no time limit that holds: a host that is frozen, or a link that is cut in the middle of an
answer, blocks it for as long as TCP keeps trying, and with it every other user of that connection. So each client makes
its calls in a thread of its own, over a connection of its own, which is opened for the call and closed after it.
Callers wait for the thread, as long as they like; 10,000 ranks hold no second connection on the store's host; a link
that was cut needs no repair. torch's client writes a page of C++ to standard error when a connection is refused, so a
plain socket tries first.

No call waits for a key to appear, and none is a collective operation: a rank that is late, or was never started, costs
nothing. While calls fail, nobody waits for more than a moment, until one succeeds.

torchrun's agent keeps its store from one start of the group to the next, and so what ranks wrote that have ended may be
found. So write the time with it: what is older than `born` is of another start, since no group is complete before all
of its processes have begun.
"""

from __future__ import annotations

import functools
import os
import queue
import socket
import threading
import time
import weakref
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from safeloader.dist_env import group
from safeloader.torch_private import default_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Call", "GroupStore", "born", "found", "group_store"]

T = TypeVar("T")
_IMPORTED = time.time()
_SECONDS_TO_CONNECT = 3.0
_SECONDS_TO_ANSWER = 10.0
_SECONDS_WHILE_FAILING = 0.2
_MOST_HANGING = 3
_CHUNK = 256  # keys that are asked for at once


class Call(Generic[T]):
    """One call of the store.

    Attributes:
        value: What it returned, once it is over.
        error: The exception that ended it, if one did. The store's have no common base.
    """

    value: T

    def __init__(self, job: Callable[[Any], T]) -> None:
        self.error: Exception | None = None
        self._job = job
        self._over = threading.Event()
        self._begun = monotonic()

    def wait(self, seconds: float = 0.0) -> bool:
        """Whether it is over, after waiting for so long at most."""
        return self._over.wait(seconds)

    @property
    def seconds(self) -> float:
        """How long it has lasted, the wait for the thread included."""
        return monotonic() - self._begun

    @property
    def trouble(self) -> str:
        """Its error in a line."""
        return f"{type(self.error).__name__}: {self.error}".partition("\n")[0]

    def make(self, open_store: Callable[[], Any]) -> None:
        """Make it, in this thread."""
        try:
            self.value = self._job(open_store())
        except Exception as error:
            self.error = error
        self._over.set()


class _Line(threading.Thread):
    """The thread of a client; one that hangs in a call is left behind."""

    def __init__(self, client: GroupStore) -> None:
        super().__init__(name="safeloader-store", daemon=True)
        self.calls: queue.SimpleQueue[Call[Any] | None] = queue.SimpleQueue()
        self._client = client

    def run(self) -> None:
        while (call := self.calls.get()) is not None:
            call.make(self._client.open)
            self._client.over(self, call)


class GroupStore:
    """A client of the store of one process group. All methods may be called from any thread.

    Args:
        store: torch's.
        ended: Called, in the client's thread, when a call is over.

    Attributes:
        name: What to call the store in a message; the same for all ranks of a group.
        address: Host and port of a TCPStore; any other store is used as it is.
        trouble: Why the last call that failed did, in words; "" while there was none.
        silence_told: Somebody has logged that it does not answer.
    """

    def __init__(self, store: Any, ended: Callable[[], object] = lambda: None) -> None:
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        while isinstance(store, PrefixStore):
            store = store.underlying_store
        self.address: tuple[str, int] | None = (store.host, store.port) if isinstance(store, TCPStore) else None
        self._kept = None if self.address else store
        self.name = "{}:{}".format(*self.address) if self.address else type(store).__name__
        self.trouble = ""
        self.silence_told = False
        self._ended = ended
        self._lock = threading.Lock()
        self._line: _Line | None = None
        self._hanging: list[_Line] = []
        self._pending = 0
        self._failing = False
        self._prefix = _prefix()

    def leads_to_the_store_of(self, other: GroupStore) -> bool:
        """Whether two clients have the same store."""
        return (self.address, self._kept) == (other.address, other._kept)

    def open(self) -> Any:
        """torch's client, under this start's prefix.

        Raises:
            OSError: The store's host does not take a connection.
            RuntimeError: The store does not answer.
        """
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        store: Any = self._kept
        if self.address is not None:
            socket.create_connection(self.address, _SECONDS_TO_CONNECT).close()
            limit = timedelta(seconds=_SECONDS_TO_ANSWER)
            store = TCPStore(*self.address, is_master=False, wait_for_workers=False, timeout=limit)
        return PrefixStore(self._prefix, store)

    # ------------------------------------------------------------ calls

    def start(self, job: Callable[[Any], T]) -> Call[T]:
        """Have a call made, after those that were started before."""
        call = Call(job)
        with self._lock:
            if self._line is None or not self._line.is_alive():  # or this is a fork
                self._line, self._pending = _Line(self), 0
                self._line.start()
            self._pending += 1
            self._line.calls.put(call)
        return call

    def over(self, line: _Line, call: Call[Any]) -> None:
        """A call has come to its end; for the client's thread."""
        with self._lock:
            if line is not self._line:
                return
            self._pending -= 1
            self._failing = call.error is not None
        self._ended()

    def ask(self, job: Callable[[Any], T], within: float) -> T | None:
        """What a call returns; None where it fails, or is not over within so many seconds: `trouble` says why.

        While calls fail, this hardly waits, and not at all while one is under way.
        """
        if self._failing and self._pending:
            return None
        call, seconds = self.start(job), min(within, _SECONDS_WHILE_FAILING) if self._failing else within
        if not call.wait(seconds):
            if not self._failing:
                self.trouble, self._failing = f"the store did not answer within {within:g} s", True
            return None
        if call.error is not None:
            self.trouble, self._failing = call.trouble, True
            return None
        return call.value

    def look(self, keys: Iterable[str], within: float) -> dict[str, bytes] | None:
        """What is written under these keys, without those that are not there; None as for `ask`."""
        wanted = list(keys)
        return self.ask(lambda store: found(store, wanted), within)

    def first(self, key: str, value: str, within: float, instead_of: bytes = b"") -> bytes | None:
        """Write a value where there is none yet; of several ranks exactly one does.

        Args:
            key: Where.
            value: What; not empty.
            within: Seconds to wait for the store.
            instead_of: Write it only where this stands; by default, where nothing does.

        Returns:
            What is there now: this value, or what another rank wrote before. None as for `ask`, though it may still be
            written.
        """
        expected = instead_of.decode()
        return self.ask(lambda store: bytes(store.compare_set(key, expected, value)), within)

    def delete(self, key: str) -> None:
        """Have a key deleted soon, if the store answers. Returns at once."""
        if not self._failing:
            self.start(lambda store: store.delete_key(key))

    # ------------------------------------------------------------ threads

    def renew(self) -> bool:
        """Leave a thread that hangs in a call behind, with its calls. False where too many hang already."""
        with self._lock:
            self._hanging = [line for line in self._hanging if line.is_alive()]
            if len(self._hanging) >= _MOST_HANGING:
                return False
            if self._line is not None:
                self._line.calls.put(None)
                self._hanging.append(self._line)
            self._line, self._pending = None, 0
            return True

    def close(self) -> None:
        """End the thread, once its calls are over; another call would start a new one."""
        with self._lock:
            if self._line is not None:
                self._line.calls.put(None)
            self._line, self._pending = None, 0


def found(store: Any, keys: Sequence[str]) -> dict[str, bytes]:
    """What is written under these keys; to ask for one that is not there would be to wait for it."""
    values: dict[str, bytes] = {}
    for begin in range(0, len(keys), _CHUNK):
        there = _written(store, keys[begin : begin + _CHUNK])
        if there:
            got = store.multi_get(there) if store.has_extended_api() else [store.get(key) for key in there]
            values.update((key, bytes(value)) for key, value in zip(there, got, strict=True))
    return values


def _written(store: Any, keys: Sequence[str]) -> list[str]:
    if not keys or store.check(list(keys)):
        return list(keys)
    if len(keys) == 1:
        return []
    half = len(keys) // 2
    return [*_written(store, keys[:half]), *_written(store, keys[half:])]


def _prefix() -> str:
    """Of this start of the group: torchrun keeps one store for all its restarts."""
    job, restart = os.environ.get("TORCHELASTIC_RUN_ID", ""), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return f"safeloader/{job}/{restart}"


@functools.cache
def born() -> float:
    """When this process began, in seconds since 1970."""
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        ago = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):  # no Linux
        return _IMPORTED
    return min(time.time() - ago, _IMPORTED)


class _Current:
    """The client for the process group that there is now."""

    lock = threading.Lock()
    group: weakref.ref[Any] | None = None
    store: GroupStore | None = None


def group_store() -> GroupStore | None:
    """The client of the default process group's store; None where there is no group, or it has one rank only."""
    here = group()
    theirs = default_store() if here is not None and here[1] > 1 else None
    with _Current.lock:
        known = None if _Current.group is None else _Current.group()
        if _Current.store is not None and (theirs is None or theirs is not known):  # known: None if it was collected
            _Current.store.close()
            _Current.group = _Current.store = None
        if theirs is not None and _Current.store is None:
            _Current.group, _Current.store = weakref.ref(theirs), GroupStore(theirs)
        return _Current.store
