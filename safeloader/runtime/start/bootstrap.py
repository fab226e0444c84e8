"""What a fresh interpreter needs before it can import anything: a memory file that it reads first."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from safeloader.runtime import system
from safeloader.runtime.start import glibc_tunables, surroundings

if TYPE_CHECKING:
    from safeloader.runtime.start.surroundings import Facts, Surroundings

__all__ = ["launch", "read", "write"]

_CODE = """\
import os, marshal, sys
facts, more = marshal.loads(os.pread({boot}, os.fstat({boot}).st_size, 0))
os.close({boot})
try:
    os.fchdir({folder})
except (OSError, ValueError):
    pass
sys.path[:] = facts[0]
from safeloader.runtime.start import surroundings
surroundings.be_born(facts, {folder})
from safeloader.{module} import main
main(*more)
"""


def write(given: Surroundings, *more: Any) -> int:
    """A file that holds the surroundings and what the main function is given. Returns its descriptor."""
    descriptor = system.memory_file("boot")
    try:
        data = marshal.dumps((tuple(given.facts), more))
        while data:
            data = data[os.write(descriptor, data) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read(descriptor: int) -> Any:
    """Take over what differs from the surroundings of the server; returns the rest, and closes the file."""
    facts, more = marshal.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    os.close(descriptor)
    surroundings.take_up(facts, -1)
    return more


def launch(module: str, given: Surroundings, descriptors: list[int], *more: Any) -> subprocess.Popen[bytes]:
    """Start an interpreter that runs ``safeloader.<module>.main``.

    Args:
        module: its name.
        given: what it takes over.
        descriptors: stay open in it; the first arguments of its main function.
        more: further ones.

    Raises:
        OSError: the system cannot start another process.
    """
    facts = given.facts
    options, environment = _alike(facts)
    told = write(given, *descriptors, *more)
    code = _CODE.format(boot=told, module=module, folder=given.folder)
    try:
        return subprocess.Popen(
            [facts.executable, *options, "-c", code],
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=[told, *descriptors, *([given.folder] if given.folder >= 0 else ())],
            start_new_session=True,  # a signal to the trainer's group is not for us
        )
    finally:
        os.close(told)


def _alike(facts: Facts) -> tuple[list[str], dict[str, str]]:
    """Options and environment: the trainer's, and what the interpreter is told besides, which it forgets at once.

    Whoever ignores Python's variables (``-E``, ``-I``) has them taken away instead: the hash seed is one of them.
    """
    options, environment = list(facts.options), glibc_tunables.environment(facts.environment)
    if "-I" in options or "-E" in options:
        environment = {name: value for name, value in environment.items() if not name.startswith("PYTHON")}
        isolated = ["-s", *(["-P"] if sys.version_info >= (3, 11) else [])] if "-I" in options else []
        options = [option for option in options if option not in ("-I", "-E")] + isolated
    environment["PYTHONHASHSEED"] = str(facts.hash_seed)
    return options, environment
