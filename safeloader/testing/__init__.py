"""Faults on purpose: the same ones, at the same places, in any training that uses ``safeloader.DataLoader``.

::

    SAFELOADER_CHAOS="kill:batch=12; hang:sample=77" python train.py

    trainer: settings ──▶ fault_plan.parse ──▶ HostConfig.worker ──▶ process: chaotic.ChaoticWorker
                              │ an error here, before anything starts         │ does it, when its sample or batch comes
                              └──── a small file: how often each was done ◀───┘ (a new process does not repeat it)

Only worker processes are hurt, never the trainer. Without the setting, none of this is imported by a worker.
"""

from __future__ import annotations

from safeloader.fault_plan import KINDS, ChaosError, Planned, parse
from safeloader.testing.program import Chaos, chaos

__all__ = ["KINDS", "Chaos", "ChaosError", "Planned", "chaos", "parse"]
