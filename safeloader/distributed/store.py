"""The process group's key-value store, asked so that nobody ever waits for it longer than they said.

A store's calls have no deadline: asked for a key of a server that is frozen, or behind a cut link, ``check`` blocks for
ever, and with it every other user of that connection, since a connection serves one call at a time. So one thread a
program asks, over a connection of its own, and callers wait for the thread, for as long as they like. While a call of
the thread is blocked, all others fail at once; when it comes back, the store is well again. A connection that is lost
stays lost until the process group is made anew.

No call waits for a key to appear, and none is a collective operation: a rank that is late, or was never started, costs
nothing.

torchrun's agent keeps its store from one start of the group to the next, and so may be found what ranks wrote that are
long gone. So write the time with it: what is older than `born` is of another start, since no group is complete before
all of its processes have begun.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
import weakref
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch.distributed as dist

from ..ranks import group
from ..torch_private import default_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["GroupStore", "born", "group_store"]

T = TypeVar("T")
_PREFIX = "safeloader/"
_IMPORTED = time.time()
_KEY_TIMEOUT = timedelta(seconds=5)  # of a key that vanished between being seen and being read


class GroupStore:
    """The store of one process group. Get it from `group_store`. All methods may be called from any thread.

    Args:
        store: torch's; a connection of its own is made of it where torch can (2.8 and later), else it is shared.

    Attributes:
        trouble: Why the last call that failed did, in words; "" while there was none. `lost` tells whether it is final.
        lost: The connection is gone for good.
    """

    def __init__(self, store: Any) -> None:
        self.trouble = ""
        self.lost = False
        self._torchs: Any = store
        self._jobs: deque[_Job] = deque()
        self._told: dict[str, bytes | None] = {}  # what is to be written; None: to be deleted
        self._woken = threading.Condition()
        self._thread: threading.Thread | None = None
        self._blocked = False  # somebody waited in vain, and the thread has not come back since
        self.silence_told = False  # somebody has logged that it does not answer

    def tell(self, key: str, value: bytes | str | None) -> None:
        """Have a value written soon, or with None deleted. Returns at once; the newest value of a key counts.

        Nothing is heard of a failure but `trouble`.
        """
        with self._woken:
            if not self.lost:
                self._told[key] = value.encode() if isinstance(value, str) else value
                self._wake()

    def look(self, keys: Iterable[str], within: float) -> dict[str, bytes] | None:
        """What is written under these keys, without those that are not there.

        Args:
            keys: Any number; one round trip for all on a TCPStore if all are there, else one for each.
            within: Seconds to wait for the store, not for the keys.

        Returns:
            None where the store did not answer in time; `trouble` says why.
        """
        wanted = list(keys)
        return self._ask(lambda store: _found(store, wanted), within)

    def first(self, key: str, value: str, within: float, instead_of: bytes = b"") -> bytes | None:
        """Write a value where there is none yet; of several ranks exactly one does.

        Args:
            key: Where.
            value: What; not empty.
            within: Seconds to wait for the store.
            instead_of: Write it only where this stands; by default, where nothing does.

        Returns:
            What is there now: this value, or what another rank wrote before. None where the store did not answer
            in time, though it may still write; `trouble` says why.
        """
        expected = instead_of.decode()
        return self._ask(lambda store: bytes(store.compare_set(_PREFIX + key, expected, value)), within)

    def _ask(self, what: Callable[[Any], T], within: float) -> T | None:
        job = _Job(what)
        with self._woken:
            if self.lost:
                return None
            self._jobs.append(job)
            self._wake()
        if not job.done.wait(0 if self._blocked else within):
            self._give_up(job, within)
            return None
        if job.failed:
            self.trouble = job.failed
            return None
        answer: T = job.answer
        return answer

    def _give_up(self, job: _Job, within: float) -> None:
        with self._woken:
            if not (self.lost or self._blocked or job.done.is_set()):
                self.trouble, self._blocked = f"the store did not answer within {within:g} s", True
            with contextlib.suppress(ValueError):  # it may be in work
                self._jobs.remove(job)

    def close(self) -> None:
        """End the thread, if it is not blocked; no further call is answered."""
        self._end("the process group is no more")

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="safeloader store", daemon=True)
            self._thread.start()
        self._woken.notify()

    # ------------------------------------------------------------ in the thread

    def _serve(self) -> None:
        store: Any = None
        while not self.lost:
            with self._woken:
                self._blocked = False
                while not (self._jobs or self._told or self.lost):
                    self._woken.wait()
                told, self._told = self._told, {}
                job = self._jobs.popleft() if self._jobs else None
            try:
                if store is None:
                    store, self._torchs = _connected(self._torchs), None  # torch's lives no longer for our sake
                _write(store, told)
            except Exception as error:
                self._failed(error)
            if job is not None:
                self._do(job, store)

    def _do(self, job: _Job, store: Any) -> None:
        try:
            if self.lost or store is None:
                job.failed = self.trouble
            else:
                job.answer = job.what(store)
        except Exception as error:
            self._failed(error)
            job.failed = self.trouble
        finally:
            job.done.set()

    def _failed(self, error: Exception) -> None:
        self.trouble = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        if isinstance(error, dist.DistNetworkError):
            self._end(self.trouble)

    def _end(self, trouble: str) -> None:
        with self._woken:
            self.lost, self.trouble = True, trouble
            for job in self._jobs:
                job.failed = trouble
                job.done.set()
            self._jobs.clear()
            self._told.clear()
            self._woken.notify()


class _Job:
    """A question to the store, and its answer."""

    def __init__(self, what: Callable[[Any], Any]) -> None:
        self.what = what
        self.done = threading.Event()
        self.answer: Any = None
        self.failed = ""


def _connected(store: Any) -> Any:
    """A connection of our own, so that a call of ours that blocks blocks nobody else's."""
    if not hasattr(store, "clone"):
        return store
    own = store.clone()
    own.set_timeout(_KEY_TIMEOUT)
    return own


def _write(store: Any, told: dict[str, bytes | None]) -> None:
    for key, value in told.items():
        if value is None:
            store.delete_key(_PREFIX + key)
        else:
            store.set(_PREFIX + key, value)


def _found(store: Any, wanted: list[str]) -> dict[str, bytes]:
    names = [_PREFIX + key for key in wanted]
    if not wanted:
        return {}
    if not store.check(names):
        there = [number for number, name in enumerate(names) if store.check([name])]
        wanted, names = [wanted[number] for number in there], [names[number] for number in there]
    if not store.has_extended_api():
        return {key: bytes(store.get(name)) for key, name in zip(wanted, names, strict=True)}
    values = store.multi_get(names) if names else []
    return {key: bytes(value) for key, value in zip(wanted, values, strict=True)}


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
    """The store of the process group that there is now."""

    lock = threading.Lock()
    group: weakref.ref[Any] | None = None
    store: GroupStore | None = None


def group_store() -> GroupStore | None:
    """The store of the default process group; None where there is none, or it has one rank only."""
    here = group()
    theirs = default_store() if here is not None and here[1] > 1 else None
    with _Current.lock:
        known = None if _Current.group is None else _Current.group()
        if _Current.store is not None and theirs is not known:
            _Current.store.close()
            _Current.group = _Current.store = None
        if theirs is not None and _Current.store is None:
            _Current.group, _Current.store = weakref.ref(theirs), GroupStore(theirs)
        return _Current.store
