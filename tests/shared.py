"""What a session computes once, for all workers of pytest and for the programs that tests start."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_FOLDER = "TESTS_SHARED"


def begin() -> bool:
    """Make the folder of a session, for this process and all that it starts. False if one is there: xdist's workers
    inherit it."""
    if _FOLDER in os.environ:
        return False
    os.environ[_FOLDER] = tempfile.mkdtemp(prefix="safeloader-tests-")
    return True


def end() -> None:
    """Remove the folder; for the process that has made it."""
    shutil.rmtree(os.environ.pop(_FOLDER), ignore_errors=True)


def computed_once(key: object, compute: Callable[[], T]) -> T:
    """What ``compute`` returns; one process computes it, the others wait for it.

    Args:
        key: names it; ``repr(key)`` is the same in all processes.
        compute: the result can be pickled.
    """
    if _FOLDER not in os.environ:  # a program that is run by hand
        return compute()
    file = Path(os.environ[_FOLDER], hashlib.sha256(repr(key).encode()).hexdigest())
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            whole = file.with_suffix(".new")
            whole.write_bytes(pickle.dumps(compute()))
            whole.rename(file)
    result: Any = pickle.loads(file.read_bytes())
    return result  # type: ignore[no-any-return]
