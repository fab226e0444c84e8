"""Processes of safeloader's own that need not import torch: forks of one that has, and children of who asked for them.

A loader starts an interpreter, which imports torch, for each worker and each fork server: most of what the suite would
do. Here a server beside the program that starts them, its child, clones itself with ``CLONE_PARENT``: what it makes is
a child of the program too, with the descriptors, the directory and the environment that it was to have, and runs what
the interpreter was told to. All that safeloader does from its first line on happens; what the interpreter does before
does not, and a test whose fact depends on that is marked ``fresh``.

Where anything is not as it was when the server began, an interpreter is started.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import os
import platform
import random
import secrets
import select
import signal
import socket
import subprocess
import sys
import warnings
from typing import Any

from tests.warm_birth import OF_THREADS, ROOM, Program, called, interpreter, parsed

__all__ = [
    "ROOM",
    "all_are_fresh",
    "begin",
    "begun_with",
    "beside",
    "called",
    "interpreter",
    "of_the_start",
    "only_fresh",
    "serve_as_child_of",
]

_LAUNCHES = "import os, marshal, sys\nfacts, more = marshal.loads("
"""How what safeloader has an interpreter run begins: ``runtime/start/bootstrap.py``."""
_GIVEN = {"PYTHONHASHSEED": "1", "GLIBC_TUNABLES": "glibc.cpu.x86_non_temporal_threshold=131072"}
"""What safeloader adds to the environment of an interpreter where the program has none of it."""
_READ_AT_THE_START = (
    "PYTHON", "LD_", "OMP_", "MKL_", "KMP_", "OPENBLAS", "GLIBC", "MALLOC", "TORCH", "CUDA", "LANG", "LC_", "PATH",
    "_SAFELOADER",
)  # fmt: skip
"""Prefixes of variables that the interpreter, or a library that is loaded by now, has read."""
_PASSED_OVER = (
    "LD_LIBRARY_PATH", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", OF_THREADS, "TORCHELASTIC_", "TORCH_NCCL_",
    "TORCH_DISABLE_SHARE_RDZV", "TORCHINDUCTOR_CACHE_DIR",
)  # fmt: skip
"""Set by OpenCV, scikit-learn and torch's compiler in the process that imports them, and by no test; what a fork obeys;
and what ``torch.distributed`` reads when it is used."""
_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
_CLONE_PARENT, _CHILD_CLEARTID, _CHILD_SETTID = 0x8000, 0x200000, 0x1000000
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER, _GET_TID_ADDRESS = 1, 36, 40
_fresh = 0
begun_with: dict[str, str] = {}
"""What of the environment is read when a process starts, as it was when a server was begun for this one."""


def of_the_start(environment: dict[str, str]) -> dict[str, str]:
    """What of an environment is read when a process starts."""
    names = [name for name in environment if name.startswith(_READ_AT_THE_START) and not name.startswith(_PASSED_OVER)]
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
    begun_with.update(of_the_start(environment))
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
        _ask_from_now_on(listening.getsockname(), environment, programs=False)


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
        _ask_from_now_on(listening.getsockname(), environment, programs=True)
        listening.close()
        return None
    for descriptor in others:
        os.close(descriptor)
    return _serve(listening, parent, by_python)


def _ask_from_now_on(address: Any, environment: dict[str, str], programs: bool) -> None:
    """Have ``subprocess`` ask.

    Args:
        address: of the server.
        environment: this program's when it began.
        programs: also for the Python programs that this one starts. What a test starts is an interpreter of its own.
    """
    execute: Any = subprocess.Popen._execute_child  # type: ignore[attr-defined]
    owner, known = os.getpid(), _of_the_program(environment)

    def execute_child(popen: Any, args: Any, *given: Any) -> None:
        own = os.environ if given[5] is None else given[5]
        if (
            not _fresh
            and os.getpid() == owner
            and _is_asked_for(args, given, programs)
            and _of_the_program(own) == known
        ):
            pid = _ask(address, list(args), dict(own), given)
            if pid:
                popen.pid = pid
                popen._child_created = True
                popen._close_pipe_fds(*given[9:15])
                return
        execute(popen, args, *given)

    subprocess.Popen._execute_child = execute_child  # type: ignore[attr-defined]


def _is_asked_for(args: Any, given: Any, programs: bool) -> bool:
    if (
        not isinstance(args, (list, tuple))
        or not all(isinstance(each, str) for each in args)
        or args[0] != sys.executable
    ):
        return False
    if args[-1].startswith(_LAUNCHES):
        return parsed(list(args[1:])) is not None
    executable, preexec, close_all, shell, users = given[0], given[1], given[2], given[8], given[16:20]
    plain = (
        (executable or args[0]) == args[0]
        and preexec is None
        and close_all
        and not shell
        and users == (None, None, None, -1)
    )
    return programs and plain and _CLONE is not None and parsed(list(args[1:])) is not None


def _ask(address: Any, args: list[str], environment: dict[str, str], given: Any) -> int:
    pass_fds, cwd, pipes, session = given[3], given[4], given[9:15], given[20]
    request = {
        "command": args, "environment": environment, "descriptors": list(pass_fds), "session": session,
    }  # fmt: skip
    streams = [number if pipe == -1 else pipe for number, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
    try:
        folder = os.open(cwd or ".", os.O_PATH | os.O_CLOEXEC)
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
    ended = os.pidfd_open(parent)  # whoever has given up root cannot kill this process by its death
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.close(nothing)
    learned = at_once and _learn()
    while True:
        if ended in select.select([listening, ended], [], [])[0]:
            os._exit(0)
        asked, _ = listening.accept()
        data, descriptors, _, _ = socket.recv_fds(asked, 1 << 20, 250)
        request = json.loads(data or "null")
        launch = request and request["command"][-1].startswith(_LAUNCHES)
        learned = learned or (launch and _learn())
        if launch or (request and not learned):  # what has learned is not what a program begins with
            if _clone() == 0:
                listening.close()
                os.close(ended)
                return _become(request, descriptors, by_python, asked)
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
    line, environment = request["command"], request["environment"]
    called(line)
    if request["session"]:
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
    if not line[-1].startswith(_LAUNCHES):
        cloned = beside(environment, request["descriptors"], by_python)
        if cloned:
            return cloned
    command = parsed(line[1:])
    assert command is not None
    interpreter(environment, command.warnings, by_python)
    sys.orig_argv = list(line)
    return command.program()
