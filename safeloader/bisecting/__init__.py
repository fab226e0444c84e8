"""Which setting hangs: the user's own script, run again and again, one setting changed at a time.

::

    matrix: settings ──▶ watch: one run each, in a session of its own ──▶ verdict
                              │ _SAFELOADER_BISECT (environment)  ▲ heartbeat, loaders, stacks (files)
                              └──▶ program: the bootstrap in the script's process

The script is not edited: the bootstrap changes the arguments of the DataLoaders that it makes, and counts the batches
they give. A run hangs if no batch comes, and nothing else that can be seen, for the cap.
"""

from __future__ import annotations

__all__: list[str] = []
