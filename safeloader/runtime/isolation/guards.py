"""Calls that the trainer could not undo, or would end by: a worker that makes one in the trainer is stopped before it.

While a worker is in, the functions listed here are replaced, for its thread alone. ``Irreversible`` is raised out of
them, and the worker goes to a process, where the call does what it should. A *lenient* worker, for which no process
can be had, goes on without: what lasts is left undone and told; what would end the trainer raises an ordinary error.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Guards", "Irreversible"]


class Irreversible(BaseException):
    """Something was about to be done that cannot be undone here; not an Exception, so that no dataset swallows it.

    Args:
        what: the call, for people.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class _Guard(NamedTuple):
    """A function that is replaced.

    Attributes:
        owner, name: where it is.
        lasts: tells from the arguments whether the call could not be undone.
        instead: what a lenient worker gets.
    """

    owner: Any
    name: str
    lasts: Callable[..., bool]
    instead: Callable[[], Any] | None


def _always(*arguments: Any, **named: Any) -> bool:
    return True


def _none() -> None:
    """Nothing is done."""


# A user 0 need not have the capabilities (containers, user namespaces), so what may be undone is tried, not looked up.
_real_setrlimit, _real_setpriority = resource.setrlimit, os.setpriority
_UNUSED = ("RLIMIT_RTPRIO", "RLIMIT_NICE", "RLIMIT_MSGQUEUE", "RLIMIT_SIGPENDING")  # whose hard limits nobody leans on


def _may_raise_limits() -> bool:
    """Whether a hard limit that is lowered could be raised again: one is raised by one, and put back."""
    for number in [getattr(resource, name) for name in _UNUSED if hasattr(resource, name)]:
        soft, hard = resource.getrlimit(number)
        if hard != resource.RLIM_INFINITY:
            try:
                _real_setrlimit(number, (soft, hard + 1))
            except (OSError, ValueError):
                return False
            _real_setrlimit(number, (soft, hard))
            return True
    return False


def _may_lower() -> bool:
    """Whether a raised priority value could be lowered again: it is lowered by one, and put back."""
    now = os.getpriority(os.PRIO_PROCESS, 0)
    limit = getattr(resource, "RLIMIT_NICE", None)
    if limit is not None and 20 - min(resource.getrlimit(limit)[0] % 2**63, 40) <= now:
        return True
    try:
        _real_setpriority(os.PRIO_PROCESS, 0, now - 1)
    except OSError:
        return False
    _real_setpriority(os.PRIO_PROCESS, 0, now)
    return True


def _nice(increment: int) -> bool:
    return increment > 0 and not _may_lower()


def _priority(which: int, who: int, priority: int) -> bool:
    if which != os.PRIO_PROCESS:
        return True
    return who in (0, os.getpid()) and priority > os.getpriority(which, 0) and not _may_lower()


def _own_priority(process: Any, value: int | None = None) -> bool:
    return value is not None and process.pid == os.getpid() and _priority(os.PRIO_PROCESS, 0, value)


def _is_ordinary(policy: int) -> bool:
    """Whether anybody may leave a scheduling policy again, and come back to it."""
    return policy in (os.SCHED_OTHER, os.SCHED_BATCH)


def _policy(pid: int, policy: int, parameter: Any) -> bool:
    ordinary = _is_ordinary(policy) and _is_ordinary(os.sched_getscheduler(0))
    return pid in (0, os.getpid()) and not ordinary and not _may_lower()


def _parameter(pid: int, parameter: Any) -> bool:
    return pid in (0, os.getpid()) and not _is_ordinary(os.sched_getscheduler(0)) and not _may_lower()


def _limit(number: int, limits: Any) -> bool:
    (_, hard), new = resource.getrlimit(number), limits[1]
    return bool(new != hard and new != resource.RLIM_INFINITY) and not _may_raise_limits()


def _own_limit(pid: int, number: int, limits: Any = None) -> bool:
    return limits is not None and pid in (0, os.getpid()) and _limit(number, limits)


def _deadly(pid: int, number: int) -> bool:
    return pid in (0, -1, os.getpid(), -os.getpgrp()) and _ends(number)


def _deadly_group(group: int, number: int) -> bool:
    return group in (0, os.getpgrp()) and _ends(number)


