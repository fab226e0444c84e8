"""A rank that trains, epoch after epoch, without a word to the other, until a file ``end`` appears in a folder.

``end1`` ends rank 1 alone. While there is a file ``stand``, rank 0 stands still in a step.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from pathlib import Path

import torch.distributed as dist

from safeloader import DataLoader
from safeloader.distributed import board
from tests.until import until


def main(folder: Path) -> None:
    """Train."""
    dist.init_process_group("gloo")
    loader = DataLoader(range(8), 4, name="train")  # type: ignore[arg-type]
    list(loader)
    until(lambda: len(board().ranks) >= 2, 600)
    print("both are on the board", flush=True)
    while not ((folder / "end").exists() or (folder / f"end{dist.get_rank()}").exists()):
        for _ in loader:
            until(lambda: dist.get_rank() != 0 or not (folder / "stand").exists(), 600)
        print("another epoch", flush=True)
        time.sleep(0.1)
    print("done", flush=True)
    atexit._run_exitfuncs()
    os._exit(0)  # threads of gloo that are still there abort a normal exit now and then


if __name__ == "__main__":
    main(Path(sys.argv[1]))
