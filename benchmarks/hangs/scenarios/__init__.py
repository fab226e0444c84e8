"""The scenarios, one file each; the name of the file is the name of the scenario.

A file holds a ``SCENARIO``, a dataset that goes wrong, and ``train(run)``, the program. Its docstring says
which row of the catalogue of hangs it is and what torch's DataLoader does with it (2.13, Linux, CPU; see
``RESULTS.md`` for what was measured).
"""

from __future__ import annotations
