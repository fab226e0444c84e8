"""What a server must not have when it forks: threads, open files, an accelerator, generators that all would share.

A forked process has only the thread that forked. A lock that another thread held stays locked for ever, and a device
that was opened is broken. An open file is shared, with its position: two workers that read it would get each other's
bytes. A generator that nobody seeds would give the same numbers in all workers.

All but the threads is looked for after each import, so the module that brought it can be named and left out.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["descriptors", "fresh_generators", "identity", "kernel_threads", "stamp", "stamps", "strangers", "threads"]

_DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri", "/dev/accel", "/dev/davinci", "/dev/habana")


_BEAR_FORKS = ("jemalloc_bg_thd",)
"""jemalloc's (that of pyarrow, and so of pandas): it locks for forks, and a child has none until it is asked for one;
see ``background_thread_prefork0`` and ``background_thread_postfork_child`` in jemalloc's background_thread.c."""


def threads() -> int:
    """How many threads there are, once libraries that can be forked have put theirs away.

    OpenBLAS starts its threads when numpy is imported, and ends them when a fork is near (``pthread_atfork``); a child
    starts its own when it needs them.
    """
    if kernel_threads() > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of threads in any fork
            pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return kernel_threads()


def kernel_threads() -> int:
    """How many threads this process has, native ones included, but for those that bear a fork at any moment."""
    tasks = os.listdir("/proc/self/task")
    return len(tasks) if len(tasks) == 1 else sum(_name_of(task) not in _BEAR_FORKS for task in tasks)


def _name_of(task: str) -> str:
    try:
        with open(f"/proc/self/task/{task}/comm") as file:
            return file.read().strip()
    except OSError:  # it has just ended
        return ""


def descriptors() -> dict[int, str]:
    """Open descriptors, and what they lead to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the listing's own
            continue
    return found


def strangers(own: set[int]) -> str:
    """What is open besides ``own``, for people; "" if nothing is."""
    others = [target for number, target in descriptors().items() if number not in own]
    devices = [target for target in others if target.startswith(_DEVICES)]
    if devices or _cuda_is_up():
        return f"holds an accelerator ({', '.join(devices) or 'CUDA is initialised'})"
    return f"holds {others[0]} open" if others else ""


def _cuda_is_up() -> bool:
    torch: Any = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def fresh_generators(modules: set[str], besides: Sequence[Any] = ()) -> str:
    """A random generator made since ``gc.freeze()``, or held by one of these modules, ``besides`` some; "" if there is
    none."""
    import numpy

    kinds = (random.Random, numpy.random.Generator, numpy.random.RandomState, numpy.random.BitGenerator)
    held = [value for name in modules for value in list(vars(sys.modules[name]).values())]
    torch: Any = sys.modules.get("torch")
    inner = [getattr(thing, name, None) for thing in besides for name in ("bit_generator", "_bit_generator")]
    known = set(map(id, (*besides, *inner)))
    for thing in gc.get_objects():
        # Of its type, since some objects warn whoever asks them for their class.
        if issubclass(type(thing), kinds) and type(thing) is not random.SystemRandom and id(thing) not in known:
            return f"makes a random generator ({type(thing).__name__})"
    for thing in held:
        ours = torch is not None and (id(thing) in known or thing is torch.default_generator)
        if torch is not None and type(thing) is torch.Generator and not ours:
            return "makes a random generator (torch.Generator)"
    return ""


# ---------------------------------------------------------------- files


def stamp(path: str) -> tuple[int, int] | None:
    """By which a change of a file is noticed: time of change and size."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def stamps(modules: set[str]) -> dict[str, tuple[int, int] | None]:
    """The stamps of these modules' files."""
    files = {getattr(sys.modules.get(name), "__file__", None) for name in modules}
    return {path: stamp(path) for path in files if path}


def identity(number: int) -> tuple[int, int] | None:
    """Which file a descriptor leads to, by device and inode; None if it leads nowhere."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino
