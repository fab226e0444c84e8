"""Small, separate helpers for a training loop: each can be used alone, and none needs the loader of this package.

::

    loader ──▶ guard.batches() ──▶ forward, loss, backward ──▶ guard.allows_step(loss) ──▶ optimizer.step()
                 │ a NaN in the batch                             │ in weights, loss, gradients: raise, skip, warn
                 ▼                                                ▼
               samples, positions                               parameters      guard.gradient_norm ─┐
                                                                                                     ▼
    evaluation ──▶ metric ───────────────────────────────────────────────────▶ MetricWatch: decline, collapse, plateau,
                     │                                                          gradients out of range
                     ▼
    store.save(step, metric=..., model=..., optimizer=..., loader=...)      whole, hashed and finite, or not at all
    resume(store,                model=..., optimizer=..., loader=...)      from the newest good one of this very run

``safeloader.training.lightning`` and ``safeloader.training.accelerate`` fit them into those libraries, which are
imported there alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeloader.errors import CheckpointError, NonFiniteError
    from safeloader.training.averaging import Average, disagreement, fingerprint, linear_scaling
    from safeloader.training.checkpoint import Checkpoint, PassedOver, Saved
    from safeloader.training.guard import FiniteGuard
    from safeloader.training.metric import Finding, MetricWatch
    from safeloader.training.rate_watch import RateWatch
    from safeloader.training.resuming import Resumed, resume
    from safeloader.training.settings_reads import SettingsCheck, settings_check
    from safeloader.training.store import CheckpointStore
    from safeloader.training.trouble import Trouble

__all__ = [
    "Average",
    "Checkpoint",
    "CheckpointError",
    "CheckpointStore",
    "FiniteGuard",
    "Finding",
    "MetricWatch",
    "NonFiniteError",
    "PassedOver",
    "RateWatch",
    "Resumed",
    "Saved",
    "SettingsCheck",
    "Trouble",
    "disagreement",
    "fingerprint",
    "linear_scaling",
    "resume",
    "settings_check",
]

_HOMES = {
    "Average": ".averaging",
    "Checkpoint": ".checkpoint",
    "CheckpointError": "..errors",
    "CheckpointStore": ".store",
    "FiniteGuard": ".guard",
    "Finding": ".metric",
    "MetricWatch": ".metric",
    "NonFiniteError": "..errors",
    "PassedOver": ".checkpoint",
    "RateWatch": ".rate_watch",
    "Resumed": ".resuming",
    "Saved": ".checkpoint",
    "SettingsCheck": ".settings_reads",
    "Trouble": ".trouble",
    "disagreement": ".averaging",
    "fingerprint": ".averaging",
    "linear_scaling": ".averaging",
    "resume": ".resuming",
    "settings_check": ".settings_reads",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'safeloader.training' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
