"""The main function of a process: take one message after another, answer each.

Everything happens in the main thread: what cannot be serialised is an exception here, never a silence. The process
ignores SIGINT and SIGTERM (a trainer may want to write its checkpoint first) and dies with the trainer.

A spawned process comes in through ``main``; one that the fork server forked begins at ``protect``, and was born with
everything learned.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import signal
import socket
import sys
import threading
import traceback
from typing import Any, NoReturn

__all__ = ["ended", "hide_accelerators", "learn", "main", "protect", "work"]


def main(channel: int, stacks: int, lifeline: int, turns: int, place: int, modules: tuple[str, ...]) -> NoReturn:
    """Serve until the trainer closes the channel.

    Args:
        channel, stacks, lifeline, turns: inherited descriptors.
        place: where it waits for its turn to import.
        modules: what it imports before it says that it is ready.
    """
    protect(stacks, lifeline)
    from .start.turnstile import turn

    gc.disable()  # importing makes a lot that stays
    with turn(turns, place):
        learn()
    work(channel, stacks, modules)


def learn() -> None:
    """Import what every process needs."""
    import numpy.random  # noqa: F401 - numpy itself leaves it until somebody asks
    import torch

    torch.set_num_threads(1)
    from . import arena, channel, protocol, serve, spec  # noqa: F401


def work(channel: int, stacks: int, modules: tuple[str, ...]) -> NoReturn:
    """Be ready, join a loader, serve it."""
    from .channel import Blocking

    code = 1
    try:
        for name in modules:
            _import(name)
        gc.freeze()
        gc.enable()
        link = Blocking(socket.socket(fileno=channel))
        joined = _ready(link)
        if joined is not None:
            _join(joined[0], joined[1], link).serve()
        code = 0
    except SystemExit as end:  # the dataset's own wish
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # KeyboardInterrupt and the like out of a dataset: nobody can go on after it
        os.write(stacks, traceback.format_exc().encode())
    finally:
        _leave(code)


def _import(name: str) -> None:
    """Ahead of time: whoever needs it for a worker will be told if it cannot be had."""
    try:
        importlib.import_module(name)
    except Exception:
        pass


def _ready(link: Any) -> Any:
    """Say so, and wait for a loader. None if the trainer closed the channel instead."""
    from . import protocol as p

    try:
        link.send((p.READY,))
        return link.receive_descriptors()
    except (BrokenPipeError, ConnectionResetError):
        return None


def _join(told: Any, descriptors: list[int], link: Any) -> Any:
    """Belong to a loader from now on."""
    from .arena import Arena
    from .serve import Host

    _, number, config, _ = told
    spec, arena, *inherited = descriptors
    _introduce(config, number)
    if config.shared:
        from .guests import Guests

        return Guests(link)
    return Host(config, spec, inherited, Arena(arena), number, link)


def protect(stacks: int, lifeline: int) -> None:
    """Arrange for the end before anything slow is imported."""
    from . import system

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not system.die_with(lifeline):
        threading.Thread(target=_watch, args=(lifeline,), daemon=True, name="safeloader-lifeline").start()
    elif ended(lifeline):
        os._exit(0)
    os.set_blocking(stacks, False)
    faulthandler.enable(file=stacks)
    faulthandler.register(system.STACK_SIGNAL, file=stacks, all_threads=True)


def ended(lifeline: int) -> bool:
    """True if the trainer is gone."""
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
        hide_accelerators()



def hide_accelerators() -> None:
    """Before any module of the user's asks for devices."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        os.environ[name] = ""


def _leave(code: int) -> NoReturn:
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
