"""What on this machine, and about this loader, will hurt.

::

    machine, software, devices ──▶ Finding, Finding, ...          (the verdict of each check, with a hint)
    loader ──▶ carried? ──▶ scaled (1, 2, ... workers) ──▶ timed (sample, collate, transfer) ──▶ recommendation
                                   within samples: stages, images, narrow ──▶ trials ──▶ advice

Each check is a small function from facts to a `Finding`. One that fails itself is ``unknown``, and never ends the rest.
"""

from __future__ import annotations

from safeloader.doctor.finding import Finding, Verdict, examine

__all__ = ["Finding", "Verdict", "examine"]
