"""The clock of deadlines: seconds in which this program ran.

A program that is suspended (SIGSTOP, a batch system, a frozen control group, a paused machine, a debugger) finds its
workers suspended as well, or at least nobody looked: that time is no worker's fault. So it does not count. A thread
wakes every second and does nothing else. Where it woke much later than it asked to, and the program did not use the
processor meanwhile, nor waited for it, the program did not run. (A training step that holds Python's lock keeps the
thread from waking, too, but it uses the processor: a hang during a long training step is seen at once.)

``time.monotonic`` stands still while the whole machine sleeps; what this clock adds is everything else.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from time import monotonic, process_time, sleep
from typing import NamedTuple

__all__ = ["at", "lost", "now", "start"]

_BEAT = 1.0
_LATE = 2.0
"""Seconds without a beat from which on somebody who asks for the time looks what was."""
_KEPT = 64  # gaps that are remembered one by one


class _Gap(NamedTuple):
    end: float  # monotonic seconds
    lost: float  # in all, up to its end


class _Clock:
    def __init__(self) -> None:
        self.gaps: deque[_Gap] = deque(maxlen=_KEPT)
        self.lost = 0.0
        self.beaten_at = 0.0  # monotonic seconds of the last beat; 0: nobody beats
        self._used = 0.0  # `_active` then
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            self.beaten_at, self._used = monotonic(), _active()
            self._thread = threading.Thread(target=self._run, name="safeloader-clock", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            sleep(_BEAT)
            self.beat()

    def beat(self) -> None:
        """Look how much of the time since the last beat the program did not run."""
        with self._lock:
            time, used = monotonic(), _active()
            missed = time - self.beaten_at - _BEAT - (used - self._used)
            if missed > _BEAT:
                lost = self.lost + missed
                self.gaps.append(_Gap(time, lost))
                self.lost = lost
            self.beaten_at, self._used = time, used


def _active() -> float:
    """Seconds in which this program used the processor, or its main thread waited for one that was busy."""
    try:
        with open("/proc/self/schedstat", "rb") as file:
            waited = int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        waited = 0.0
    return process_time() + waited


_clock = _Clock()


def start() -> None:
    """Begin to measure; once a program."""
    _clock.start()


def now() -> float:
    """Seconds of ``time.monotonic``, less those in which the program did not run."""
    time, beaten_at = monotonic(), _clock.beaten_at
    if time - beaten_at > _LATE and beaten_at:
        _clock.beat()
        time = monotonic()
    return time - _clock.lost


def at(time: float) -> float:
    """What this clock showed at a moment of ``time.monotonic``, say, one that another process wrote down."""
    gaps = _clock.gaps
    if not gaps or time >= gaps[-1].end:
        return time - _clock.lost
    before = 0.0
    for gap in gaps:
        if time < gap.end:
            return min(time - before, gap.end - gap.lost)
        before = gap.lost
    return time - before


def lost() -> float:
    """Seconds in all in which the program did not run."""
    return _clock.lost


def _begin_anew() -> None:
    global _clock
    before, _clock = _clock, _Clock()
    _clock.lost, _clock.gaps = before.lost, before.gaps


os.register_at_fork(after_in_child=_begin_anew)
