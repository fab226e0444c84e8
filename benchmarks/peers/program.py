"""One epoch of one peer: ``python -m benchmarks.peers.program PEER speed WORKLOAD`` or ``... PEER fault FAULT FOLDER``.

What it found comes as a line of JSON for each batch of a faulty epoch, and one at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from typing import Any

import psutil
import torch

from benchmarks.peers import data
from benchmarks.peers.adapters import PEERS
from benchmarks.peers.job import Job

_FIRST = 10  # batches that are not measured


def _say(**told: Any) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def _cpu() -> float:
    """Seconds of processor time of this program and all that it started, ended or not."""
    mine = psutil.Process()
    total = 0.0
    for process in (mine, *mine.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # its own, and of children that it has waited for
    return total


def speed(peer: str, kind: str) -> None:
    """Batches a second, and processor time a batch, after the first few."""
    batches = data.WORKLOADS[kind].batches
    job = Job(data.Samples(kind, batches * data.BATCH), data.collate_of(kind), data.BATCH)
    begun, cpu = time.perf_counter(), 0.0
    for count, _ in enumerate(PEERS[peer](job), 1):
        if count == _FIRST:
            begun, cpu = time.perf_counter(), _cpu()
        if count == batches:
            counted = batches - _FIRST
            _say(rate=counted / (time.perf_counter() - begun), cpu=(_cpu() - cpu) / counted)


def fault(peer: str, kind: str, folder: str) -> None:
    """Tell each batch, as it comes."""
    job = Job(data.Struck(kind, folder), torch.stack, 4, deadline=5)
    for batch in PEERS[peer](job):
        content: Any = torch.as_tensor(batch)
        _say(digest=hashlib.blake2b(content.numpy().tobytes(), digest_size=8).hexdigest(), at=time.monotonic())
    _say(over=True)


def main() -> None:
    """Run what the command line names."""
    torch.set_num_threads(1)
    peer, what, *more = sys.argv[1:]
    if what == "speed":
        speed(peer, *more)
    else:
        fault(peer, *more)
    sys.stdout.flush()
    os._exit(0)  # some peers do not end by themselves after that; it is not what is asked here


if __name__ == "__main__":
    main()
