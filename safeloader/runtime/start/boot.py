"""What a fresh interpreter needs before it can import anything: a memory file that it reads first."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from typing import Any

from .. import system
from . import tuned

__all__ = ["launch", "read", "write"]

_CODE = (
    "import os, marshal, sys; "
    "sys.path[:], sys.argv[:], more = marshal.loads(os.pread({boot}, 1 << 30, 0)); os.close({boot}); {forgetting}; "
    "from safeloader.runtime.{module} import main; main(*more)"
)


def write(*more: Any) -> int:
    """A file that holds ``sys.path``, ``sys.argv`` and what the main function is given. Returns its descriptor."""
    descriptor = system.memory_file("boot")
    try:
        os.write(descriptor, marshal.dumps((sys.path, sys.argv, more)))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read(descriptor: int) -> Any:
    """Take over ``sys.path`` and ``sys.argv``; returns the rest, and closes the file."""
    sys.path[:], sys.argv[:], more = marshal.loads(os.pread(descriptor, 1 << 30, 0))
    os.close(descriptor)
    return more


def launch(module: str, descriptors: list[int], *more: Any) -> subprocess.Popen[bytes]:
    """Start an interpreter that runs ``safeloader.runtime.<module>.main``.

    Args:
        module: its name.
        descriptors: stay open in it.
        more: what its main function is given.

    Raises:
        OSError: the system cannot start another process.
    """
    told = write(*more)
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    code = _CODE.format(boot=told, module=module, forgetting=tuned.forgetting())
    try:
        return subprocess.Popen(
            [sys.executable, *flags, "-c", code],
            stdin=subprocess.DEVNULL,
            env=tuned.environment(),
            pass_fds=[told, *descriptors],
            start_new_session=True,  # a signal to the trainer's group is not for us
        )
    finally:
        os.close(told)
