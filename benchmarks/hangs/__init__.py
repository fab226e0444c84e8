"""Hang-reproduction benchmarks: small true programs that hang, kill or starve a data loader, under several loaders.

The picture::

    __main__ ─▶ harness ──starts──▶ a scenario's program (own session, own directory, a cap) ──▶ loader ──▶ workers
      │            ▲                        │ facts.jsonl: start, batch, fault, error, end            │
      │            └─ tails, caps, kills ◀──┴─────────────────────────────── fault ◀──────────────────┘
      └─ report ◀─ judge: facts ─▶ one record (outcome, batches, equal or not, waits, processes left)

The rule: the program knows nothing of how it is judged. It trains through a loader that an adapter made and
notes facts, one JSON line each, so that a program that is killed or stands still leaves all that it knew. A
fault fires once, unless the scenario's name says ``always``, so that a loader which tries again can finish.

A scenario is one row of the catalogue of hangs, in a file in ``scenarios/``. To add one: write a file with a
``SCENARIO`` and a ``train(run)``, or add a line to one with ``SCENARIOS`` that differ little. To add a loader: see
``adapters.py``.
"""

from __future__ import annotations
