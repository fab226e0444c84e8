"""Facts about the system and the few calls that Python does not offer (``memory.mapping`` has those that map memory).

Portable ways exist for each of them (macOS); ``SAFELOADER``'s tests switch them on under Linux by setting
``_SAFELOADER_PORTABLE=1``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import sys
import tempfile
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "HAS_MEMFD",
    "HAS_PIDFD",
    "HAS_SIGNAL_ON_HANGUP",
    "cores",
    "die_by",
    "die_with",
    "disregard",
    "explained",
    "larger_files",
    "largest_file",
    "memory_file",
    "oom_kills",
    "pidfd",
    "process_state",
    "seal",
    "share_of_memory_left",
]

_PORTABLE = os.environ.get("_SAFELOADER_PORTABLE") == "1"
_LINUX = sys.platform == "linux" and not _PORTABLE

HAS_MEMFD = _LINUX and hasattr(os, "memfd_create")
HAS_PIDFD = _LINUX and hasattr(os, "pidfd_open")
HAS_SIGNAL_ON_HANGUP = _LINUX

STACK_SIGNAL = signal.SIGRTMIN + 7 if _LINUX else signal.SIGUSR2  # unlikely to be the user's
INTERRUPT_SIGNAL = signal.SIGRTMIN + 8 if _LINUX else signal.SIGUSR2

_F_SETSIG = 10
_F_ADD_SEALS, _SEALS = 1033, 0x0001 | 0x0002 | 0x0004 | 0x0008

_armed = -1  # the file description that ends this process with the trainer

libc = ctypes.CDLL(None, use_errno=True)


def memory_file(name: str) -> int:
    """A file in memory without a name: ``memfd_create``, or an unlinked temporary file where there is none."""
    if HAS_MEMFD:
        return os.memfd_create(f"safeloader-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    descriptor, path = tempfile.mkstemp(prefix=f"safeloader-{name}-")
    os.unlink(path)
    return descriptor


@contextlib.contextmanager
def larger_files() -> Iterator[None]:
    """Let files in memory be as large as this program may make them: up to the hard limit (``ulimit -f``)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if soft == hard:
        yield
        return
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def largest_file() -> int | None:
    """Bytes that no file of this program may exceed; None where there is no limit."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def explained(error: OSError) -> str:
    """An error of the system in words, with the limit that may be behind it."""
    name, number = _BEHIND.get(error.errno or 0, ("", 0))
    if not name:
        return str(error)
    soft = resource.getrlimit(number)[0]
    return str(error) if soft == resource.RLIM_INFINITY else f"{error} ({name} is {soft})"


_BEHIND = {
    errno.EMFILE: ("the limit of open files, ulimit -n,", resource.RLIMIT_NOFILE),
    errno.EAGAIN: ("the limit of processes and threads of this user, ulimit -u,", resource.RLIMIT_NPROC),
    errno.ENOMEM: ("the limit of address space in bytes, ulimit -v,", resource.RLIMIT_AS),
    errno.EFBIG: ("the limit of a file in bytes, ulimit -f,", resource.RLIMIT_FSIZE),
}


def seal(descriptor: int) -> None:
    """Nobody can change this memory file any more (no effect where the system has no seals)."""
    if HAS_MEMFD:
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEALS)


def _is_same(descriptor: int, other: int) -> bool:
    """True if both lead to the same file, pipe or socket."""
    try:
        return os.path.sameopenfile(descriptor, other)
    except OSError:
        return False


def die_with(lifeline: int) -> bool:
    """Be killed by the kernel as soon as the last writer of a pipe is gone, even while the GIL is held in C.

    A fresh open file description is needed: owner and signal belong to it, and the inherited one is shared with the
    siblings. In a fork, call it again: it belongs to the process that called it.

    Returns:
        False where the system cannot do it; a thread has to watch the pipe then.
    """
    global _armed  # noqa: PLW0603 - a process has one
    if not HAS_SIGNAL_ON_HANGUP:
        return False
    if _armed >= 0 and _armed != lifeline and _is_same(_armed, lifeline):
        os.close(_armed)
    _armed = -1
    try:
        own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(own, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:
        return False
    _armed = own
    return True


def die_by(number: int) -> NoReturn:
    """End this process as that signal ends one, without a core file."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(1)


