"""A rank that steps together with all others until a file ``end`` appears in a folder, and then asks for the board.

Rank 0 prints each step; and, at the end, that the last rank publishes, and the sum that all agree on.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from safeloader import DataLoader
from safeloader.distributed import board
from tests.until import until


def _rows_of_the_last() -> int:
    seen = board().ranks.get(dist.get_world_size() - 1)
    return 0 if seen is None else seen.row.count


def main(folder: Path) -> None:
    """Train."""
    dist.init_process_group("gloo")
    loader = DataLoader(range(1_000_000), 4, name="train")  # type: ignore[arg-type]
    total, ending = 0.0, False
    for number, batch in enumerate(loader):
        part = torch.tensor([float(batch.sum()), float((folder / "end").exists())])
        dist.all_reduce(part)
        total += float(part[0])
        if dist.get_rank() == 0:
            print(f"step {number}", flush=True)
        ending = bool(part[1])
        if ending:
            expected = dist.get_world_size() * sum(range(4 * number + 4))
            break
        time.sleep(0.1)
    assert total == expected
    if dist.get_rank() == 0:
        known = _rows_of_the_last()
        until(lambda: _rows_of_the_last() > known, 600)
        print("the last rank publishes", flush=True)
        print(board(), flush=True)
    dist.barrier()
    os._exit(0)  # threads of gloo that are still there abort a normal exit now and then


if __name__ == "__main__":
    main(Path(sys.argv[1]))
