"""Connections to SQLite: to a file, each worker connects for itself; a database in memory is copied."""

from __future__ import annotations

import fcntl
import functools
import gc
import os
import pickle
import sqlite3
import urllib.parse
from typing import Any

from safeloader.runtime.handles.places import Place, open_regular_files, path_for, place_at, refuse

Pickler = Any

_OPENING = "connect in the first __getitem__ of each process"
_KEPT = ("query_only", "foreign_keys", "cache_size", "mmap_size", "busy_timeout", "read_uncommitted", "temp_store")
_ATTRIBUTES = ("isolation_level", "row_factory", "text_factory", "autocommit")


def reduce_connection(pickler: Pickler, connection: Any) -> Any:
    try:
        databases = _list(connection)
    except sqlite3.ProgrammingError as error:
        if "closed" not in str(error).lower():
            refuse(str(error), _OPENING)
        return closed, (type(connection),)
    _look(connection)
    how = {name: _first(connection, f"PRAGMA {name}") for name in _KEPT}
    attributes = {name: getattr(connection, name) for name in _ATTRIBUTES if hasattr(connection, name)}
    types = _types_of(connection)
    (_, _, path), *more = databases
    attached = [(row[1], row[2]) for row in more if row[1] != "temp"]
    if not path or not all(file for _, file in attached):
        make, args = _in_memory(connection, attached, types, how, attributes)
        return pickler.reopened(connection, "a database in memory: each worker has a copy", make, *args)
    place, read_only = _file(path)
    others = [(name, place_at(file)) for name, file in attached]
    args = type(connection), place, read_only, others, types, how, attributes
    return pickler.reopened(connection, place.path, connect, *args)


def _list(connection: Any) -> list[Any]:
    cursor = connection.cursor()
    cursor.row_factory = None
    return cursor.execute("PRAGMA database_list").fetchall()  # type: ignore[no-any-return]


def _look(connection: Any) -> None:
    """Refuse what cannot be seen from outside, or would be lost without a word."""
    if connection.in_transaction:
        refuse("it is in a transaction, which the workers would not see", "commit() it before the loop begins")
    if _first(connection, "SELECT count(*) FROM sqlite_temp_master"):
        refuse("it has temporary tables", f"make them where they are needed: {_OPENING}")
    for what, column in (("function_list", "name"), ("collation_list", "name")):
        own = set(_names(connection, what, column))
        fresh = sqlite3.connect(":memory:")
        known = set(_names(fresh, what, column))
        fresh.close()
        if own - known:
            refuse(
                f"it has functions of its own: {', '.join(sorted(own - known))}", f"{_OPENING}, and define them there"
            )


def _names(connection: Any, pragma: str, column: str) -> list[str]:
    return [row[0] for row in _rows(connection, f"SELECT {column} FROM pragma_{pragma}")]


def _rows(connection: Any, query: str) -> list[Any]:
    cursor, factory = connection.cursor(), connection.text_factory
    cursor.row_factory, connection.text_factory = None, str
    try:
        return cursor.execute(query).fetchall()  # type: ignore[no-any-return]
    except sqlite3.OperationalError:  # older than this pragma
        return []
    finally:
        connection.text_factory = factory


def _first(connection: Any, query: str) -> Any:
    rows = _rows(connection, query)
    return rows[0][0] if rows else None


def _file(path: str) -> tuple[Place, bool]:
    """Where the database lies, and whether it was opened for reading alone.

    It is opened by its path there: a descriptor that is closed here would release SQLite's own locks.
    """
    place, modes = place_at(path), set()
    for number in open_regular_files(all_of_them=True):
        if (os.fstat(number).st_dev, os.fstat(number).st_ino) == (place.device, place.inode):
            modes.add(fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE)
    return place, modes == {os.O_RDONLY}


