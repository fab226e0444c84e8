"""From the file of events to pictures of a run.

::

    events.jsonl ──read──▶ Story ──lanes──▶ Run: per loader, per lane: spans and marks ──┬─ chrome ─▶ trace.json
                                                                                        └─ page ───▶ report.html

Lanes are the trainer (waiting, computing) and each process (start, load, collate, idle, fault). What a file lacks is
said in its notes; nothing is guessed.
"""

from __future__ import annotations

__all__: list[str] = []
