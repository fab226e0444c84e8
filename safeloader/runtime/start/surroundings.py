"""What a process takes over from its trainer: described once, when a loader's iterator begins.

torch's workers start then, and keep what they inherit. A process that is started later (a replacement, a standby, one
of a fork server) gets what was described, not what holds by then: the trainer may have changed its directory, its
environment or its limits since.

The description is plain values and a descriptor of the working directory, so that one that was renamed or removed
meanwhile is still the same. What cannot be had any more (a limit that was lowered for good) is told, and costs nobody
the process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Facts", "Surroundings", "be_born", "imported", "mine", "restore_signals", "shortfalls", "take_up"]

_ENDING = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM")  # never blocked: programs of a sample could not be ended
_MOST_LIMITS = 16  # that a system has
_OF_PYTHON = ("SIGPIPE", "SIGXFSZ")  # ignored by every interpreter, and by none of the programs that it starts


class Facts(NamedTuple):
    """The description, in values that ``marshal`` can write.

    Attributes:
        path: ``sys.path``.
        argv: ``sys.argv``.
        directory: The working directory's name ("" where it has none), device and inode.
        environment: ``os.environ``.
        executable: What runs Python programs: multiprocessing's, which ``set_executable`` changes.
        options: The interpreter's command line options, warning filters among them.
        hash_seed: That of strings; 0 where it is switched off.
        umask: None where it is not known.
        limits: Soft and hard limit of each resource.
        nice: The priority.
        affinity: Processors; None where the system has none.
        blocked: Signals.
        ignored: Signals.
    """

    path: list[str]
    argv: list[str]
    directory: tuple[str, int, int]
    environment: dict[str, str]
    executable: str
    options: list[str]
    hash_seed: int
    umask: int | None
    limits: list[tuple[int, int]]
    nice: int
    affinity: list[int] | None
    blocked: list[int]
    ignored: list[int]


class Surroundings:
    """What holds in the trainer now.

    Attributes:
        facts: The description.
        folder: A descriptor of the working directory; -1 where there is none to be had.

    Raises:
        StartError: no process can be started from this program.
    """

    def __init__(self) -> None:
        from safeloader.runtime.start.hashing import seed

        executable = _executable()
        _occupy_streams()
        self.folder = _open_folder()
        self._let_go = weakref.finalize(self, _close, self.folder)
        self._let_go.atexit = False
        self.facts = Facts(
            path=list(sys.path),
            argv=list(getattr(sys, "argv", ())),
            directory=_directory(),
            environment=dict(sorted(os.environ.items())),
            executable=executable,
            options=list(subprocess._args_from_interpreter_flags()),  # type: ignore[attr-defined]
            hash_seed=seed(),
            umask=_umask(),
            limits=_limits(),
            nice=os.getpriority(os.PRIO_PROCESS, 0),
            affinity=sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            blocked=sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
            ignored=_ignored(),
        )

    def close(self) -> None:
        """No process is started any more that takes over from here."""
        self.folder = -1
        self._let_go()

    @property
    def of_server(self) -> tuple[Any, ...]:
        """What must not differ if a fork server of these surroundings is to serve others."""
        return tuple(self.facts._replace(argv=[]))


def _occupy_streams() -> None:
    """Where the standard streams are closed, let nothing of ours get their numbers: it would be printed into."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _close(folder: int) -> None:
    if folder >= 0:
        os.close(folder)


def _open_folder() -> int:
    with contextlib.suppress(OSError):
        return os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    return -1


def _directory() -> tuple[str, int, int]:
    try:
        name = os.getcwd()
    except OSError:  # removed
        name = ""
    try:
        status = os.stat(".")
    except OSError:
        return name, 0, 0
    return name, status.st_dev, status.st_ino


def _executable() -> str:
    """multiprocessing's; never an application that would only run itself again.

    Raises:
        StartError: this is a frozen application, or an interpreter that does not know where it lies.
    """
    from multiprocessing import spawn

    from safeloader.errors import StartError

    executable = os.fsdecode(spawn.get_executable() or "")
    if executable and not (getattr(sys, "frozen", False) and executable == sys.executable):
        return executable
    what = "this is a frozen application" if executable else "this interpreter does not know its own executable"
    raise StartError(
        f"{what}, so that no worker process can be started from it: it would run the whole program again",
        hint="name a Python with the same packages by multiprocessing.set_executable(...), or load with num_workers=0",
        code="SL214",
    )


