"""Numbers of this program's loaders for OpenTelemetry (``pip install opentelemetry-api``).

They are made when a reader collects; docs/metrics.md lists them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from safeloader.errors import SafeLoaderError
from safeloader.observe.numbers import TABLE, Number, numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["instrument"]

_FRESH = 0.05
"""Seconds: a reader asks for each instrument in turn; they share one look."""


def instrument(meter_provider: Any = None) -> None:
    """Add all numbers of ``safeloader`` to a meter provider, as observable instruments named ``safeloader.*``.

    Call it once in a program. Labels become attributes.

    Args:
        meter_provider: an OpenTelemetry ``MeterProvider``; None takes the global one.

    Raises:
        SafeLoaderError: ``opentelemetry-api`` is not installed.
    """
    try:
        from opentelemetry.metrics import Observation, get_meter_provider
    except ImportError as error:
        raise SafeLoaderError(
            "OpenTelemetry needs opentelemetry-api, which is not installed",
            hint="pip install opentelemetry-api",
            code="SL231",
        ) from error
    from safeloader import __version__

    meter = (meter_provider or get_meter_provider()).get_meter("safeloader", __version__)
    look = _Look()

    def observer(name: str) -> Callable[[Any], Iterable[Any]]:
        return lambda _: [Observation(n.value, n.labels) for n in look.now() if n.row.name == name]

    for row in TABLE:
        create = meter.create_observable_counter if row.counter else meter.create_observable_gauge
        create(f"safeloader.{row.name}", [observer(row.name)], row.unit, row.words)


class _Look:
    """All numbers, a moment old at most."""

    def __init__(self) -> None:
        self._seen: tuple[float, list[Number]] = (float("-inf"), [])

    def now(self) -> list[Number]:
        at, found = self._seen
        if time.monotonic() - at > _FRESH:
            found = numbers()
            self._seen = (time.monotonic(), found)
        return found
