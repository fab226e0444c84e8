"""FFCV with a net below it: the same pipelines and ``.beton`` files, and a run that cannot hang, leak or go astray.

::

    from safeloader.ffcv import Loader, ProgressiveResize     # was: from ffcv.loader import Loader

    Loader ── Order (who, when: pure) ── ProgressiveResize (how large: pure)
      │ Place: epoch, batch, size
      ▼
    Ladder: which of these ways is in use
      ▼
    Way: FFCV in the trainer ─▶ FFCV in a supervised process ─▶ a plain DataLoader   (down, and up again: same samples)
          │ Engine: compiled once    │ DataLoader with one worker     │ sample by sample, no FFCV thread
          ▼ Producer: the thread     ▼ the same Engine                ▼
        Batches: checked, leased    arena                           arena

FFCV must be installed (``make ffcv``). It is imported, and patched in memory (`patches`), with the first loader.
``check`` and ``Beton`` need only numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeloader.ffcv.beton import Beton
    from safeloader.ffcv.checking import CheckReport, Problem, check
    from safeloader.ffcv.loader import Loader
    from safeloader.ffcv.resize import ProgressiveResize, SharedSize
    from safeloader.ffcv.writing import write

__all__ = ["Beton", "CheckReport", "Loader", "Problem", "ProgressiveResize", "SharedSize", "check", "write"]

_HOMES = {
    "Beton": "beton",
    "CheckReport": "checking",
    "Loader": "loader",
    "Problem": "checking",
    "ProgressiveResize": "resize",
    "SharedSize": "resize",
    "check": "checking",
    "write": "writing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'safeloader.ffcv' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"safeloader.ffcv.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
