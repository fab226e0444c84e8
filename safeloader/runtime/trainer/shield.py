"""Work that is done to its end, whatever is raised into the thread that wants it.

An exception can arrive between any two instructions of a thread: Ctrl-C and other signals in the main thread, whatever
``PyThreadState_SetAsyncExc`` aims at in any. What a loader does rarely (it starts, ends and asks processes, it writes
reports) is therefore done in a thread that nobody aims at. Who wants it waits; if he is interrupted, the work goes on,
and he finds it done when he comes back.
"""

from __future__ import annotations

import contextvars
import os
import queue
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Shield", "start"]

_LOOK = 0.05  # seconds
_LOOKS = 100  # until the work is done by the one who wants it


class _Job:
    """One piece of work; begun once, however often that is asked for."""

    def __init__(self, key: tuple[Any, ...], act: Callable[[], Any]) -> None:
        self.key = key
        self.is_passing = key[0] == "do"  # nobody will ask for it by its key
        self.thread = 0
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._act: tuple[Any, Any] | None = (contextvars.copy_context().run, act)
        self._claim = threading.Lock()
        self._over = threading.Lock()
        self._over.acquire()

    def run(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        self.thread = threading.get_ident()
        assert self._act is not None
        run, act = self._act
        try:
            self.result = run(act)
        except BaseException as error:
            traceback = error.__traceback__
            self.error = error.with_traceback(traceback and traceback.tb_next)  # this frame knows this object
            del traceback
        del run, act
        self._act = None
        self.thread = 0
        self.done = True
        self._over.release()
        del self  # the error's frames know this one, and it must not know the error

    def wait(self) -> None:
        """Until it is done; here, if no thread can be had, say, while the interpreter ends."""
        looks = 0
        while not self.done:
            if not looks:
                _starter.start(self.run)
            if self._over.acquire(timeout=_LOOK):
                self._over.release()
            looks += 1
            if looks >= _LOOKS and not self._claim.locked():
                self.run()


class _Starter:
    """A thread that starts the others.

    ``PyThreadState_SetAsyncExc`` finds a thread by a number that one which is just born still has from the one that
    starts it. It may end the newborn before ``threading.Thread.start`` hears of it, which then waits for ever. So
    nobody who may be aimed at starts a thread.
    """

    def __init__(self) -> None:
        self._wanted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, run: Callable[[], None] | None = None) -> None:
        """Run something in a thread; without it, only be ready."""
        if self._thread is None and not sys.is_finalizing():
            thread = threading.Thread(target=self._run, name="safeloader-starter", daemon=True)
            thread.start()
            self._thread = thread
        if run is not None:
            self._wanted.put(run)

    def _run(self) -> None:
        while True:
            run = self._wanted.get()
            try:
                threading.Thread(target=run, name="safeloader-shield", daemon=True).start()
            except RuntimeError:
                run()
            del run


_starter = _Starter()


def start() -> None:
    """Begin the thread that starts the others, as the first work would."""
    _starter.start()


def _begin_anew() -> None:
    global _starter  # noqa: PLW0603 - one a program
    _starter = _Starter()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


class Shield:
    """Does one thing at a time for one loader.

    Attributes:
        job: what was begun last. It holds what it raised, and so its callers: for them to set to None.
    """

    def __init__(self) -> None:
        self.job: _Job | None = None
        self._count = 0

    @property
    def inside(self) -> bool:
        """True in the thread that does the work now."""
        return self.job is not None and self.job.thread == threading.get_ident()

    @property
    def busy(self) -> bool:
        """True while something is done that nobody may be waiting for."""
        return self.job is not None and not self.job.done

    def settle(self) -> None:
        """Wait for what was begun and not waited for."""
        if self.job is not None and not self.job.done and not self.inside:
            self.job.wait()

    def run(self, key: tuple[Any, ...], act: Callable[[], Any]) -> Any:
        """Do this to its end, once: a key that was the last one is not done again.

        Raises:
            BaseException: what ``act`` raised.
        """
        if self.inside:
            return act()
        job = self.job
        if job is None or job.key != key:
            self.settle()
            self.job = job = _Job(key, act)
        job.wait()
        try:
            if job.error is not None:
                raise job.error
            return job.result
        finally:
            del job

    def forget(self) -> None:
        """Let go of what was done, if nobody will ask for it by its key."""
        job = self.job
        if job is not None and job.done and job.is_passing:
            self.job = None

    def genuine(self, error: BaseException) -> BaseException:
        """An error that ``run`` raised, if the work raised it; else it is an interrupt, and raised."""
        if self.job is not None and self.job.error is error:
            return error
        raise error

    def do(self, act: Callable[[], Any]) -> Any:
        """The same for what may be done again if it was interrupted."""
        self._count += 1
        return self.run(("do", self._count), act)
