"""LMDB: an environment that is open for reading is opened again, once in each process, as LMDB wants it."""

from __future__ import annotations

import os
import sys
import weakref
from typing import Any

from safeloader.runtime.handles.places import Place, path_for, place_at, refuse, refuse_writing

Pickler = Any

_MOST_DATABASES = 128  # how many may be opened by name; an environment does not tell what it was given

_open: weakref.WeakValueDictionary[tuple[int, int], Any] = weakref.WeakValueDictionary()
"""The environments of this process, by their files. LMDB lets a process open each once, and any thread use it."""


def reduce_environment(pickler: Pickler, environment: Any) -> Any:
    import lmdb

    if not isinstance(environment, lmdb.Environment):
        return NotImplemented
    flags = environment.flags()
    path = os.fsdecode(environment.path())
    if not flags["readonly"]:
        refuse_writing(f"the LMDB environment {path!r} (readonly=False)")
    information = environment.info()
    place = place_at(os.path.join(path, "data.mdb") if flags["subdir"] else path)
    _open[place.device, place.inode] = environment
    how: dict[str, Any] = {name: flags[name] for name in ("subdir", "lock", "readahead")}
    how.update(map_size=information["map_size"], max_readers=information["max_readers"])
    return pickler.reopened(environment, place.path, open_environment, place, how)


def open_environment(place: Place, how: dict[str, Any]) -> Any:
    import lmdb

    there = _open.get((place.device, place.inode))
    if there is not None and _is_open(there):
        return there
    path = path_for(place)
    path = os.path.dirname(path) if how["subdir"] else path
    made = lmdb.open(path, readonly=True, create=False, max_dbs=_MOST_DATABASES, **how)
    _open[place.device, place.inode] = made
    return made


open_environment.shared = True  # type: ignore[attr-defined]  # it ends with the last worker of the process that holds it


def _is_open(environment: Any) -> bool:
    try:
        environment.path()
        environment.info()
    except Exception:  # lmdb.Error: it is closed
        return False
    return True


def refuse_part(_: Pickler, part: Any) -> Any:
    """What belongs to one environment in one process."""
    lmdb = sys.modules.get("lmdb")
    names = ("Transaction", "Cursor", "_Database")
    if lmdb is None or not isinstance(part, tuple(getattr(lmdb, name) for name in names if hasattr(lmdb, name))):
        return NotImplemented
    return refuse(
        f"an LMDB {type(part).__name__} belongs to the process that began it",
        "hold the environment, and begin() a transaction in __getitem__",
    )
