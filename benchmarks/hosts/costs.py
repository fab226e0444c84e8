"""Processor time of a batch, on the trainer's host and on the other one: ``python -m benchmarks.hosts.costs``.

One worker each: torch's, a process here, one in a network namespace, and the same with TLS; in turns, medians.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
from typing import Any

import psutil
import torch

from benchmarks.hosts.data import KINDS, Made
from benchmarks.hosts.network import agent, certificates, network
from safeloader import DataLoader, Policy
from safeloader.remote.plain_hosts import PlainHosts

_BATCHES = {"9.6 MB": 100, "32 × 8 floats": 3000}
_WARM = 20


def _seconds() -> tuple[float, float, float]:
    """Of the trainer, of its processes, and of the agents with theirs, so far."""

    def used(process: psutil.Process) -> float:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            return float(times.user + times.system)
        return 0.0

    own = psutil.Process()
    here, there = 0.0, 0.0
    for child in own.children():
        line = " ".join(child.cmdline())
        if "safeloader.remote.agent" in line:
            there += sum(used(process) for process in [child, *child.children(recursive=True)])
        else:
            here += used(child)
    return used(own), here, there


def _measure(loader: Any, kind: str) -> tuple[float, float, float]:
    """Milliseconds of processor time a batch: trainer, its processes, the other host."""
    batches = iter(loader)
    for _ in range(_WARM):
        next(batches)
    before = _seconds()
    for _ in range(_BATCHES[kind] - 2 * _WARM):  # not to the end: processes that have ended cannot be asked
        next(batches)
    after = _seconds()
    count = _BATCHES[kind] - 2 * _WARM
    return tuple(1000 * (late - early) / count for early, late in zip(before, after, strict=True))  # type: ignore[return-value]


def main() -> None:
    """Measure, in turns, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    key = os.urandom(32)
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    with contextlib.ExitStack() as held:
        held.enter_context(network())
        files = held.enter_context(certificates())
        plain = PlainHosts((held.enter_context(agent(key)),), key)
        encrypted = PlainHosts((held.enter_context(agent(key, files)),), key, tls=files)
        ways = {"torch": None, "a process here": "local", "a process there": plain, "the same, encrypted": encrypted}
        for _ in range(rounds):
            for kind, (size, shape) in KINDS.items():
                for way, hosts in ways.items():
                    data = Made(_BATCHES[kind] * size, shape)
                    settings: dict[str, Any] = {"batch_size": size, "num_workers": 1, "prefetch_factor": 4}
                    if hosts is None:
                        loader: Any = torch.utils.data.DataLoader(data, multiprocessing_context="spawn", **settings)
                        found.setdefault((way, kind), []).append(_measure(loader, kind))
                        continue
                    with DataLoader(data, policy=Policy(hosts=hosts), **settings) as loader:  # type: ignore[arg-type]
                        found.setdefault((way, kind), []).append(_measure(loader, kind))
    print(f"load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    print("| ms of processor time a batch | | trainer | its process, or what stands in for it | other host |")
    print("|---|---|---|---|---|")
    for kind in KINDS:
        for way in ways:
            shown = " | ".join(f"{statistics.median(column):.2f}" for column in zip(*found[way, kind], strict=True))
            print(f"| {kind} | {way} | {shown} |")


if __name__ == "__main__":
    main()
