"""How plans of faults are read (see `safeloader.fault_plan`)."""

from __future__ import annotations

from safeloader.fault_plan import KINDS, ChaosError, Planned, parse

__all__ = ["KINDS", "ChaosError", "Planned", "parse"]
