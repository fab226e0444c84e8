"""Whether what rebuilds a dataset asks for what differs from process to process: a pid, the time, random numbers.

Copies of a dataset that were rebuilt one by one differ in what was made of that (the name of a temporary folder, a
seed, which of them was the first to create a file), and copies of one that was rebuilt once do not. So whoever rebuilds
it once looks at each call of C code meanwhile (``sys.setprofile``). What a module of an installed package does while it
is imported is not looked at: a fork server imports such modules for all.
"""

from __future__ import annotations

import datetime
import fcntl
import io
import multiprocessing.process
import os
import random
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from safeloader.runtime.by_value.rebuild import random_generator
from safeloader.runtime.child.generators import Generators
from safeloader.runtime.user_code import is_foreign

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

    from typing_extensions import Self

__all__ = ["Asked"]

_CALLS: frozenset[Any] = frozenset(
    getattr(module, name)
    for module, names in (
        (os, ("getpid", "getppid", "getpgid", "getsid", "urandom", "getrandom", "times")),
        (time, ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time",
                "process_time_ns", "thread_time", "gmtime", "localtime", "ctime", "strftime")),
        (threading, ("get_native_id",)),
        (uuid, ("_generate_time_safe", "_UuidCreate")),
        (os, ("mkdir", "rename", "replace", "link", "symlink", "unlink", "remove", "rmdir", "mkfifo", "mknod")),
        (fcntl, ("flock", "lockf", "fcntl")),
        (datetime.datetime, ("now", "utcnow", "today")),
        (datetime.date, ("today",)),
    )
    for name in names
    if getattr(module, name, None) is not None
)  # fmt: skip
_OPENS: frozenset[Any] = frozenset({io.open, os.open})  # a file that all write to, or that one of them creates
_FUNCTIONS: frozenset[CodeType] = frozenset({multiprocessing.process.current_process.__code__})
_IMPORTING = "<frozen importlib"
_MAKES_GENERATORS = random_generator.__code__  # whose state follows in the stream


class Asked:
    """Looks while a block runs.

    Args:
        shares: the objects share something with other processes, which any code of the user's may write to.

    Attributes:
        what: what was asked for first, in words that follow "reading it"; "" if nothing was.
    """

    def __init__(self, shares: bool) -> None:
        self.what = ""
        self._shares = shares
        self._generators = Generators()

    def __enter__(self) -> Self:
        self._before: Callable[..., object] | None = sys.getprofile()
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)
        if self._generators.moved() is not None:
            self.what = self.what or "draws random numbers"

    def _look(self, frame: FrameType, event: str, arg: Any) -> None:
        if self.what:
            return
        if event == "c_call":
            if (_differs(arg) and _counts(frame)) or (_in(arg, _OPENS) and _is_users(frame)):
                self.what = f"calls {getattr(arg, '__qualname__', arg)}"
        elif event == "call":
            if frame.f_code in _FUNCTIONS and _counts(frame.f_back):
                self.what = f"calls {frame.f_code.co_name}"
            elif self._shares and not is_foreign(frame.f_code.co_filename) and not _imports(frame):
                self.what = f"shares memory or locks, and runs code ({frame.f_code.co_name})"


def _in(function: Any, functions: frozenset[Any]) -> bool:
    try:
        return function in functions
    except TypeError:  # it has no hash
        return False


def _differs(function: Any) -> bool:
    seeds = getattr(function, "__name__", "") == "seed" and _is_generator(getattr(function, "__self__", None))
    return seeds or _in(function, _CALLS)


def _is_generator(thing: Any) -> bool:
    torch: Any = sys.modules["torch"]
    return isinstance(thing, (random.Random, torch.Generator))


def _counts(frame: FrameType | None) -> bool:
    """Whether a call was made by the user's code, or by what rebuilds an object; not by a module that is imported."""
    return _caller(frame) != "import"


def _is_users(frame: FrameType | None) -> bool:
    """Whether a call was made by the user's code."""
    return _caller(frame) == "user"


def _caller(frame: FrameType | None) -> str:
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_IMPORTING) or frame.f_code is _MAKES_GENERATORS:
            return "import"
        if not is_foreign(name):
            return "user"
        frame = frame.f_back
    return "object"


def _imports(frame: FrameType) -> bool:
    """Whether code runs because its module is imported."""
    found: FrameType | None = frame
    while found is not None:
        if found.f_code.co_filename.startswith(_IMPORTING):
            return True
        found = found.f_back
    return False
