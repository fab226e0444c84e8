"""Processes of safeloader's own that need not import torch: forks of one that has, and children of who asked for them.

A loader starts an interpreter, which imports torch, for each worker and each fork server: most of what the suite would
do. Here a server beside the program that starts them, its child, clones itself with ``CLONE_PARENT``: what it makes is
a child of the program too, with the descriptors, the directory and the environment that it was to have, and runs what
the interpreter was told to. All that safeloader does from its first line on happens; what the interpreter does before
does not, and a test whose fact depends on that is marked ``fresh``.

Where anything is not as it was when the server began, an interpreter is started.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import fcntl
import gc
import json
import os
import platform
import random
import secrets
import signal
import socket
import subprocess
import sys
import warnings
from types import CodeType
from typing import Any

__all__ = [
    "ROOM",
    "all_are_fresh",
    "begin",
    "beside",
    "called",
    "interpreter",
    "of_the_start",
    "only_fresh",
    "serve_as_child_of",
]

Program = tuple[CodeType, dict[str, Any]]

_LAUNCHES = "import os, marshal, sys\nfacts, more = marshal.loads("
"""How what safeloader has an interpreter run begins: ``runtime/start/bootstrap.py``."""
_GIVEN = {"PYTHONHASHSEED": "1", "GLIBC_TUNABLES": "glibc.cpu.x86_non_temporal_threshold=131072"}
"""What safeloader adds to the environment of an interpreter where the program has none of it."""
_READ_AT_THE_START = (
    "PYTHON", "LD_", "OMP_", "MKL_", "KMP_", "OPENBLAS", "GLIBC", "MALLOC", "TORCH", "CUDA", "NUMBA", "LANG", "LC_", "PATH",
    "_SAFELOADER",
)  # fmt: skip
"""Prefixes of variables that the interpreter, or a library that is loaded by now, has read."""
_SET_BY_IMPORTS = ("LD_LIBRARY_PATH", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
"""By OpenCV and scikit-learn, in the process that imports them: no test sets them."""
_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
_CLONE_PARENT, _CHILD_CLEARTID, _CHILD_SETTID = 0x8000, 0x200000, 0x1000000
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER, _GET_TID_ADDRESS = 1, 36, 40
ROOM = "-" * 6000
"""An argument: room for the command line of what is forked."""

_fresh = 0


def of_the_start(environment: dict[str, str]) -> dict[str, str]:
    """What of an environment is read when a process starts."""
    names = [name for name in environment if name.startswith(_READ_AT_THE_START) and name not in _SET_BY_IMPORTS]
    return {name: environment[name] for name in names}


def _of_the_program(environment: dict[str, str]) -> dict[str, str]:
    """The same without what safeloader adds."""
    return {name: value for name, value in of_the_start(environment).items() if value != _GIVEN.get(name)}


@contextlib.contextmanager
def only_fresh() -> Any:
    """Each process is an interpreter of its own."""
    global _fresh  # noqa: PLW0603
    _fresh += 1
    try:
        yield
    finally:
        _fresh -= 1


def all_are_fresh() -> bool:
    """Whether ``only_fresh`` holds now."""
    return _fresh > 0


# ---------------------------------------------------------------- who asks


def _listening() -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(f"\0safeloader-tests-{secrets.token_hex(8)}")
    listening.listen(64)
    return listening


def begin(environment: dict[str, str]) -> None:
    """Have a server import torch beside this process, which asks it from now on.

    Args:
        environment: this process's.
    """
    if sys.platform != "linux" or _CLONE is None:
        return
    libc = ctypes.CDLL(None)
    with _listening() as listening:
        line = [sys.executable, "-u", "-c", _CODE.format(listening.fileno(), os.getpid()), ROOM]
        libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            first = subprocess.Popen(
                line, pass_fds=[listening.fileno()], stdin=subprocess.DEVNULL, env={**_GIVEN, **environment},
                cwd=os.path.dirname(os.path.dirname(__file__)), start_new_session=True,
            )  # fmt: skip
            first.wait()  # what it has forked is a child of this process now
        finally:
            libc.prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        _ask_from_now_on(listening.getsockname(), environment)


_CODE = "from tests.warm_workers import serve_as_child_of; exec(*serve_as_child_of({1}, {0}))"


def beside(environment: dict[str, str], others: list[int], by_python: int) -> Program | None:
    """Fork such a server from this process, which has imported torch and begins to be a program.

    Args:
        environment: of the program.
        others: descriptors that the server does not need.
        by_python: as for `interpreter`.

    Returns:
        None: this is the program. Else, what to run: the process that the server has made.
    """
    if _CLONE is None:
        return None
    parent = os.getpid()
    listening = _listening()
    if os.fork():
        _ask_from_now_on(listening.getsockname(), environment)
        listening.close()
        return None
    for descriptor in others:
        os.close(descriptor)
    os.setsid()
    return _serve(listening, parent, by_python)


def _ask_from_now_on(address: Any, environment: dict[str, str]) -> None:
    execute: Any = subprocess.Popen._execute_child  # type: ignore[attr-defined]
    owner, known = os.getpid(), _of_the_program(environment)

    def execute_child(popen: Any, args: Any, *given: Any) -> None:
        if not _fresh and os.getpid() == owner and _is_launch(args) and _of_the_program(given[5]) == known:
            pid = _ask(address, args, given)
            if pid:
                popen.pid = pid
                popen._child_created = True
                popen._close_pipe_fds(*given[9:15])
                return
        execute(popen, args, *given)

    subprocess.Popen._execute_child = execute_child  # type: ignore[attr-defined]


def _is_launch(args: Any) -> bool:
    if not isinstance(args, list) or args[-2:-1] != ["-c"] or not args[-1].startswith(_LAUNCHES):
        return False
    return args[0] == sys.executable and _warnings_of(args[1:-2]) is not None


def _warnings_of(options: list[str]) -> list[str] | None:
    """Of the options of an interpreter; None if there are others than a fork can have."""
    found = [option[2:] for option in options if option.startswith("-W") and option != "-W"]
    return found if len(found) + options.count("-B") == len(options) else None


def _ask(address: Any, args: list[str], given: Any) -> int:
    pass_fds, environment, pipes = given[3], given[5], given[9:15]
    request = {"command": args, "environment": environment, "descriptors": list(pass_fds)}
    streams = [number if pipe == -1 else pipe for number, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
    try:
        folder = os.open(".", os.O_PATH | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
                asked.connect(address)
                socket.send_fds(asked, [json.dumps(request).encode()], [folder, *streams, *pass_fds])
                return int.from_bytes(asked.recv(8), "big")
        finally:
            os.close(folder)
    except OSError:
        return 0


# ---------------------------------------------------------------- the server


def serve_as_child_of(program: int, listening: int) -> Program:
    """Let this process end, so that a fork of it is a child of the program that started it, and serves."""
    by_python = len(warnings.filters)
    first = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == first:
        pass  # until it has ended
    return _serve(socket.socket(fileno=listening), program, by_python, at_once=True)


def _serve(listening: socket.socket, parent: int, by_python: int, at_once: bool = False) -> Program:
    """Clone for each request, as long as the parent lives; returns in the clones only."""
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.close(nothing)
    learned = at_once and _learn()
    while True:
        asked, _ = listening.accept()
        learned = learned or _learn()
        data, descriptors, _, _ = socket.recv_fds(asked, 1 << 20, 250)
        if data:
            if _clone() == 0:
                listening.close()
                return _become(json.loads(data), descriptors, by_python, asked)
        for descriptor in descriptors:
            os.close(descriptor)
        asked.close()


def _learn() -> bool:
    """Import what safeloader's processes do, and have no thread."""
    from safeloader.runtime.child import process_main

    process_main.learn()
    gc.collect()
    gc.freeze()
    if os.fork() == 0:  # OpenBLAS ends its threads before a fork
        os._exit(0)
    os.wait()
    if len(os.listdir("/proc/self/task")) > 1:
        os._exit(1)  # who asks starts interpreters
    return True


