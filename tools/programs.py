"""Programs that some tests look with, from Debian: ``python -m tools.programs`` installs those that are missing.

Chromium shows the pages of the documentation; Prometheus reads what the endpoint gives. Where they cannot be had, those
tests are skipped, and say so. Debian's Prometheus begins a service at once where the system has a manager of services:
there it is left to whoever owns the machine.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tools.install_ffcv import CannotInstall, install_with_apt

__all__ = ["main", "missing"]

MANAGER = Path("/run/systemd/system")


def missing() -> tuple[str, ...]:
    """The packages to install."""
    wanted = []
    if not (os.environ.get("CHROMIUM") or any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))):
        wanted.append("chromium")
    if not (shutil.which("prometheus") and shutil.which("promtool")) and not MANAGER.exists():
        wanted.append("prometheus")
    return tuple(wanted)


def main() -> int:
    """Install what is missing; 1, with one line that says why, where that cannot be done."""
    packages = missing()
    if not packages:
        return 0
    print(f"Installing {' and '.join(packages)} for the tests (once) ...", flush=True)
    try:
        install_with_apt(packages)
    except CannotInstall as reason:
        print(f"Not installed: {reason}; the tests that need it are skipped", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
