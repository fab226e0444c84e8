"""Whose code something is: the user's, Python's, an installed package's or safeloader's."""

from __future__ import annotations

import os
import site
import sysconfig

__all__ = ["is_foreign", "is_users", "module_of", "package_of"]


def is_users(path: str) -> bool:
    """True for a source file that belongs neither to Python nor to an installed package, nor to safeloader."""
    return path.endswith(".py") and not is_foreign(path)


def is_foreign(path: str) -> bool:
    """True for what belongs to Python, to an installed package or to safeloader.

    Packages may be installed in folders that are not this interpreter's own: those of another environment, which a
    ``.pth`` file names, or of this user.
    """
    return path.startswith(_FOREIGN) or any(folder in path for folder in _INSTALLED)


def module_of(kind: type) -> str:
    """The module of a class; "" where it has none that is a name.

    A class may say anything there, and some written in C do: the functions of Cython 3.1 have a descriptor.
    """
    module = getattr(kind, "__module__", "")
    return module if isinstance(module, str) else ""


def package_of(kind: type) -> str:
    """The outermost package of a class, as ``numpy``; "" where it has none."""
    return module_of(kind).partition(".")[0]


def _foreign() -> tuple[str, ...]:
    places = {sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    places.update(site.getsitepackages() if hasattr(site, "getsitepackages") else ())
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return ("<frozen ", *(os.path.join(place, "") for place in (*places, own)))


_FOREIGN = _foreign()
_INSTALLED = tuple(f"{os.sep}{kind}-packages{os.sep}" for kind in ("site", "dist"))
