"""Interrupts what the main thread does for too long: one thread a program, told by single stores.

A signal is what ends a call that waits; Python runs its handler in the main thread, between two instructions. The
exception may also be somebody else's (Ctrl-C), at any instruction here. So nothing here has to be undone in order: a
limit that was left behind interrupts nothing, since it is looked whether its block still runs; and the handler stays
where it is, since a signal that finds none ends the program.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from safeloader import clock
from safeloader.runtime import system
from safeloader.runtime.trainer.callers import is_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["Interrupted", "start", "watched"]

T = TypeVar("T")
_LOOK = 0.25  # seconds between two looks of the thread


class Interrupted(BaseException):
    """A batch took too long; not an Exception, so that no dataset swallows it."""

    def __init__(self, stack: str = "") -> None:
        super().__init__(stack)
        self.stack = stack


class _Limit(NamedTuple):
    """When the main thread must be done with what it does. Each is an object of its own."""

    end: float


class _Watchdog:
    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self.limit: _Limit | None = None
        self._passed: tuple[_Limit, str] | None = None
        self._nap = threading.Event()
        self._before: Any = None  # the handler that was there, for signals that are not ours

    def start(self) -> None:
        """Begin the thread."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, daemon=True, name="safeloader-watchdog")
            thread.start()
            self._thread = thread

    def set(self, seconds: float) -> None:
        """Interrupt the main thread unless `clear` comes in time."""
        self.start()
        there = signal.getsignal(system.INTERRUPT_SIGNAL)
        if there != self._interrupt:
            self._before = there
            signal.signal(system.INTERRUPT_SIGNAL, self._interrupt)
        self.limit = _Limit(clock.now() + seconds)
        self._wake.set()

    def clear(self) -> None:
        """It is done."""
        self.limit = None

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        passed = self._passed
        if passed is not None and passed[0] is self.limit:
            self.limit = None
            if is_in(frame, watched.__code__):
                raise Interrupted(passed[1])
        if passed is None and callable(self._before):
            self._before(signum, frame)

    def _run(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        while True:
            limit = self.limit
            if limit is None:
                self._wake.clear()
                if self.limit is None:
                    self._wake.wait()
                continue
            left = limit.end - clock.now()
            if left > 0:
                self._nap.wait(min(left, _LOOK))
                continue
            self._passed = limit, _stack(main)
            if self.limit is limit:
                signal.pthread_kill(main, system.INTERRUPT_SIGNAL)
                self._nap.wait(_LOOK)  # for the handler, which may have to wait for a call in C


def _stack(thread: int) -> str:
    """Where a thread is; nothing keeps its frames."""
    frame = sys._current_frames().get(thread)
    return "" if frame is None else "".join(traceback.format_stack(frame))


_watchdog = _Watchdog()


def watched(seconds: float, act: Callable[[], T]) -> T:
    """Do something, and interrupt it after so long; only in the main thread, where Python runs signal handlers.

    Raises:
        Interrupted: it took longer.
    """
    if threading.current_thread() is not threading.main_thread():
        return act()
    try:
        _watchdog.set(seconds)
        return act()
    finally:
        _watchdog.clear()


def start() -> None:
    """Begin the thread, as the first batch would."""
    _watchdog.start()


def _begin_anew() -> None:
    global _watchdog  # noqa: PLW0603 - one a program; a fork has none of its parent's threads
    _watchdog = _Watchdog()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
