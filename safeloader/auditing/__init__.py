"""What a loader really serves: each index how often, by whom, in which order, with which random numbers.

::

    loader ─▶ rehearse: the same loader over a watched dataset ─▶ records: who loaded what, with which generator states
                                                                     │
              AuditReport: findings, epoch by epoch  ◀── judge (pure) ┘

``watched`` runs in the workers and imports little; ``generators`` finds the generator objects that a dataset keeps;
``rehearse`` runs the epochs; ``judge`` decides; ``report`` says it.
"""

from __future__ import annotations

from safeloader.auditing.rehearse import audit
from safeloader.auditing.report import AuditReport, Finding

__all__ = ["AuditReport", "Finding", "audit"]
