"""Many nodes, as far as the trainer sees them: heartbeats, copies of the dataset that are sent, faults that count.

    python -m benchmarks.hosts.simulated

The records, the nodes' stores and the counting of faults are the real ones; processes and networks are not there.
"""

from __future__ import annotations

import os
from typing import Any

from safeloader.remote import relay
from safeloader.remote.launcher import HostLauncher
from safeloader.remote.node_store import NodeStore
from safeloader.remote.payloads import Payloads, digest_of
from safeloader.runtime import by_value
from safeloader.runtime.child.heartbeat import Heartbeat
from safeloader.runtime.memory.arena import Arena

__all__ = ["copies_sent", "faults_counted", "heartbeat_bytes"]

BEATS = 2  # a second
_HEAD = 21  # bytes of a record's head
_TIMES = 16  # of a question


def heartbeat_bytes() -> int:
    """Bytes of one question and its answer."""
    arena = Arena()
    page = Heartbeat(arena.page(0))
    said = len(page.asks()) + _TIMES + len(page.says()) + relay.SAYS.size + 2 * _HEAD
    arena.close()
    return said


def copies_sent(nodes: int, each: int) -> int:
    """How often a dataset is sent to so many nodes with so many agents each."""
    packed = by_value.pack(os.urandom(1000))
    descriptor = os.memfd_create("simulated")
    by_value.write(packed, descriptor)
    packed.close()
    data, (digest, size) = os.pread(descriptor, 1 << 20, 0), digest_of(descriptor)
    os.close(descriptor)
    sent = 0
    for _ in range(nodes):
        key = os.urandom(32)  # a node of its own: its agents find nobody else's
        stores = [NodeStore(key, Payloads()) for _ in range(each)]
        for number, store in enumerate(stores):
            pending, fetches = store.want(number, digest, size)
            while pending is None:
                pending, fetches = store.want(number, digest, size)
            if fetches:
                sent += 1
                pending.write(data, 0)
        for store in stores:
            store.close()
    return sent


def faults_counted(nodes: int, each: int) -> int:
    """How many faults it is if all nodes are lost at once."""
    nowhere: Any = None
    launcher = HostLauncher(nowhere, "simulated")
    return sum(launcher.is_first_loss(f"node {node}") for node in range(nodes) for _ in range(each))


def main() -> None:
    """Print the table."""
    each, beat = 8, heartbeat_bytes()
    print("| nodes | processes | heartbeats a second | kB a second, both ways | copies sent | faults, all lost |")
    print("|---|---|---|---|---|---|")
    for nodes in (4, 20, 100):
        processes = nodes * each
        rate = processes * BEATS
        copies, faults = copies_sent(nodes, each), faults_counted(nodes, each)
        print(f"| {nodes} | {processes} | {rate:,} | {rate * beat / 1000:,.0f} | {copies} | {faults} |")


if __name__ == "__main__":
    main()
