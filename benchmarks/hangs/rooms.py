"""Rooms: special surroundings of a run, such as a small /dev/shm or a control group with little memory."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.hangs.scenario import NotHere, Room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEMORY_V1 = Path("/sys/fs/cgroup/memory")
UNIFIED = Path("/sys/fs/cgroup")


@contextmanager
def long_tmpdir(directory: Path) -> Iterator[Room]:
    """A TMPDIR whose path is too long for the address of a Unix socket (107 bytes), as on many clusters."""
    place = directory / ("job-" + "0123456789" * 10)
    place.mkdir()
    yield Room(environment={"TMPDIR": str(place)})


@contextmanager
def own_tmpdir(directory: Path) -> Iterator[Room]:
    """A TMPDIR of its own, short enough for sockets, which the program may empty."""
    place = directory / "tmp"
    place.mkdir()
    yield Room(environment={"TMPDIR": str(place)})


def small_shm(megabytes: int) -> Callable[[Path], AbstractContextManager[Room]]:
    """A private /dev/shm of so many megabytes, as in a container."""

    @contextmanager
    def room(directory: Path) -> Iterator[Room]:
        mount = f"mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm"
        prefix = ("unshare", "-rm", "sh", "-c", mount + ' && exec "$@"', "sh")
        _must_work([*prefix, "true"])
        yield Room(prefix=prefix)

    return room


def memory_limit(megabytes: int) -> Callable[[Path], AbstractContextManager[Room]]:
    """A control group whose processes together may use so many megabytes; beyond, the kernel kills one of them."""

    @contextmanager
    def room(directory: Path) -> Iterator[Room]:
        group = _memory_group(directory.name, megabytes << 20)
        try:
            join = f'echo $$ > {group}/cgroup.procs && exec "$@"'
            yield Room(prefix=("sh", "-c", join, "sh"))
        finally:
            _remove(group)

    return room


def _memory_group(name: str, limit: int) -> Path:
    v1 = (MEMORY_V1 / "memory.limit_in_bytes").exists()
    group = (MEMORY_V1 if v1 else UNIFIED) / name
    try:
        group.mkdir()
    except OSError as problem:
        raise NotHere(f"no memory control group can be made: {problem.strerror}") from problem
    try:
        (group / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(limit))
        if not v1:
            (group / "memory.swap.max").write_text("0")
    except OSError as problem:
        group.rmdir()
        raise NotHere(f"the memory controller cannot be used: {problem.strerror}") from problem
    return group


def _remove(group: Path) -> None:
    """Remove a control group; its last killed process may take a moment to leave it."""
    for _ in range(50):
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise OSError(f"the control group {group} could not be removed: {os.listdir(group)}")


def _must_work(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise NotHere(f"{command[0]} cannot be used: {problem}") from problem
    if done.returncode:
        raise NotHere(f"no private mount is allowed: {done.stderr.strip()}")
