"""A bare environment: a virtual environment that sees some installed packages and what they require, and nothing else.

What it sees are links into the environment that runs this, so it costs a second, no memory and no network::

    python -m tools.bare FOLDER torch numpy        prints the environment's Python
"""

from __future__ import annotations

import shutil
import sys
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["closure", "link", "make"]


def closure(names: list[str]) -> dict[str, Distribution]:
    """Installed distributions and all that they require without extras, by canonical name.

    Raises:
        PackageNotFoundError: one of ``names`` is not installed.
    """
    found: dict[str, Distribution] = {canonicalize_name(name): distribution(name) for name in names}
    waiting = list(found.values())
    while waiting:
        for text in waiting.pop().requires or ():
            wanted = Requirement(text)
            name = canonicalize_name(wanted.name)
            if name in found or (wanted.marker is not None and not wanted.marker.evaluate({"extra": ""})):
                continue
            try:
                found[name] = distribution(name)
            except PackageNotFoundError:
                continue  # installed packages that lack something optional on this platform run without it here, too
            waiting.append(found[name])
    return found


def _entries(one: Distribution) -> set[Path]:
    """The files and folders right in site-packages that a distribution consists of."""
    root = Path(str(one.locate_file("")))
    parts = {file.parts[0] for file in one.files or () if file.parts and file.parts[0] not in ("..", "__pycache__")}
    return {root / part for part in parts if (root / part).exists()}


def make(folder: Path, names: list[str], pip: bool = False) -> Path:
    """Make a bare environment.

    Args:
        folder: where; what is there is replaced.
        names: the installed packages that it sees, with what they require.
        pip: whether it has a pip of its own.

    Returns:
        Its Python.
    """
    venv.EnvBuilder(clear=True, symlinks=True, with_pip=pip).create(folder)
    site = next(folder.glob("lib/python*/site-packages"))
    for old in ("setuptools*", "pkg_resources", "_distutils_hack", "distutils-precedence.pth"):
        for entry in site.glob(old):  # up to Python 3.11 they come with pip
            entry.unlink() if entry.is_file() else shutil.rmtree(entry)
    link(folder, names)
    return folder / "bin" / "python"


def link(folder: Path, names: list[str]) -> None:
    """Let an environment see installed packages, with what they require."""
    site = next(folder.glob("lib/python*/site-packages"))
    for one in closure(names).values():
        for entry in _entries(one):
            target = site / entry.name
            if not target.exists():
                target.symlink_to(entry)


def main() -> None:
    """See the module's description."""
    if len(sys.argv) < 3:
        sys.exit("usage: python -m tools.bare FOLDER PACKAGE ...")
    print(make(Path(sys.argv[1]), sys.argv[2:]))


if __name__ == "__main__":
    main()