def _ends(number: int) -> bool:
    harmless = (0, signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, getattr(signal, "SIGWINCH", 0))
    fixed = (signal.SIGKILL, signal.SIGSTOP)
    return number not in harmless and (number in fixed or signal.getsignal(number) is signal.SIG_DFL)


def _listed() -> list[_Guard]:
    """What there is on this system."""
    lasting: list[tuple[Any, str, Callable[..., bool], Callable[[], Any]]] = [
        (os, "nice", _nice, lambda: os.getpriority(os.PRIO_PROCESS, 0)),
        (os, "setpriority", _priority, _none),
        *((os, name, _always, _none) for name in (
            "setuid", "setgid", "seteuid", "setegid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups",
            "initgroups", "setsid", "setpgid", "setpgrp", "chroot", "unshare", "setns",
        )),
        (resource, "setrlimit", _limit, _none),
        (resource, "prlimit", _own_limit, _none),
        (os, "sched_setscheduler", _policy, _none),
        (os, "sched_setparam", _parameter, _none),
        (torch, "set_num_interop_threads", _always, _none),
        *((faulthandler, name, _always, _none) for name in ("enable", "disable", "register", "unregister")),
        (faulthandler, "dump_traceback_later", _always, _none),
    ]  # fmt: skip
    deadly: list[tuple[Any, str, Callable[..., bool]]] = [
        *((os, name, _always) for name in ("_exit", "abort", "execv", "execve")),
        (os, "kill", _deadly),
        (os, "killpg", _deadly_group),
        (signal, "raise_signal", _ends),
    ]
    process: Any = getattr(sys.modules.get("psutil"), "Process", None)
    if process is not None:
        lasting += [
            (process, "nice", _own_priority, _none),
            (process, "rlimit", lambda it, number, limits=None: _own_limit(it.pid, number, limits), _none),
        ]
    found = [_Guard(*each) for each in lasting] + [_Guard(*each, None) for each in deadly]
    return [guard for guard in found if hasattr(guard.owner, guard.name)]


class Guards:
    """The replaced functions."""

    def __init__(self) -> None:
        self._guards = _listed()
        self.refused: str | None = None  # what was stopped, though the worker may have swallowed the exception
        self.left_undone: list[str] = []
        self._thread = 0
        self._lenient = False
        self._before: Callable[[], None] = _none
        self._real = [getattr(guard.owner, guard.name) for guard in self._guards]
        self._shims = [self._shim(*pair) for pair in zip(self._guards, self._real, strict=True)]

    def up(self, lenient: bool, before: Callable[[], None]) -> None:
        """A worker is let in. ``before`` is called before it does something rare."""
        self.refused, self._lenient, self._thread = None, lenient, threading.get_ident()
        self._before = before
        self.left_undone.clear()
        for number, guard in enumerate(self._guards):
            there = getattr(guard.owner, guard.name)
            if there is not self._real[number] and there is not self._shims[number]:  # somebody has replaced it, too
                self._real[number], self._shims[number] = there, self._shim(guard, there)
            setattr(guard.owner, guard.name, self._shims[number])

    def down(self) -> None:
        """It has left. May be called twice."""
        for guard, real, shim in zip(self._guards, self._real, self._shims, strict=True):
            if getattr(guard.owner, guard.name) is shim:
                setattr(guard.owner, guard.name, real)
        self._before = _none

    def _shim(self, guard: _Guard, real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if threading.get_ident() != self._thread or not _lasts(guard, arguments, named):
                if threading.get_ident() == self._thread:
                    self._before()
                return real(*arguments, **named)
            shown = [repr(one) for one in arguments if not isinstance(one, type(guard.owner))]
            owner = getattr(guard.owner, "__name__", "")
            what = f"{owner}.{guard.name}({', '.join(shown)})"
            if not self._lenient:
                self.refused = what
                raise Irreversible(what)
            if guard.instead is None:
                raise RuntimeError(f"{what} would end the main process, where this worker is hosted now")
            self.left_undone.append(what)
            return guard.instead()

        return call


def _lasts(guard: _Guard, arguments: Any, named: Any) -> bool:
    try:
        return guard.lasts(*arguments, **named)
    except Exception:  # arguments that the function itself refuses
        return False
