"""What a process takes over from a trainer on another host, and whether this host is like the trainer's.

The environment, ``sys.argv``, umask, signals, warning filters and hash seed are the trainer's. What belongs to a host
is this one's: limits, priority, processors, the interpreter, and the variables that `_OF_A_HOST` names. Of ``sys.path``
and the working directory, the trainer's hold as far as they exist here.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.metadata
import os
import platform
import socket
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from safeloader.runtime.start.surroundings import Facts, Surroundings
from safeloader.runtime.user_code import is_users

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Here", "Likeness", "differences", "likeness"]

_OF_A_HOST = (
    *("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "HOME", "USER", "LOGNAME", "HOSTNAME", "TMPDIR", "PWD", "OLDPWD"),
    *("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
)
_OF_RAY = "RAY_"
_PACKAGES = ("torch", "numpy")


class Likeness(NamedTuple):
    """What has to be the same on two hosts, so that they load the same bytes; plain values.

    Attributes:
        versions: Of Python, safeloader, and the packages that every process imports.
        sources: The SHA-256 of each source file of the user's that the trainer has imported, by module.
    """

    versions: dict[str, str]
    sources: dict[str, str]


def likeness(with_sources: bool) -> Likeness:
    """This program's."""
    versions = {"Python": platform.python_version(), "safeloader": vars(sys.modules["safeloader"])["__version__"]}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "(none)"
    return Likeness(versions, _sources() if with_sources else {})


def _sources() -> dict[str, str]:
    found = {}
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name != "__main__" and isinstance(path, str) and is_users(os.path.abspath(path)):
            digest = _digest(path)
            if digest:
                found[name] = digest
    return found


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


def differences(theirs: Likeness, path: list[str]) -> str:
    """What of a trainer's is another here, in words; "" if nothing is.

    A module that is not found here is no difference: it may not be needed, and who needs it says so.

    Args:
        theirs: the trainer's.
        path: where processes here look for modules.
    """
    own = likeness(with_sources=False).versions
    found = [
        f"{name} is {own.get(name, '(none)')} there and {version} here"
        for name, version in theirs.versions.items()
        if own.get(name) != version
    ]
    for name, digest in theirs.sources.items():
        file = _source_of(name, path)
        if file and _digest(file) not in ("", digest):
            found.append(f"the source of {name} ({file} there) is another")
    return "; ".join(found)


def _source_of(module: str, path: list[str]) -> str:
    """The source file of a module, which is not imported for that; "" if there is none."""
    places: Any = path
    name, spec = "", None
    for part in module.split("."):
        name = f"{name}.{part}".lstrip(".")
        try:
            spec = importlib.machinery.PathFinder.find_spec(name, places)
        except (ImportError, ValueError, KeyError):  # KeyError: a package without __init__ that is not imported here
            return ""
        if spec is None:
            return ""
        places = spec.submodule_search_locations or []
    origin = spec.origin if spec is not None else None
    return origin if origin is not None and origin.endswith(".py") else ""


class Here:
    """In the place of a trainer's `Surroundings`, for a process on this host.

    Args:
        theirs: the trainer's facts.
        own_first: this program's ``sys.path`` goes before the trainer's: a job runner has brought the code.

    Attributes:
        facts: what the process is given.
        folder: none: the directory goes by its name.
    """

    folder = -1

    def __init__(self, theirs: Facts, own_first: bool) -> None:
        surroundings = Surroundings()
        own = surroundings.facts
        surroundings.close()
        self.facts = theirs._replace(
            path=_path(theirs.path, own.path, own_first),
            directory=_directory(theirs.directory, own.directory),
            environment=_environment(theirs.environment, own.environment),
            executable=own.executable,
            limits=own.limits,
            nice=own.nice,
            affinity=own.affinity,
        )


def _path(theirs: list[str], own: list[str], own_first: bool) -> list[str]:
    there = [place for place in theirs if not place or os.path.exists(place)]
    first, then = (own, there) if own_first else (there, own)
    return [*first, *(place for place in then if place not in first)]


def _directory(theirs: tuple[str, int, int], own: tuple[str, int, int]) -> tuple[str, int, int]:
    name = theirs[0]
    try:
        status = os.stat(name)
    except OSError:
        return own
    return (name, status.st_dev, status.st_ino) if os.path.isdir(name) else own


def _environment(theirs: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    def of_host(name: str) -> bool:
        return name in _OF_A_HOST or name.startswith(_OF_RAY)

    return {
        **{name: value for name, value in own.items() if of_host(name)},
        **{name: value for name, value in theirs.items() if not of_host(name)},
    }


def host_name() -> str:
    """What people call this host."""
    return socket.gethostname()
