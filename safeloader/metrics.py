"""Numbers of this program's loaders for Prometheus (extra ``metrics``: ``pip install 'safeloader[metrics]'``).

They are read when somebody scrapes; a batch costs nothing.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from safeloader.errors import SafeLoaderError
from safeloader.observe import stall

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Collector", "Server", "serve"]

_COUNTERS = {
    "batches": "Batches given to the consumer.",
    "waited": "Seconds that the consumer has waited for batches: exposed data-loading time.",
    "ready_batches": "Batches that were there when they were asked for.",
    "restarts": "Processes that took the place of one lost to a fault.",
    "fallbacks": "Times that policy lowered the number of processes.",
    "skipped": "Samples left out of their batches.",
    "slow_batches": "Batches over their deadline whose samples still finished.",
    "seconds_lost": "Seconds that faults have cost.",
}
_GAUGES = {
    "workers": "Workers.",
    "processes": "Processes that policy wants now; 0 is the trainer alone.",
    "epoch": "The epoch under way or ended last, from 0.",
}
_NAMES = {"waited": "wait_seconds", "skipped": "skipped_samples", "seconds_lost": "lost_seconds"}


class Collector:
    """What ``prometheus_client`` asks on each scrape; register it where you have a registry of your own.

    Loaders of one name are added up. With several ranks, each has the label ``rank``.
    """

    def collect(self) -> Iterator[Any]:
        """All metrics, named ``safeloader_*`` and labelled with the loader's name."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        rank = os.environ.get("RANK", "")
        labels = ["loader", "rank"] if rank.isdecimal() else ["loader"]

        def values(name: str, *more: str) -> list[str]:
            return [name, rank, *more] if len(labels) == 2 else [name, *more]

        added = _added(stall.status()["loaders"])
        for key, words in _COUNTERS.items():
            family: Any = CounterMetricFamily(f"safeloader_{_NAMES.get(key, key)}", words, labels=labels)
            for name, facts in added.items():
                family.add_metric(values(name), facts[key])
            yield family
        for key, words in _GAUGES.items():
            family = GaugeMetricFamily(f"safeloader_{key}", words, labels=labels)
            for name, facts in added.items():
                family.add_metric(values(name), facts[key])
            yield family
        faults = CounterMetricFamily("safeloader_faults", "Faults, by cause.", labels=[*labels, "cause"])
        words = "Seconds within which that share of the batches came, to within a fifth."
        waits = GaugeMetricFamily("safeloader_wait_quantile_seconds", words, labels=[*labels, "quantile"])
        for name, facts in added.items():
            for cause, count in facts["causes"].items():
                faults.add_metric(values(name, cause), count)
            for quantile, seconds in facts["wait_quantiles"].items():
                waits.add_metric(values(name, quantile), seconds)
        yield faults
        yield waits


def _added(loaders: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The facts of all loaders, by name: counts added up, quantiles and epochs the largest."""
    found: dict[str, dict[str, Any]] = {}
    for loader in loaders:
        facts = found.setdefault(loader["name"], defaultdict(float, causes=defaultdict(int), wait_quantiles={}))
        for key in (*_COUNTERS, "workers", "processes"):
            facts[key] += loader["ready"] * loader["batches"] if key == "ready_batches" else loader[key]
        facts["epoch"] = max(facts["epoch"], loader["epoch"])
        for cause, count in loader["causes"].items():
            facts["causes"][cause] += count
        for quantile, seconds in loader["wait_quantiles"].items():
            facts["wait_quantiles"][quantile] = max(seconds, facts["wait_quantiles"].get(quantile, 0.0))
    return found


class Server:
    """A running endpoint.

    Attributes:
        port: where it listens.
    """

    def __init__(self, server: Any, thread: Any) -> None:
        self._server = server
        self._thread = thread
        self.port: int = server.server_port

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(port: int = 9464, address: str = "127.0.0.1") -> Server:
    """Answer scrapes at ``http://address:port/metrics``, in a thread.

    Args:
        port: 0 takes any that is free. Several ranks of one machine need one each.
        address: the default is reached from this machine only.

    Raises:
        SafeLoaderError: the port is in use, or ``prometheus_client`` is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        raise SafeLoaderError(
            "metrics need prometheus_client, which is not installed", hint="pip install 'safeloader[metrics]'"
        ) from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    try:
        return Server(*start_http_server(port, address, registry))
    except OSError as error:
        raise SafeLoaderError(
            f"metrics cannot be served at {address}:{port}: {error.strerror or error}",
            hint="another program, or another rank, has that port: serve(port=9464 + rank), or port=0",
        ) from error
