"""What torch's own loader says at a fault that ends it: programs and launchers look for these words in errors."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safeloader.observe.events import Fault

__all__ = ["in_torchs_words"]

_MEMORY = (
    "It is possible that dataloader's workers are out of shared memory. Please try to raise your shared memory limit."
)
_LOST = "Details are lost due to multiprocessing. Rerunning with num_workers=0 may give better error trace."


def in_torchs_words(fault: Fault, timeout: float | None) -> str:
    """The fault that a loader gives up at, as torch's would have told it.

    Args:
        fault: The last one.
        timeout: Seconds that a batch may take; None if that is not fixed.
    """
    if fault.cause in ("hung", "stopped"):
        seconds = fault.stalled if timeout is None else timeout
        return f"DataLoader timed out after {seconds or 0:g} seconds"
    worker = f"DataLoader worker (pid {fault.process})"
    name = "SIGKILL" if fault.cause == "oom" else fault.detail
    if name.startswith("SIG") and name in signal.Signals.__members__:
        number = signal.Signals[name]
        told = f"{worker} is killed by signal: {signal.strsignal(number)}."
        return f"{told} {_MEMORY}" if number == signal.SIGBUS else told
    if name.startswith("exit code"):
        return f"{worker} exited unexpectedly with {name}. {_LOST}"
    return f"DataLoader worker (pid(s) {fault.process}) exited unexpectedly"