def _in_memory(connection: Any, attached: list[Any], *more: Any) -> tuple[Any, ...]:
    if attached:
        refuse("it joins a database in memory with others", _OPENING)
    if hasattr(connection, "serialize"):
        empty = not _first(connection, "SELECT count(*) FROM sqlite_master")
        return fill, (type(connection), b"" if empty else pickle.PickleBuffer(connection.serialize()), *more)
    return fill, (type(connection), "\n".join(connection.iterdump()), *more)


def _types_of(connection: Any) -> int:
    """Its ``detect_types``, which it does not tell."""
    names = connection.execute('SELECT 1 AS "x [safeloader]"').description[0][0]
    found = sqlite3.PARSE_COLNAMES if names == "x" else 0
    converters: Any = getattr(sqlite3, "converters", None)
    if converters is None:
        return found
    seen: list[bytes] = []
    before = converters.get("TEXT")
    sqlite3.register_converter("TEXT", seen.append)
    try:
        _rows(connection, "SELECT type FROM sqlite_master LIMIT 1")
    finally:
        if before is None:
            del converters["TEXT"]
        else:
            converters["TEXT"] = before
    return found | (sqlite3.PARSE_DECLTYPES if seen else 0)


def reduce_cursor(pickler: Pickler, cursor: Any) -> Any:
    """As a new cursor, if nothing waits in it."""
    if any(type(found).__name__ == "Statement" for found in gc.get_referents(cursor)):
        refuse("rows of its query are not fetched yet", "fetch them (fetchall()), or execute the query in each process")
    pickler.holds(cursor, cursor.connection)
    attributes = {name: getattr(cursor, name) for name in ("arraysize", "row_factory")}
    return new_cursor, (type(cursor), cursor.connection, attributes)


# ---------------------------------------------------------------- in a worker


def connect(
    cls: Any, place: Place, read_only: bool, attached: list[tuple[str, Place]], types: int, how: Any, attributes: Any
) -> Any:
    """Connect to the same file."""
    path = path_for(place)
    where = f"file:{urllib.parse.quote(path)}?mode={'ro' if read_only else 'rw'}"
    made = cls(where, uri=True, detect_types=types, check_same_thread=False, timeout=how["busy_timeout"] / 1000)
    try:
        for name, other in attached:
            made.execute(f"ATTACH DATABASE ? AS {_quoted(name)}", (path_for(other),))
        _settle(made, how, attributes)
        made.execute("SELECT count(*) FROM sqlite_master").fetchone()  # else a locked or damaged one is seen much later
    except BaseException:
        made.close()
        raise
    return made


def fill(cls: Any, contents: Any, types: int, how: Any, attributes: Any) -> Any:
    """A database in memory of the worker's own."""
    made = cls(":memory:", detect_types=types, check_same_thread=False)
    if isinstance(contents, str):
        made.executescript(contents)
    elif len(contents):
        made.deserialize(bytes(contents))
    _settle(made, how, attributes)
    return made


def _settle(made: Any, how: dict[str, Any], attributes: dict[str, Any]) -> None:
    for name, value in how.items():
        made.execute(f"PRAGMA {name} = {value}").fetchall()
    for name, value in attributes.items():
        setattr(made, name, value)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def new_cursor(cls: Any, connection: Any, attributes: dict[str, Any]) -> Any:
    made = cls(connection)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def closed(cls: Any) -> Any:
    made = cls(":memory:")
    made.close()
    return made


def reduce_row(_: Pickler, row: Any) -> Any:
    """A row that was fetched: its values, and what they are called."""
    return make_row, (type(row), tuple(row.keys()), tuple(row))


def make_row(cls: Any, names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return cls(_cursor_of(names), values)


@functools.lru_cache(maxsize=64)
def _cursor_of(names: tuple[str, ...]) -> Any:
    columns = ", ".join(f"NULL AS {_quoted(name)}" for name in names)
    return sqlite3.connect(":memory:", check_same_thread=False).execute(f"SELECT {columns}")
