"""What programs and frameworks do with the iterator that torch makes, and with its workers.

Lightning ends workers through ``_shutdown_workers`` where the iterator is torch's multiprocess one, mosaicml-streaming
does in ``__del__``, Ultralytics ends each of ``_workers``, test harnesses kill one by its ``pid``.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
import time
import weakref
from typing import TYPE_CHECKING, Any

from safeloader import torch_private
from safeloader.runtime import system

if TYPE_CHECKING:
    from safeloader.loader_state import RunningIterator
    from safeloader.runtime.trainer.inspection import Post

__all__ = ["TorchIdioms", "WorkerHandle"]


class WorkerHandle:
    """One worker, with the methods of a ``multiprocessing.Process`` that programs call.

    Args:
        iterator: whose it is.
        worker: its id.
        shared: its process serves other loaders, too, and is not this one's to end.
    """

    daemon = True

    def __init__(self, iterator: RunningIterator, worker: int, shared: bool) -> None:
        self._iterator = weakref.ref(iterator)
        self._worker = worker
        self._shared = shared
        self._ended: int | None = None
        self.name = f"DataLoader worker {worker}"

    @property
    def pid(self) -> int | None:
        """The process that hosts it now: another one after a fault; None if it has none."""
        post = self._post()
        return None if post is None or post.process == os.getpid() else post.process

    ident = pid

    @property
    def exitcode(self) -> int | None:
        """None while it lives; a worker outlives its processes."""
        return None if self.is_alive() else 0

    def is_alive(self) -> bool:
        """True until its iterator is closed."""
        iterator = self._iterator()
        return iterator is not None and not iterator.closed

    def terminate(self) -> None:
        """End its process. Whoever goes on iterating gets it back in another."""
        pid = self.pid
        if pid is not None and not self._shared:
            self._ended = pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    kill = terminate

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process is gone that was ended here; where none was, the worker lives, and nobody waits."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while self._ended is not None and system.process_state(self._ended) not in "?ZX" and time.monotonic() < until:
            time.sleep(0.002)

    def _post(self) -> Post | None:
        iterator = self._iterator()
        posts = () if iterator is None or iterator.closed else iterator.inspect().posts
        return next((post for post in posts if post.worker == self._worker), None)


class TorchIdioms(torch_private.MultiProcessingIterator):
    """Passes for torch's multiprocess iterator: its base class is, and none of its methods runs.

    What it inherits and does not have an answer to works on queues that are not there.
    """

    if TYPE_CHECKING:
        _pool: Any

        def close(self) -> None:
            """End this iterator's processes."""

    else:

        @functools.cached_property
        def _workers(self) -> list[WorkerHandle]:
            return [WorkerHandle(self, worker, self._pool is not None) for worker in range(self._num_workers)]

    def __init__(self, loader: Any) -> None:
        torch_private.BaseIterator.__init__(self, loader)

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        torch_private.BaseIterator._reset(self, loader, first_iter)

    def _shutdown_workers(self) -> None:
        self.close()

    def __del__(self) -> None:
        """Nothing: a finalizer ends the processes, in whatever order things die."""
