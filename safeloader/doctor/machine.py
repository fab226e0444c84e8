"""Checks of the machine: memory, processors, descriptors, temporary files."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile

from safeloader.doctor.cgroups import Limits, limits, usable_cpus
from safeloader.doctor.finding import Finding
from safeloader.observe.format import many
from safeloader.runtime import system

__all__ = [
    "CHECKS", "cpus", "descriptors", "leftovers", "memory", "ms", "oom_kills", "processes", "shm", "temporary", "units",
]  # fmt: skip

GIB = 1 << 30
_SMALL_SHM = GIB
_LITTLE_MEMORY = 0.05  # share of all memory below which a SIGKILL is taken for the kernel's
_SCARCE_MEMORY = 0.15
_FEW_DESCRIPTORS, _SCARCE_DESCRIPTORS = 256, 4096
_SOCKET_PATH = 107  # bytes in a Unix socket's address
_SOCKET_NAME = len("/pymp-xxxxxxxx/listener-xxxxxxxx")  # what torch's workers append to TMPDIR


def ms(seconds: float) -> str:
    """A time for people: ``3.14 ms``."""
    return f"{seconds * 1e3:.3g} ms"


def units(size: float) -> str:
    """Bytes for people: ``512 B``, ``3.2 MiB``, ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB" if size < 1024 else f"{size / 1024:.3g} TiB"


def memory(found: Limits | None = None) -> Finding:
    """How much memory is left, of the machine or of the control group, whichever is tighter."""
    import psutil

    found = limits() if found is None else found
    machine = psutil.virtual_memory()
    total, left, whose = machine.total, machine.available, "this machine"
    if found.memory is not None and found.memory < total:
        total, whose = found.memory, "this container or job (its control group)"
        left = min(left, max(total - (found.memory_used or 0), 0))
    share = left / total
    text = f"{units(left)} of {units(total)} of {whose} are free"
    if share < _LITTLE_MEMORY:
        return Finding("memory", "bad", text, "end other programs, or raise the limit: the kernel is about to kill")
    if share < _SCARCE_MEMORY:
        return Finding("memory", "warn", text, "take fewer workers, smaller batches or a smaller prefetch_factor")
    return Finding("memory", "ok", text)


def shm(path: str = "/dev/shm") -> Finding:
    """torch's own loader keeps all batches in ``/dev/shm``; safeloader none."""
    try:
        facts = os.statvfs(path)
    except OSError as error:
        return Finding("/dev/shm", "unknown", f"{path}: {error.strerror}")
    size, left = facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize
    text = f"{units(left)} of {units(size)} of {path} are free"
    if left < _SMALL_SHM:
        return Finding(
            "/dev/shm", "warn",
            text + "; torch's own loader keeps its batches there and hangs (since torch 2.10) or dies when it is full",
            "use safeloader, which needs none of it; or give torch's own loader more: docker run --shm-size=8g",
        )  # fmt: skip
    return Finding("/dev/shm", "ok", text)


def leftovers(path: str = "/dev/shm") -> Finding:
    """What killed programs left in ``/dev/shm``."""
    try:
        entries = [entry for entry in os.scandir(path) if entry.name.startswith(("torch_", "sem.mp-", "psm_"))]
    except OSError as error:
        return Finding("leftovers", "unknown", f"{path}: {error.strerror}")
    own = [entry.stat() for entry in entries if entry.stat().st_uid == os.getuid()]
    size = sum(facts.st_size for facts in own)
    text = f"{many(len(own), 'file')} of yours, {units(size)}, of programs that run or were killed lie in {path}"
    if size > _SMALL_SHM:
        return Finding("leftovers", "warn", text, "delete them when none of your programs runs: they use memory")
    return Finding("leftovers", "ok", text)


def oom_kills() -> Finding:
    """How often the kernel killed for memory."""
    kills = system.oom_kills()
    if kills:
        text = f"the kernel has killed {many(kills, 'process')} for memory here since it started counting"
        hint = "look for their names: dmesg | grep -i 'out of memory'; a worker among them shows as exit signal SIGKILL"
        return Finding("oom_kill", "warn", text, hint)
    return Finding("oom_kill", "ok", "the kernel has killed nothing for memory here")


def cpus(num_workers: int | None = None, usable: float | None = None) -> Finding:
    """Whether there are processors for that many workers; ``os.cpu_count()`` knows nothing of quotas."""
    usable = usable_cpus() if usable is None else usable
    count = os.cpu_count() or 1
    text = f"{usable:.3g} of {many(count, 'processor')} may be used"
    if num_workers is not None and num_workers > max(usable, 1):
        text += f", for {many(num_workers, 'worker')}"
        hint = f"set num_workers={max(int(usable), 1)}: more workers than processors only wait"
        return Finding("processors", "warn", text, hint)
    if usable < count:
        hint = "do not choose num_workers by os.cpu_count(): it does not know the quota or the affinity mask"
        return Finding("processors", "warn" if num_workers is None else "ok", text, hint)
    return Finding("processors", "ok", text)


def processes(found: Limits | None = None) -> Finding:
    """Whether another process may be started: the control group's and the user's limits."""
    found = limits() if found is None else found
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    allowed = [n for n in (found.processes, None if soft == resource.RLIM_INFINITY else soft) if n is not None]
    if not allowed:
        return Finding("process limit", "ok", "no limit on processes and threads")
    text = f"{min(allowed):,} processes and threads are allowed"
    if min(allowed) < 512:
        hint = "raise pids.max (docker run --pids-limit) or ulimit -u: each worker is a process with several threads"
        return Finding("process limit", "warn", text, hint)
    return Finding("process limit", "ok", text)


def descriptors(soft: int | None = None) -> Finding:
    """The limit on open files."""
    own, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = own if soft is None else soft
    text = f"{soft:,} open files are allowed"
    if soft < _FEW_DESCRIPTORS:
        return Finding("descriptors", "bad", text, "raise it with ulimit -n: each process needs a few")
    if soft < _SCARCE_DESCRIPTORS:
        text += "; torch's own loader holds one for each tensor that is kept"
        return Finding("descriptors", "warn", text, f"raise it: ulimit -n {min(hard, 65536) if hard > 0 else 65536}")
    return Finding("descriptors", "ok", text)


def temporary(path: str | None = None) -> Finding:
    """TMPDIR: whether it can be written, how full it is, and how long its name."""
    try:
        path = tempfile.gettempdir() if path is None else path
        with tempfile.TemporaryFile(dir=path):
            left = shutil.disk_usage(path).free
    except OSError as error:
        return Finding("TMPDIR", "bad", f"no temporary file can be made: {error}", "set TMPDIR to a folder of yours")
    text = f"{path}, {units(left)} free"
    if len(os.fsencode(os.path.abspath(path))) + _SOCKET_NAME > _SOCKET_PATH:
        text = f"{text}; its name is too long for the sockets of torch's own workers, which hang then"
        return Finding("TMPDIR", "warn", text, "set TMPDIR to a shorter path, /tmp for example")
    if left < GIB:
        return Finding("TMPDIR", "warn", text, "make room, or set TMPDIR to another disk")
    return Finding("TMPDIR", "ok", text)


CHECKS = (
    ("memory", memory),
    ("oom_kill", oom_kills),
    ("/dev/shm", shm),
    ("leftovers", leftovers),
    ("process limit", processes),
    ("descriptors", descriptors),
    ("TMPDIR", temporary),
)