def disregard(*numbers: int) -> None:
    """Let these signals do nothing to this process, from now on, whatever runs in it.

    A signal that is ignored stays ignored in the programs that a process starts, and they could not be ended by it. A
    handler is gone with ``exec``; so the handler is a function of the C library that does nothing (``abs``): Python
    never hears of it, and system calls go on (``SA_RESTART``). What was ignored before stays so. A child that is
    forked and goes on without ``exec`` gets the usual handlers back.
    """
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN and number not in _disregarded:
            libc.signal(number, ctypes.cast(libc.abs, ctypes.c_void_p))
            _disregarded.append(number)


def _regard() -> None:
    """In a forked child: what was disregarded is what Python makes of it, unless somebody has set a handler since."""
    while _disregarded:
        number = _disregarded.pop()
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        if signal.getsignal(number) is usual:
            signal.signal(number, usual)


_disregarded: list[int] = []
os.register_at_fork(after_in_child=_regard)


def pidfd(pid: int) -> int:
    """A descriptor that becomes readable when the process exits; -1 where there is none to be had."""
    try:
        return os.pidfd_open(pid) if HAS_PIDFD else -1
    except OSError:
        return -1


def reap(pidfd: int, unknown: int) -> int:
    """How a process ended that may have become our child when its parent was gone; ``unknown`` if it has not."""
    try:
        end = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except OSError:
        return unknown
    if end is None:
        return unknown
    return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status


def process_state(pid: int) -> str:
    """The kernel's letter for a process: R running, S sleeping, D in the kernel, T stopped; ``?`` if not known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return "?"


def cores() -> int:
    """How many processes can run at the same time: what the affinity and the control group's quota (v2) leave."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        allowed = os.cpu_count() or 1
    quota = min([_quota(path) for path in _cpu_limits()], default=float("inf"))
    return int(max(min(allowed, quota), 1))


def _cpu_limits() -> list[str]:
    """The files with the quotas of our control group and those above it."""
    try:
        with open("/proc/self/cgroup") as file:
            group = next(line.rstrip("\n")[3:] for line in file if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    parts = [part for part in group.split("/") if part]
    return ["/".join(["/sys/fs/cgroup", *parts[:count], "cpu.max"]) for count in range(len(parts) + 1)]


def _quota(path: str) -> float:
    try:
        with open(path) as file:
            quota, period = file.read().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):  # "max", or no such file
        return float("inf")


def oom_kills() -> int:
    """How often the kernel killed for memory in our control group (v2 or v1) or, failing that, on the machine."""
    for path in _oom_counters():
        try:
            with open(path) as file:
                for line in file:
                    key, _, value = line.partition(" ")
                    if key == "oom_kill":
                        return int(value)
        except (OSError, ValueError):
            continue
    return 0


def _oom_counters() -> list[str]:
    paths = []
    try:
        with open("/proc/self/cgroup") as file:
            for line in file:
                _, controllers, group = line.rstrip("\n").split(":", 2)
                if controllers == "":
                    paths.append(f"/sys/fs/cgroup{group}/memory.events")
                elif "memory" in controllers.split(","):
                    paths.append(f"/sys/fs/cgroup/memory{group}/memory.oom_control")
    except (OSError, ValueError):
        pass
    return [*paths, "/proc/vmstat"]


def share_of_memory_left() -> float:
    """Available memory as a share of all (0 to 1), of the machine; 1.0 where it is not known."""
    try:
        with open("/proc/meminfo") as file:
            facts = dict(line.split(":", 1) for line in file)
        return int(facts["MemAvailable"].split()[0]) / int(facts["MemTotal"].split()[0])
    except (OSError, KeyError, ValueError, ZeroDivisionError):
        return 1.0
