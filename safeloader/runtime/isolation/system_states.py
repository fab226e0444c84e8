"""What the kernel keeps for a process. A worker's process inherits it from the trainer as the trainer was then."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import resource
import signal
import threading
import time
from typing import Any

from safeloader.runtime import system
from safeloader.runtime.isolation.state import Surrounding

__all__ = ["system_states"]

_OURS = {"SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGCHLD", "SIGTSTP", "SIGCONT"}
_CLOSE = 0.25  # seconds


def system_states() -> list[Surrounding]:
    """All that this system has."""
    return [
        Surrounding("folder", os.getcwd, os.chdir, "born"),
        Surrounding("environment", lambda: dict(_variables), _put_environment, "born"),
        Surrounding("time zone", lambda: (time.tzname, time.timezone, time.altzone), lambda _: time.tzset(), "born"),
        Surrounding("umask", _umask, os.umask, "born"),
        *_scheduling(),
        *_limits(),
        Surrounding("mask of signals", _mask, _put_mask, "born"),
        Surrounding("handlers of the program's signals", lambda: _handlers(_PROGRAMS), _put_handlers, "trainer"),
        Surrounding("handlers of signals", lambda: _handlers(_OTHERS), _put_handlers),
        Surrounding("timer", _Timer.now, _Timer.put),
        *_identity(),
    ]  # fmt: skip


# ---------------------------------------------------------------- environment and files


_variables: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined] # as they are, not decoded each time


def _put_environment(to: dict[bytes, bytes]) -> None:
    for name in _variables.keys() - to.keys():
        del os.environb[name]
    for name, value in to.items():
        if _variables.get(name) != value:
            os.environb[name] = value


_mask_seen = [0o077]


def _umask() -> int:
    """The kernel tells it only to those who set it: what it was the last time is set, and nearly always true."""
    mask = os.umask(_mask_seen[0])
    if mask != _mask_seen[0]:
        os.umask(mask)
        _mask_seen[0] = mask
    return mask


# ---------------------------------------------------------------- scheduling, limits, identity


def _scheduling() -> list[Surrounding]:
    found = [Surrounding("priority", lambda: os.getpriority(os.PRIO_PROCESS, 0), _put_priority, "born")]
    if hasattr(os, "sched_getaffinity"):
        found.append(
            Surrounding("cores", lambda: os.sched_getaffinity(0), lambda to: os.sched_setaffinity(0, to), "born")
        )
        found.append(Surrounding("scheduling", _policy, _put_policy, "born", rare=True))
    return found


def _put_priority(to: int) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, to)


def _policy() -> tuple[int, int]:
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority


def _put_policy(to: tuple[int, int]) -> None:
    os.sched_setscheduler(0, to[0], os.sched_param(to[1]))


def _limits() -> list[Surrounding]:
    numbers = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})

    def get() -> tuple[tuple[int, int], ...]:
        return tuple([resource.getrlimit(number) for number in numbers])

    def put(to: tuple[tuple[int, int], ...]) -> None:
        for number, limits in zip(numbers, to, strict=True):
            if resource.getrlimit(number) != limits:
                resource.setrlimit(number, limits)

    return [Surrounding("limits", get, put, "born", rare=True)]


def _identity() -> list[Surrounding]:
    found = [
        Surrounding("process group", os.getpgrp, lambda to: os.setpgid(0, to), rare=True),
        Surrounding("session", lambda: os.getsid(0), _no, rare=True),
    ]
    if hasattr(os, "getresuid"):
        found += [
            Surrounding("user", os.getresuid, lambda to: os.setresuid(*to), rare=True),
            Surrounding("group", os.getresgid, lambda to: os.setresgid(*to), rare=True),
            Surrounding("groups", lambda: tuple(os.getgroups()), os.setgroups, rare=True),
        ]
    return found


def _no(to: Any) -> None:
    raise OSError("it cannot be changed back")


# ---------------------------------------------------------------- signals


def _numbers(ours: bool) -> tuple[int, ...]:
    """Those that have names; the others, of real time, nobody uses."""
    known = {getattr(signal, name) for name in _OURS} | {system.INTERRUPT_SIGNAL}
    fixed = {signal.SIGKILL, signal.SIGSTOP}
    return tuple(int(n) for n in sorted(signal.valid_signals()) if n < 32 and n not in fixed and (n in known) == ours)


_PROGRAMS, _OTHERS = _numbers(ours=True), _numbers(ours=False)


def _mask() -> set[int]:
    blocked: set[int] = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return blocked


def _put_mask(to: set[int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, to)


def _handlers(numbers: tuple[int, ...]) -> tuple[tuple[int, Any], ...]:
    get = _signal.getsignal  # the public one makes words of numbers, which takes ten times as long
    return tuple([(number, get(number)) for number in numbers])


def _put_handlers(to: tuple[tuple[int, Any], ...]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # only there can they be changed
    for number, handler in to:
        if handler is not None and _signal.getsignal(number) != handler:
            _signal.signal(number, handler)


class _Timer:
    """The alarm that is set: when, and how often after that."""

    def __init__(self, left: float, interval: float) -> None:
        self.due = time.monotonic() + left if left else 0.0
        self.interval = interval

    @classmethod
    def now(cls) -> _Timer:
        return cls(*signal.getitimer(signal.ITIMER_REAL))

    def put(self) -> None:
        left = self.due - time.monotonic()
        if left < 0 and self.interval:
            left %= self.interval
        signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3) if self.due else 0.0, self.interval)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Timer) or self.interval != other.interval:
            return False
        if not (self.due and other.due):
            gone = max(self.due, other.due)
            return gone == 0.0 or (not self.interval and gone < time.monotonic())
        apart = abs(self.due - other.due)
        return (min(apart % self.interval, -apart % self.interval) if self.interval else apart) < _CLOSE

    __hash__ = object.__hash__
