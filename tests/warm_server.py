"""A process that has imported torch, and forks for each program that a test asks it for. Started by ``tests.warm``.

It runs nothing itself: in a fork ``serve`` returns what the program's interpreter runs next, in its ``__main__``.
"""

from __future__ import annotations

import gc
import json
import os
import random
import select
import signal
import socket
import sys
import warnings
from typing import Any

from tests import warm_workers
from tests.warm_birth import Program, called, interpreter, parsed


def serve(channel: int) -> Program:
    """Fork for each request until the other end is closed; returns in the forks only.

    Args:
        channel: a socket. A request is JSON, with the descriptors of standard input, output and error, and of a socket
            that is told the pid, and at the end the status that ``waitpid`` gave.
    """
    by_python = len(warnings.filters)
    import numpy
    import torch.utils.data  # what nearly all programs import

    gc.collect()
    gc.freeze()  # else the end of each fork writes to all that is shared
    asked = socket.socket(fileno=channel)
    ended, told = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(told)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([asked, ended], [], [])
        if ended in ready:
            os.read(ended, 1 << 16)
            _reap(running)
        if asked not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(asked, 1 << 20, 4)
        if not data:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in (asked, *running.values()):
                other.close()
            os.close(ended)
            os.close(told)
            for generator in (random, numpy.random, torch.default_generator):
                generator.seed()
            os.setsid()
            request = json.loads(data)
            cloned = warm_workers.beside(request["environment"], descriptors, by_python)
            return cloned or _become(request, descriptors, by_python)
        for descriptor in descriptors[:3]:
            os.close(descriptor)
        running[pid] = socket.socket(fileno=descriptors[3])
        running[pid].send(pid.to_bytes(8, "big"))


def _reap(running: dict[int, socket.socket]) -> None:
    for pid, told in list(running.items()):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            del running[pid]
            with told:
                try:
                    told.send(status.to_bytes(8, "big"))
                except OSError:
                    pass  # nobody asks for it any more


def _become(request: dict[str, Any], descriptors: list[int], by_python: int) -> Program:
    """Be the program: what an interpreter that starts with this command line would be.

    Args:
        request: the program.
        descriptors: its standard streams, and one that it does not need.
        by_python: so many of the last filters of warnings are there in each interpreter, behind those of ``-W``.
    """
    for number, descriptor in enumerate(descriptors):
        if number < 3:
            os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    command = parsed(request["command"])
    assert command is not None
    interpreter(request["environment"], command.warnings, by_python)
    sys.orig_argv = [sys.executable, *request["command"]]
    called(sys.orig_argv)
    return command.program()
