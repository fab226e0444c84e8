"""Numbers of this program's loaders for Prometheus (``pip install prometheus-client``).

They are made when somebody scrapes; docs/metrics.md lists them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from safeloader.errors import SafeLoaderError
from safeloader.observe.numbers import TABLE, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Collector", "Server", "serve"]


class Collector:
    """What ``prometheus_client`` asks on each scrape; register it where you have a registry of your own.

    Loaders of one name are added up. With several ranks, each has the label ``rank``.
    """

    def collect(self) -> Iterator[Any]:
        """All metrics, named ``safeloader_*`` and labelled with the loader's name."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        found = numbers()
        labels = ["loader", "rank"] if os.environ.get("RANK", "").isdecimal() else ["loader"]
        for row in TABLE:
            make: Any = CounterMetricFamily if row.counter else GaugeMetricFamily
            names = [*labels, *row.labels]
            family = make(f"safeloader_{row.name}", row.words, labels=names)
            for number in found:
                if number.row is row:
                    family.add_metric([number.labels[name] for name in names], number.value)
            yield family


class Server:
    """A running endpoint.

    Attributes:
        port: where it listens.

    Args:
        server: what answers.
        thread: in which it runs.
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
        SafeLoaderError: the port is in use or is none, or ``prometheus_client`` is not installed.
    """
    if not 0 <= port <= 65535:
        raise SafeLoaderError(
            f"port={port} is no port",
            hint="a number from 0, which takes any free one, to 65535",
            code="SL230",
        )
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        raise SafeLoaderError(
            "metrics need prometheus_client, which is not installed",
            hint="pip install prometheus-client",
            code="SL231",
        ) from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    try:
        return Server(*start_http_server(port, address, registry))
    except OSError as error:
        raise SafeLoaderError(
            f"metrics cannot be served at {address}:{port}: {error.strerror or error}",
            hint="another program, or another rank, has that port: serve(port=9464 + rank), or port=0",
            code="SL232",
        ) from error
