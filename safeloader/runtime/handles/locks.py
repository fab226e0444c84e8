"""Locks and what is built on them. A worker's are new: no thread of it holds any."""

from __future__ import annotations

import copyreg
import gc
import queue
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Pickler = Any


def reduce_lock(_: Pickler, lock: Any) -> Any:
    return threading.Lock, ()


def reduce_rlock(_: Pickler, lock: Any) -> Any:
    return threading.RLock, ()


def _with(obj: Any, **changed: Any) -> Any:
    """As an object with the same attributes, but for those that tell who waits for it."""
    return copyreg.__newobj__, (type(obj),), {**vars(obj), **changed}  # type: ignore[attr-defined]


def reduce_condition(_: Pickler, condition: threading.Condition) -> Any:
    return _with(condition, _waiters=deque())


def reduce_bounded(_: Pickler, semaphore: Any) -> Any:
    return _with(semaphore, _value=semaphore._initial_value)


def reduce_barrier(_: Pickler, barrier: Any) -> Any:
    return _with(barrier, _count=0, _state=-2 if barrier.broken else 0)


def refuse_running(_: Pickler, running: Any) -> Any:
    """It would come as one that says that it runs, and does not."""
    from safeloader.runtime.by_value.kinds import RefusedError

    raise RefusedError("it runs in this process")


def reduce_executor(pickler: Pickler, pool: Any) -> Any:
    """One that has started no thread yet is made anew."""
    plain = type(pool) is ThreadPoolExecutor
    if not plain or pool._threads or pool._shutdown or not pool._work_queue.empty():
        refuse_running(pickler, pool)
    return ThreadPoolExecutor, (pool._max_workers, pool._thread_name_prefix, pool._initializer, pool._initargs)


def reduce_local(_: Pickler, local: Any) -> Any:
    """With what the thread that begins the iteration has in it. Other threads begin as they always do."""
    kept = [found for found in gc.get_referents(local) if type(found) in (tuple, dict)]
    args = next((found for found in kept if type(found) is tuple), ())
    keywords = {}
    if args or type(local).__init__ is not object.__init__:
        contents = vars(local)
        keywords = next((f for f in kept if type(f) is dict and f is not contents and _are_keywords(f)), {})
    return make_local, (type(local), args, keywords), dict(vars(local)), None, None, fill_local


def _are_keywords(found: dict[Any, Any]) -> bool:
    return all(isinstance(name, str) and name.isidentifier() for name in found)


def make_local(cls: type, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return cls.__new__(cls, *args, **keywords)


def fill_local(local: Any, contents: dict[str, Any]) -> None:
    local.__dict__.update(contents)


def reduce_simple_queue(_: Pickler, waiting: Any) -> Any:
    """With what waits in it, which can only be seen by taking it out and putting it back."""
    items = []
    for _ in range(waiting.qsize()):
        try:
            items.append(waiting.get_nowait())
        except queue.Empty:
            break
    for item in items:
        waiting.put(item)
    return make_simple_queue, (), items, None, None, fill_simple_queue


def make_simple_queue() -> Any:
    return queue.SimpleQueue()


def fill_simple_queue(made: Any, items: list[Any]) -> None:
    for item in items:
        made.put(item)
