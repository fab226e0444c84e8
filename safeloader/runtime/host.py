"""The main function of a process: take one message after another, answer each.

Everything happens in the main thread: what cannot be serialised is an exception here, never a silence. The process
ignores SIGINT and SIGTERM (a trainer may want to write its checkpoint first) and dies with the trainer.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import threading
import traceback
from typing import Any

__all__ = ["main"]


def main(channel: int, spec: int, arena: int, stacks: int, lifeline: int, process: int) -> None:
    """Serve until the trainer closes the channel.

    Args:
        channel, spec, arena, stacks, lifeline: inherited descriptors.
        process: this process's number.
    """
    _protect(stacks, lifeline)
    from . import protocol as p
    from .channel import Blocking
    from .spec import read_config

    config = read_config(spec)
    link = Blocking(socket.socket(fileno=channel))
    _introduce(config, process)
    host = _make_host(config, spec, arena, process, link)
    link.send((p.READY,))
    code = 1
    try:
        host.serve()
        code = 0
    except SystemExit as end:  # the dataset's own wish
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # KeyboardInterrupt and the like out of a dataset: nobody can go on after it
        os.write(stacks, traceback.format_exc().encode())
    finally:
        _leave(code)


def _protect(stacks: int, lifeline: int) -> None:
    """Arrange for the end before anything slow is imported."""
    from . import system

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not system.die_with(lifeline):
        threading.Thread(target=_watch, args=(lifeline,), daemon=True, name="safeloader-lifeline").start()
    elif _ended(lifeline):
        os._exit(0)
    os.set_blocking(stacks, False)
    faulthandler.enable(file=stacks)
    faulthandler.register(system.STACK_SIGNAL, file=stacks, all_threads=True)


def _ended(lifeline: int) -> bool:
    import select

    poller = select.poll()
    poller.register(lifeline, 0)
    return bool(poller.poll(0))


def _watch(lifeline: int) -> None:
    os.read(lifeline, 1)  # nobody ever writes: this returns when the trainer is gone
    os.kill(os.getpid(), signal.SIGKILL)


def _introduce(config: Any, process: int) -> None:
    import multiprocessing.process

    current = multiprocessing.process.current_process()
    current.name = f"safeloader-{process}"
    current.authkey = config.authkey
    if not config.accelerators:
        for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
            os.environ[name] = ""


def _make_host(config: Any, spec: int, arena: int, process: int, link: Any) -> Any:
    import torch

    torch.set_num_threads(1)
    if config.shared:
        from .guests import Guests

        return Guests(link)
    from .arena import Arena
    from .serve import Host

    return Host(config, spec, Arena(arena), process, link)


def _leave(code: int) -> None:
    """End without torch's teardown, which takes longer than the rest; but run exit handlers and flush files."""
    import atexit

    try:
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        os._exit(code & 0xFF)
