"""The main function of a process: take one message after another, answer each.

Everything happens in the main thread: what cannot be serialised is an exception here, never a silence. SIGINT and
SIGTERM do nothing to the process (a trainer may want to write its checkpoint first), and it dies with the trainer.

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
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from safeloader.runtime.start import phases


__all__ = ["hide_accelerators", "introduce", "learn", "main", "protect", "work"]


def main(
    channel: int, stacks: int, lifeline: int, turns: int, starts: int, place: int, row: int, modules: tuple[str, ...]
) -> NoReturn:
    """Serve until the trainer closes the channel.

    Args:
        channel, stacks, lifeline, turns, starts: inherited descriptors.
        place: where it waits for its turn to import.
        row: where it tells how far it is.
        modules: what it imports before it says that it is ready.
    """
    for descriptor in (channel, stacks, lifeline, turns, starts):
        os.set_inheritable(descriptor, False)  # not for the programs that a sample starts
    protect(stacks, lifeline)
    from safeloader.runtime.start import phases, surroundings
    from safeloader.runtime.start.import_slots import turn

    mark = phases.PhaseMark(starts, row)
    mark(phases.TURN)
    gc.disable()  # importing makes a lot that stays
    try:
        with turn(turns, place):
            mark(phases.IMPORTS)
            learn()
    except Exception as error:
        os.write(stacks, traceback.format_exc().encode())
        sys.exit(f"a worker process cannot import what it needs: {type(error).__name__}: {error}")
    surroundings.imported()
    work(channel, stacks, modules, mark)


def learn() -> None:
    """Import what every process needs."""
    import numpy.random  # noqa: F401 - numpy itself leaves it until somebody asks
    import torch

    torch.set_num_threads(1)
    from safeloader.runtime.child import loop  # noqa: F401
    from safeloader.runtime.memory import arena  # noqa: F401
    from safeloader.runtime.shadow import taker  # noqa: F401


def work(channel: int, stacks: int, modules: tuple[str, ...], mark: phases.PhaseMark) -> NoReturn:
    """Be ready, join a loader, serve it."""
    from safeloader.runtime.channel import Blocking
    from safeloader.runtime.start.phases import MODULES, READY

    code = 1
    try:
        mark(MODULES)
        for name in modules:
            _import(name)
        gc.freeze()
        gc.enable()
        mark(READY)
        mark.close()
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
    from safeloader.runtime import protocol as p

    try:
        link.send(p.Ready(monotonic()))
        return link.receive_descriptors()
    except (BrokenPipeError, ConnectionResetError):
        return None


def _join(told: Any, descriptors: list[int], link: Any) -> Any:
    """Belong to a loader from now on."""
    from safeloader.runtime import protocol as p
    from safeloader.runtime.child import birth
    from safeloader.runtime.child.loop import WorkerHost
    from safeloader.runtime.memory.arena import Arena
    from safeloader.runtime.start import surroundings

    number, config, facts, moved, _ = told
    payload, arena, *inherited = descriptors
    folder = inherited.pop(0) if moved else -1
    if facts is not None:
        surroundings.take_up(facts, folder)
        surroundings.imported()
    introduce(config, birth.name_of(number))
    if surroundings.shortfalls and not config.shared:
        link.send(p.Differs(surroundings.shortfalls))
    if config.shared:
        from safeloader.runtime.child.pool_main import PoolMain

        return PoolMain(link)
    return WorkerHost(config, payload, inherited, Arena(arena), number, link)


def protect(stacks: int, lifeline: int) -> None:
    """Arrange for the end before anything slow is imported."""
    from safeloader.runtime import system
    from safeloader.runtime.child import birth

    birth.stacks_and_lifeline = stacks, lifeline
    system.disregard(signal.SIGINT, signal.SIGTERM)
    if not system.die_with(lifeline):
        threading.Thread(target=_watch, args=(lifeline,), daemon=True, name="safeloader-lifeline").start()
    elif birth.ended(lifeline):
        os._exit(0)
    os.set_blocking(stacks, False)
    faulthandler.enable(file=stacks)
    faulthandler.register(system.STACK_SIGNAL, file=stacks, all_threads=True)


def _watch(lifeline: int) -> None:
    os.read(lifeline, 1)  # nobody ever writes: this returns when the trainer is gone
    os.kill(os.getpid(), signal.SIGKILL)


def introduce(config: Any, name: str) -> None:
    """Let multiprocessing know who this is."""
    from multiprocessing import process as multiprocess

    from safeloader.runtime.child import birth
    from safeloader.runtime.child.main_script import never_run_it

    current: Any = multiprocess.current_process()
    current.name = name
    current.authkey = config.authkey
    trainer, pid = config.trainer
    multiprocess._parent_process = multiprocess._ParentProcess(trainer, pid, birth.stacks_and_lifeline[1])  # type: ignore[attr-defined]
    current._parent_pid = pid
    never_run_it()
    if not config.accelerators:
        hide_accelerators()


def hide_accelerators() -> None:
    """Before any module of the user's asks for devices."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        os.environ[name] = ""


def _leave(code: int) -> NoReturn:
    """End without torch's teardown, which takes longer than the rest; but run exit handlers and flush files."""
    import atexit

    from safeloader import torch_private

    try:
        torch_private.leave_operators_at_exit()
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        os._exit(code & 0xFF)
