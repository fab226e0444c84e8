"""What the consumer gets next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Outcome"]


class Outcome(NamedTuple):
    """A batch; or else what raises the error that comes in its place, or that ends the epoch."""

    batch: Any
    fail: Callable[[], Any] | None
