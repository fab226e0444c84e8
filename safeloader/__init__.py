"""PyTorch data loading that survives what kills it.

::

    from safeloader import DataLoader        # was: from torch.utils.data import DataLoader

Public names are imported on first use, so that a worker process, which needs none of them, pays for none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeloader import carry
    from safeloader.auditing import AuditReport, audit
    from safeloader.config import Policy, Settings, settings
    from safeloader.errors import (
        AuditError,
        BadSampleError,
        BatchTimeoutError,
        ConcurrentUseError,
        DivergenceError,
        ForkRefusedError,
        LoaderClosedError,
        NotCarriableError,
        RanksDisagreeError,
        SafeLoaderError,
        SettingsError,
        StartError,
        StateError,
    )
    from safeloader.loader import DataLoader
    from safeloader.observe import Fault, Report
    from safeloader.patching import patch, unpatch
    from safeloader.pool import WorkerPool
    from safeloader.progress_bar import progress
    from safeloader.remote.ray_hosts import RayHosts

__all__ = [
    "AuditError",
    "AuditReport",
    "BadSampleError",
    "BatchTimeoutError",
    "ConcurrentUseError",
    "DataLoader",
    "DivergenceError",
    "Fault",
    "ForkRefusedError",
    "LoaderClosedError",
    "NotCarriableError",
    "Policy",
    "RanksDisagreeError",
    "RayHosts",
    "Report",
    "SafeLoaderError",
    "Settings",
    "SettingsError",
    "StartError",
    "StateError",
    "WorkerPool",
    "audit",
    "carry",
    "patch",
    "progress",
    "settings",
    "unpatch",
]

__version__ = "0.1.0"

_HOMES = {
    "AuditReport": "auditing",
    "DataLoader": "loader",
    "Fault": "observe",
    "Policy": "config",
    "RayHosts": "remote.ray_hosts",
    "Report": "observe",
    "Settings": "config",
    "WorkerPool": "pool",
    "audit": "auditing",
    "patch": "patching",
    "progress": "progress_bar",
    "unpatch": "patching",
}


def __getattr__(name: str) -> Any:
    if name == "settings":  # the function
        value = importlib.import_module("safeloader.config").settings
    elif name == "carry":  # the module
        value = importlib.import_module("safeloader.carry")
    elif name in __all__:
        value = getattr(importlib.import_module(f"safeloader.{_HOMES.get(name, 'errors')}"), name)
    else:
        raise AttributeError(f"module 'safeloader' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
