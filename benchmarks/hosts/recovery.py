"""How long a training loop waits for what ends its process on another host: ``python -m benchmarks.hosts.recovery``.

One worker, in a network namespace of this machine (root, ``ip``), batches that cost nothing; the same on this host. In
turns, medians.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.hosts.data import Made
from benchmarks.hosts.network import agent, network, switch
from safeloader import DataLoader, Policy
from safeloader.remote.plain_hosts import PlainHosts

if TYPE_CHECKING:
    from collections.abc import Callable

SILENCE = 5.0
_AHEAD = 2
_DUE = 5 + _AHEAD + 1  # no batch that was loaded before the fault


def _processes(word: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if word in " ".join(process.cmdline()):
                found.append(process)
    return found


def _wait(hosts: Any, deed: Callable[[], object]) -> tuple[float, str]:
    """Seconds from the fault to a batch that was not loaded before it, and what the report says."""
    policy = Policy(hosts=hosts, shadow=False)
    with DataLoader(Made(1000, (8,)), batch_size=8, num_workers=1, prefetch_factor=_AHEAD, policy=policy) as loader:
        begun = time.perf_counter()
        for number, _ in enumerate(loader):
            if number == 5:
                begun = time.perf_counter()
                deed()
            if number == _DUE:
                break
        took = time.perf_counter() - begun
        return took, "; ".join(f"{fault.cause}: {fault.detail}" for fault in loader.report().faults)


def _start() -> float:
    """Seconds until the first batch of a process here."""
    begun = time.perf_counter()
    with DataLoader(Made(1000, (8,)), batch_size=8, num_workers=1) as loader:
        next(iter(loader))
    return time.perf_counter() - begun


def main() -> None:
    """Measure, in turns, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    key = os.urandom(32)
    with network(), agent(key) as address:
        here, there, patient = "local", PlainHosts((address,), key, SILENCE), PlainHosts((address,), key)

        def kill_process() -> None:
            next(p for p in _processes("process_main") if p.parent() != psutil.Process()).kill()

        def kill_own() -> None:
            _processes("process_main")[0].kill()

        def cut(seconds: float) -> Callable[[], None]:
            def deed() -> None:
                switch("down")
                if seconds:
                    time.sleep(seconds)
                    switch("up")

            return deed

        rows: dict[str, Callable[[], tuple[float, str]]] = {
            "a process here: start to first batch": lambda: (_start(), ""),
            "a process here, SIGKILL": lambda: _wait(here, kill_own),
            "a process there, SIGKILL": lambda: _wait(there, kill_process),
            "a link that is cut for 3 s and heals": lambda: _wait(there, cut(3.0)),
            f"a link that is cut for 8 s and heals (silence={patient.silence:g})": lambda: _wait(patient, cut(8.0)),
            f"a link that stays cut (silence={SILENCE:g})": lambda: _wait(there, cut(0.0)),
        }
        found: dict[str, list[float]] = {}
        told: dict[str, str] = {}
        for _ in range(rounds):
            for name, measure in rows.items():
                took, told[name] = measure()
                found.setdefault(name, []).append(took)
                switch("up")
    print(f"load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    print("| | seconds to the next batch | report |\n|---|---|---|")
    for name in rows:
        print(f"| {name} | {statistics.median(found[name]):.1f} | {told[name]} |")


if __name__ == "__main__":
    main()
