"""A first run of a minute: training through a kill, a hang and a stop, with torch beside it. Needs torch alone.

::

    run.demo ──starts──▶ train (a program each) ──lines of JSON──▶ run.Watched ──▶ verdict, draw (terminal, SVG, HTML)

1. torch's DataLoader, undisturbed: the batches and the weights that are right.
2. safeloader, while a worker is killed, a sample hangs, and a worker is stopped.
3. torch's DataLoader, once for each of the three faults; each run that stands still is ended after a while.

The pictures are drawn when they are loaded, and the faults are made by the dataset itself, in whichever process loads
the next sample: the same code for both loaders.
"""

from __future__ import annotations

__all__: list[str] = []
