"""What the clients' programs share. Each is run with torch's loader, and with safeloader's and a kill in mid-epoch.

python -m tests.clients.programs.ignite torch FOLDER
python -m tests.clients.programs.ignite safeloader FOLDER      the same, patched, and a worker is killed
python -m tests.clients.programs.ignite calm FOLDER            the same, patched, and nobody is killed
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

HOW, FOLDER = sys.argv[1], Path(sys.argv[2])
PROTECTED = HOW != "torch"
_KILLED = FOLDER / "killed"
_KILLED.mkdir(exist_ok=True)


def begin() -> list[Any]:
    """Before the client is imported: patch, and keep what the loaders tell."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if not PROTECTED:
        return []
    import safeloader
    from safeloader.observe.recorder import keep_recorders

    safeloader.patch()
    return keep_recorders()


def seed() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def kill_once(which: str = "first") -> None:
    """SIGKILL to this worker, the first time that one comes here for the kill of this name."""
    mark = _KILLED / which
    if HOW == "safeloader" and torch.utils.data.get_worker_info() is not None and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def digest_of(module: torch.nn.Module) -> str:
    """Of all weights and buffers, to the byte."""
    found = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


class Samples(torch.utils.data.Dataset[Any]):
    """Inputs with noise, and targets; one sample kills its worker, once."""

    def __init__(self, count: int = 48, kill_at: int = 21) -> None:
        self.count, self.kill_at = count, kill_at

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if index == self.kill_at:
            kill_once()
        x = torch.full((4,), index / self.count) + torch.rand(4) * 0.1
        return x, x.sum().reshape(1)


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def finish(result: Any, recorders: list[Any]) -> None:
    """Tell what came out, and what the loaders went through."""
    causes: dict[str, int] = {}
    for recorder in recorders:
        for cause, count in recorder.report().causes.items():
            causes[cause] = causes.get(cause, 0) + count
    print("\n" + json.dumps({"result": result, "killed": len(list(_KILLED.iterdir())), "causes": causes}))
