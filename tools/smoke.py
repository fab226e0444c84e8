"""What must work wherever the wheel was installed: ``make dist`` and a test run it in a bare environment.

It needs nothing of the checkout: copy this file, and run it. The batches are compared with torch's, and one process is
killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from importlib.metadata import version

import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset

import safeloader


class Noisy(Dataset[torch.Tensor]):
    """Random samples; the process that loads sample 20 first is killed."""

    def __init__(self, once: str | None) -> None:
        self.once = once

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 20 and self.once is not None and not os.path.exists(self.once):
            open(self.once, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.randn(8) * random.random() + index


def batches(loader: TorchLoader[torch.Tensor]) -> list[bytes]:
    """Two epochs, as bytes."""
    torch.manual_seed(7)
    return [batch.numpy().tobytes() for _ in range(2) for batch in loader]


def main(scratch: str) -> None:
    """Compare safeloader under a fault with torch; see also where it was imported from."""
    arguments: dict[str, object] = {"batch_size": 4, "shuffle": True, "num_workers": 2}
    arguments["multiprocessing_context"] = "spawn"
    expected = batches(TorchLoader(Noisy(None), **arguments))  # type: ignore[arg-type]
    with safeloader.DataLoader(Noisy(os.path.join(scratch, "killed")), **arguments) as loader:  # type: ignore[arg-type]
        assert batches(loader) == expected, "the batches are not torch's"
        report = loader.report()
    assert [fault.cause for fault in report.faults] == ["died"], report
    assert version("safeloader") == safeloader.__version__
    print(f"safeloader {safeloader.__version__} with torch {torch.__version__}: {len(expected)} batches equal torch's")
    print(f"imported from {os.path.dirname(safeloader.__file__)}")


if __name__ == "__main__":
    main(sys.argv[1])