def _umask() -> int | None:
    """``os.umask`` cannot ask without setting it, in all threads."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return None


def _limits() -> list[tuple[int, int]]:
    found = []
    with contextlib.suppress(OSError, ValueError):  # there are no more
        for number in range(_MOST_LIMITS):
            found.append(resource.getrlimit(number))
    return found


def _ignored() -> list[int]:
    ignored = [n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN]
    return sorted(int(n) for n in ignored if _name(n) not in _OF_PYTHON)


def _name(number: int) -> str:
    return next((known.name for known in signal.Signals if known == number), "")


# ---------------------------------------------------------------- in a process

mine: Facts | None = None
_removed = -1  # a descriptor of the directory that is to be entered when imports are done

shortfalls: list[str] = []
"""What could not be as it was described, in words."""


def be_born(facts: tuple[Any, ...], folder: int) -> None:
    """Make a fresh interpreter what was described. The first thing that it does."""
    global mine  # noqa: PLW0603
    given = mine = Facts(*facts)
    sys.argv[:] = given.argv
    _environment(given.environment)
    for name, step in _STEPS.items():
        _try(name, step, given)
    _enter(given, folder)
    if folder >= 0 and folder != _removed:
        os.close(folder)


def imported() -> None:
    """Imports are done: a directory that was removed meanwhile can be entered now.

    MKL, which torch loads, ends a process that begins there.
    """
    global _removed  # noqa: PLW0603
    if _removed < 0:
        return
    torch: Any = sys.modules.get("torch")
    if torch is not None:  # what it still loads when it is used first
        torch.ones(2, 2).mm(torch.ones(2, 2)).exp()
    os.fchdir(_removed)
    os.close(_removed)
    _removed = -1


def take_up(facts: tuple[Any, ...], folder: int) -> None:
    """Belong to a loader whose surroundings may be others than those that this process was started with.

    Only what differs is changed: modules that were imported meanwhile may have made changes of their own.
    """
    global mine  # noqa: PLW0603
    before, given = mine, Facts(*facts)
    mine = given
    if before is None:
        return
    sys.path[:] = given.path if given.path != before.path else sys.path
    sys.argv[:] = given.argv
    changed = {name for name, _ in before.environment.items() ^ given.environment.items()}
    _environment({**{n: v for n, v in os.environ.items() if n not in changed},
                  **{n: v for n, v in given.environment.items() if n in changed}})  # fmt: skip
    for name, step in _STEPS.items():
        if getattr(before, name) != getattr(given, name):
            _try(name, step, given)
    if before.directory != given.directory:
        _enter(given, folder)
    if folder >= 0 and folder != _removed:
        os.close(folder)
    for name in ("executable", "options", "hash_seed"):
        if getattr(before, name) != getattr(given, name):
            shortfalls.append(f"{name.replace('_', ' ')} {getattr(given, name)!r} came after the process")


def restore_signals() -> None:
    """As described, after a fork server had its own."""
    if mine is not None:
        _try("ignored", _set_ignored, mine)


def _try(name: str, step: Callable[[Facts], None], given: Facts) -> None:
    try:
        step(given)
    except (OSError, ValueError) as error:
        shortfalls.append(f"{name} {getattr(given, name)!r} cannot be had: {error}")


def _environment(wanted: dict[str, str]) -> None:
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _enter(given: Facts, folder: int) -> None:
    """Go where the trainer was: by the descriptor, else by name."""
    global _removed  # noqa: PLW0603
    name, device, inode = given.directory
    with contextlib.suppress(OSError):
        if folder >= 0:
            os.fchdir(folder)
        else:
            os.chdir(name)
        status = os.stat(".")
        if (status.st_dev, status.st_ino) == (device, inode):
            if status.st_nlink == 0 and folder >= 0:
                os.chdir("/")
                _removed = folder
                shortfalls.append(f"the working directory {name or '?'!r} was removed: relative paths lead nowhere")
            return
    shortfalls.append(f"the working directory {name or '(removed)'!r} cannot be entered any more")


def _set_umask(given: Facts) -> None:
    if given.umask is not None:
        os.umask(given.umask)


def _set_limits(given: Facts) -> None:
    for number, wanted in enumerate(given.limits):
        if resource.getrlimit(number) == tuple(wanted):
            continue
        try:
            resource.setrlimit(number, (wanted[0], wanted[1]))
        except (OSError, ValueError):
            _, hard = resource.getrlimit(number)  # it can be lowered by anybody, and raised by few
            soft = hard if wanted[0] == resource.RLIM_INFINITY else min(wanted[0], hard)
            resource.setrlimit(number, (soft, hard))
            names = [name for name in dir(resource) if name.startswith("RLIMIT_") and getattr(resource, name) == number]
            name = names[0] if names else str(number)
            shortfalls.append(f"the limit {name} was {wanted[0]}, and cannot be raised above {hard} any more")


def _set_nice(given: Facts) -> None:
    if os.getpriority(os.PRIO_PROCESS, 0) != given.nice:
        os.setpriority(os.PRIO_PROCESS, 0, given.nice)


def _set_affinity(given: Facts) -> None:
    if given.affinity is not None and sorted(os.sched_getaffinity(0)) != given.affinity:
        os.sched_setaffinity(0, given.affinity)


def _set_mask(given: Facts) -> None:
    """As in the trainer, but for what ends programs, and what is said to this process itself."""
    from safeloader.runtime.system import INTERRUPT_SIGNAL, STACK_SIGNAL

    free = {STACK_SIGNAL, INTERRUPT_SIGNAL, signal.SIGALRM, *(getattr(signal, name) for name in _ENDING)}
    signal.pthread_sigmask(signal.SIG_SETMASK, set(given.blocked) - free)


def _set_ignored(given: Facts) -> None:
    for number in signal.valid_signals():
        wanted = number in given.ignored
        if _name(number) in _OF_PYTHON or (signal.getsignal(number) is signal.SIG_IGN) == wanted:
            continue
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        with contextlib.suppress(OSError, ValueError):  # the C library's own
            signal.signal(number, signal.SIG_IGN if wanted else usual)


_STEPS: dict[str, Callable[[Facts], None]] = {
    "umask": _set_umask,
    "affinity": _set_affinity,
    "nice": _set_nice,
    "blocked": _set_mask,
    "ignored": _set_ignored,
    "limits": _set_limits,
}
