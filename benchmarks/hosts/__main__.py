"""Batches a second from one process: here, over a plain stream, on another host, and through Ray's object store.

    python -m benchmarks.hosts [--rounds 3] [--ray]

The other host is a network namespace of this machine (it takes root and ``ip``). Ray's figures take Ray (``make
test-ray`` brings it), and its node is here, in no namespace.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import time
from typing import TYPE_CHECKING, Any

from benchmarks.hosts.data import KINDS, Made
from benchmarks.hosts.network import agent, certificates, network
from benchmarks.hosts.plain import Plain
from safeloader import DataLoader, Policy
from safeloader.remote.plain_hosts import PlainHosts

if TYPE_CHECKING:
    from collections.abc import Iterator

_BATCHES = {"9.6 MB": 60, "32 × 8 floats": 2000}
_WARM = 10


def _loader(kind: str, hosts: Any) -> float:
    """Batches a second of a loader with one process."""
    size, shape = KINDS[kind]
    count = _BATCHES[kind]
    data = Made((count + _WARM) * size, shape)
    with DataLoader(data, batch_size=size, num_workers=1, prefetch_factor=4, policy=Policy(hosts=hosts)) as loader:
        batches = iter(loader)
        for _ in range(_WARM):
            next(batches)
        begun = time.perf_counter()
        for _ in batches:
            pass
        return count / (time.perf_counter() - begun)


def _plain(kind: str) -> float:
    size, shape = KINDS[kind]
    with Plain(4 * size * math.prod(shape)) as plain:
        plain.ask(_WARM + _BATCHES[kind])
        for number in range(_WARM + _BATCHES[kind]):
            if number == _WARM:
                begun = time.perf_counter()
            plain.receive()
        return _BATCHES[kind] / (time.perf_counter() - begun)


def _ray(kind: str) -> float:
    """Batches a second that an actor on another node puts into the object store, four ahead."""
    import ray

    size, shape = KINDS[kind]
    count = _BATCHES[kind]

    class Loads:
        def __init__(self) -> None:
            import torch

            self.samples = [torch.ones(shape)] * size
            self.stack = torch.stack

        def batch(self) -> Any:
            return self.stack(self.samples).numpy()

    actor = ray.remote(num_cpus=1, resources={"far": 1})(Loads).remote()
    waiting = [actor.batch.remote() for _ in range(4)]
    begun = 0.0
    for number in range(count + _WARM):
        if number == _WARM:
            begun = time.perf_counter()
        ray.get(waiting.pop(0))
        waiting.append(actor.batch.remote())
    rate = count / (time.perf_counter() - begun)
    ray.kill(actor)
    return rate


@contextlib.contextmanager
def _cluster(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    import ray
    from ray.cluster_utils import Cluster

    memory = 200 << 20
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": memory}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1, resources={"far": 1}, object_store_memory=memory)
        ray.init(address=cluster.address, log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    """Measure, in turns, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ray", action="store_true")
    asked = parser.parse_args()
    key = os.urandom(32)
    with contextlib.ExitStack() as held:
        held.enter_context(network())
        hosts = PlainHosts((held.enter_context(agent(key)),), key)
        files = held.enter_context(certificates())
        encrypted = PlainHosts((held.enter_context(agent(key, files)),), key, tls=files)
        held.enter_context(_cluster(asked.ray))
        ways: dict[str, Any] = {
            "a process here": lambda kind: _loader(kind, None),
            "plain TCP": _plain,
            "a process there": lambda kind: _loader(kind, hosts),
            "a process there, encrypted": lambda kind: _loader(kind, encrypted),
            **({"Ray's object store": _ray} if asked.ray else {}),
        }
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(asked.rounds):
            for kind in KINDS:
                for way, measure in ways.items():
                    found.setdefault((way, kind), []).append(measure(kind))
    print(f"| | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    for way in ways:
        print(f"| {way} | {' | '.join(f'{statistics.median(found[way, kind]):,.0f}' for kind in KINDS)} |")


if __name__ == "__main__":
    main()
