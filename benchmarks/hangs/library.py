"""Stands for a library with a lock and threads of its own (logging, HDF5, gRPC), in trainer and workers alike."""

from __future__ import annotations

import threading
import time

LOCK = threading.Lock()


def hold_lock(held: threading.Event, seconds: float) -> None:
    """Hold `LOCK` for so many seconds; ``held`` is set once it is taken."""
    with LOCK:
        held.set()
        time.sleep(seconds)
