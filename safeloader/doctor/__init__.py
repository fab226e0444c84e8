"""What on this machine, and about this loader, will hurt.

::

    machine, software, devices ──▶ Finding, Finding, ...          (the verdict of each check, with a hint)
    loader ──▶ carried? ──▶ timed (sample, collate, transfer) ──▶ scaled (0, 1, 2, ... workers) ──▶ recommendation

Each check is a small function from facts to a `Finding`. One that fails itself is ``unknown``, and never ends the rest.
"""

from __future__ import annotations

from safeloader.doctor.finding import Finding, Verdict, examine

__all__ = ["Finding", "Verdict", "examine"]
