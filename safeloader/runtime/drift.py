"""Source files that changed since the first process started: a process started later runs today's code."""

from __future__ import annotations

import os
import site
import sys
import sysconfig

__all__ = ["Drift"]


class Drift:
    """Remembers the user's source files as they were when this was made."""

    def __init__(self) -> None:
        self._seen = {path: _stamp(path) for path in _user_files()}

    def changed(self) -> list[str]:
        """Files that differ now, by time of change or size."""
        return sorted(path for path, stamp in self._seen.items() if _stamp(path) != stamp)


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _user_files() -> list[str]:
    """Files of loaded modules that belong neither to Python nor to installed packages."""
    foreign = tuple({sysconfig.get_paths()[k] for k in ("stdlib", "platstdlib", "purelib", "platlib")})
    foreign += tuple(site.getsitepackages()) if hasattr(site, "getsitepackages") else ()
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    files = []
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path and path.endswith(".py") and name != "__main__" and not path.startswith((*foreign, own)):
            files.append(path)
    return files
