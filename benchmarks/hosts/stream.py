"""A process on another host beside plain TCP, in many short rounds in turns: ``python -m benchmarks.hosts.stream``.

Batches a second, and milliseconds of processor time a batch, of all programs that take part; medians, and the half in
the middle. The other host is a network namespace of this machine (root, ``ip``), so its processors do the work of both.
With ``--alone`` the programs have real-time priority: others disturb them less, and stand still meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.hosts.data import KINDS, Made
from benchmarks.hosts.network import agent, network
from benchmarks.hosts.plain import Plain
from safeloader import DataLoader, Policy
from safeloader.remote.plain_hosts import PlainHosts

if TYPE_CHECKING:
    from collections.abc import Callable

_BATCHES = {"9.6 MB": 30, "32 × 8 floats": 500}
_WARM = 6  # more than are loaded ahead
_AHEAD = 4


def _used(pids: list[int]) -> float:
    """Milliseconds of processor time so far."""
    files = [file for pid in pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(file.read_text().split()[0]) for file in files) / 1e6


def _round(step: Callable[[], object], pids: list[int], count: int) -> tuple[float, float]:
    """Batches a second, and milliseconds of processor time a batch."""
    for _ in range(_WARM):
        step()
    used, begun = _used(pids), time.perf_counter()
    for _ in range(count):
        step()
    took = time.perf_counter() - begun
    return count / took, (_used(pids) - used) / count


def _processes() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def _loader(kind: str, hosts: Any, held: contextlib.ExitStack) -> Callable[[], object]:
    size, shape = KINDS[kind]
    policy = Policy(hosts=hosts, shadow=False)
    loader = held.enter_context(
        DataLoader(Made(size * 10**7, shape), batch_size=size, num_workers=1, prefetch_factor=_AHEAD, policy=policy)
    )
    batches = iter(loader)
    held.callback(batches.close)  # type: ignore[attr-defined]
    next(batches)
    return lambda: next(batches)


def _measure(kind: str, rounds: int) -> dict[str, list[tuple[float, float]]]:
    size, shape = KINDS[kind]
    key, count = os.urandom(32), _BATCHES[kind]
    with contextlib.ExitStack() as held:
        held.enter_context(network())
        plain = held.enter_context(Plain(4 * size * math.prod(shape)))
        ways: dict[str, tuple[Callable[[], object], list[int]]] = {
            "plain TCP": (plain.receive, [os.getpid(), plain.pid])
        }
        for name in ("a process on another host", "a process on this host"):
            before = _processes()
            hosts = PlainHosts((held.enter_context(agent(key)),), key) if "another" in name else "local"
            step = _loader(kind, hosts, held)
            ways[name] = step, [os.getpid(), *_processes() - before]
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, (step, pids) in ways.items():
                time.sleep(0.1)  # what is loaded ahead is ready, as it is at the end
                if way == "plain TCP":
                    plain.ask(_WARM + count)
                found[way].append(_round(step, pids, count))
        return found


def _spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    digits = 0 if middle > 20 else 2
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--alone", action="store_true")
    asked = parser.parse_args()
    if asked.alone:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    print("| | | batches a second | of plain TCP | ms of processor time a batch |\n|---|---|---|---|---|")
    for kind in KINDS:
        found = _measure(kind, asked.rounds)
        for way, rows in found.items():
            rates, costs = ([row[column] for row in rows] for column in range(2))
            share = [100 * rate / plain for rate, (plain, _) in zip(rates, found["plain TCP"], strict=True)]
            print(f"| {kind} | {way} | {_spread(rates)} | {_spread(share)} % | {_spread(costs)} |")
    print(f"load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
