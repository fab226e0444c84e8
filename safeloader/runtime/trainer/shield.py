"""Work that is done to its end, whatever is raised into the thread that wants it.

An exception can arrive between any two instructions of a thread: Ctrl-C and other signals in the main thread, whatever
``PyThreadState_SetAsyncExc`` aims at in any. What a loader does rarely (it starts, ends and asks processes, it writes
reports) is therefore done in a thread that nobody aims at. Who wants it waits; if he is interrupted, the work goes on,
and he finds it done when he comes back.
"""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Shield"]


class _Job:
    """One piece of work; begun once, however often that is asked for."""

    def __init__(self, key: tuple[Any, ...], act: Callable[[], Any]) -> None:
        self.key = key
        self.thread = 0
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._act: tuple[Any, Any] | None = (contextvars.copy_context().run, act)
        self._claim = threading.Lock()
        self._over = threading.Lock()

    def run(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        with self._over:
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
            del self  # the error's frames know this one, and it must not know the error

    def wait(self) -> None:
        while not self.done:
            if not self._claim.locked():
                try:
                    threading.Thread(target=self.run, name="safeloader-shield", daemon=True).start()
                except RuntimeError:  # no thread can be had, say, while the interpreter ends
                    self.run()
            elif self._over.acquire(timeout=0.05):
                self._over.release()


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
        if job is not None and job.done and job.key[0] == "do":
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
