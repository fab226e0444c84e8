"""The scenarios. A file has one, of the name of the file, or several that differ little, by their names.

A file holds a ``SCENARIO`` or ``SCENARIOS``, a dataset that goes wrong, and ``train(run)``, the program. It says which
row of the catalogue of hangs it is and what torch's DataLoader does with it (2.13, Linux, CPU; see ``RESULTS.md`` for
what was measured).
"""

from __future__ import annotations