def _clone() -> int:
    """``os.fork``, but a child of this process's parent. Only without threads."""
    libc = ctypes.PyDLL(None)  # keeps the interpreter's lock
    libc.syscall.restype = ctypes.c_long
    address = ctypes.c_void_p()
    flags = _CLONE_PARENT | signal.SIGCHLD
    if libc.prctl(_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) == 0:
        flags |= _CHILD_CLEARTID | _CHILD_SETTID
    assert _CLONE is not None
    arguments = [ctypes.c_long(each) for each in (_CLONE, flags, 0, 0, address.value or 0, address.value or 0)]
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(libc.syscall(*arguments))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    return max(pid, 0)


# ---------------------------------------------------------------- in a fork


def _become(request: dict[str, Any], descriptors: list[int], by_python: int, asked: socket.socket) -> Program:
    """Be the interpreter that was asked for, and say so: as after an exec, the system lists it as what it is."""
    import numpy
    import torch

    folder, *own = descriptors
    command = request["command"]
    called(command)
    os.setsid()
    os.fchdir(folder)
    with asked:
        asked.send(os.getpid().to_bytes(8, "big"))
    numbers = [0, 1, 2, *request["descriptors"]]
    above = max(*numbers, *descriptors) + 1
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, above) for descriptor in own]
    for descriptor in descriptors:
        os.close(descriptor)
    for copy, number in zip(copies, numbers, strict=True):
        os.dup2(copy, number)
        os.close(copy)
    for generator in (random, numpy.random, torch.default_generator):
        generator.seed()
    names = interpreter(request["environment"], _warnings_of(command[1:-2]) or [], by_python)
    sys.dont_write_bytecode = "-B" in command
    sys.argv, sys.orig_argv = ["-c"], list(command)
    return compile(command[-1], "<string>", "exec"), names


def interpreter(environment: dict[str, str], options: list[str], by_python: int) -> dict[str, Any]:
    """What an interpreter that starts finds, before it runs anything.

    Args:
        environment: its variables.
        options: its filters of warnings.
        by_python: so many of the last filters of warnings are there in each interpreter, behind those of ``-W``.

    Returns:
        The names of its ``__main__``.
    """
    os.environ.clear()
    os.environ.update(environment)
    sys.warnoptions[:] = options
    by_modules, last = warnings.filters[:-by_python], warnings.filters[-by_python:]
    warnings.resetwarnings()
    warnings._processoptions(options)  # type: ignore[attr-defined]
    warnings.filters[:] = [*by_modules, *warnings.filters, *last]
    names = vars(sys.modules["__main__"])
    names.clear()
    names |= {"__name__": "__main__", "__doc__": None, "__package__": None, "__spec__": None, "__builtins__": builtins}
    for name in [name for name in sys.modules if name == "tests" or name.startswith("tests.warm")]:
        del sys.modules[name]
    return names


def called(command: list[str]) -> None:
    """Let the system list this process by its own command line, where there was left room for it."""
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    first, last = int(fields[45]), int(fields[46])
    room = last - first
    if first and room > len(ROOM):
        line = os.fsencode(" ".join(command))[: room - 2]
        ctypes.memset(first, 0, room)
        ctypes.memmove(first, line, len(line))
        ctypes.memset(last - 1, ord("-"), 1)  # else what is behind the line belongs to it
