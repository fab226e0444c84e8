"""Things that no file lies behind, or that were got from one, of the standard library: a row each, as in `open_things`."""

from __future__ import annotations

import ctypes
import io
import itertools
import sqlite3
import struct
import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.runtime.open_things import Row, connection


def _rows_of_database(folder: Path) -> Any:
    return connection(folder).execute("SELECT value, 'x' AS name FROM samples").fetchall()


def _giving_bytes(folder: Path) -> sqlite3.Connection:
    made = connection(folder)
    made.text_factory = bytes
    return made


def _text_in_memory(_: Path) -> Any:
    file = io.TextIOWrapper(io.BytesIO(b"one\ntwo\n"), encoding="utf-8")
    file.readline()
    return file


def _library(_: Path) -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    library.abs.argtypes = [ctypes.c_int]
    library.labs.argtypes = [ctypes.c_long]
    library.labs.restype = ctypes.c_long
    return library, library.labs, library.abs, library["abs"]


def _use_library(found: Any) -> Any:
    library, labs, absolute, other = found
    same = library.abs is absolute and other is not absolute
    return library.abs(-3), labs(-(1 << 40)), absolute.argtypes == [ctypes.c_int], other(-2), same


def _numbers_of_c(_: Path) -> Any:
    return (ctypes.c_int * 3)(1, 2, 3), ctypes.create_string_buffer(b"abc"), ctypes.POINTER(ctypes.c_int)


def _dict_views(_: Path) -> Any:
    plain, ordered = {"a": 1}, OrderedDict(a=1)
    return plain, plain.keys(), plain.items(), ordered, ordered.values()


def _use_dict_views(found: Any) -> Any:
    plain, keys, items, ordered, values = found
    plain["b"] = ordered["b"] = 2
    seen = list(keys), len(items), list(values)
    del plain["b"], ordered["b"]
    return seen


def _with_one_that_has_ended(_: Path) -> Any:
    made = itertools.zip_longest(range(9), "ab")
    return [next(made) for _ in range(3)] and made


def _counter(*numbers: Any) -> Any:
    made = itertools.count(*numbers)
    return next(made) is not None and made


PLAIN: dict[str, Row] = {
    "counter": Row(lambda _: _counter(7), next, 8),
    "counter by halves": Row(lambda _: _counter(-1.0, 0.5), next, -0.5),
    # Python 3.14 neither copies nor pickles it, and 3.12 says that it will not.
    **({"zip_longest": Row(_with_one_that_has_ended, next, (3, None))} if sys.version_info < (3, 12) else {}),
    "views of dictionaries": Row(_dict_views, _use_dict_views, (["a", "b"], 2, [1, 2])),
    "struct": Row(lambda _: struct.Struct("<hi"), lambda found: found.pack(1, 2), struct.pack("<hi", 1, 2)),
    "pool of threads, not begun": Row(
        lambda _: ThreadPoolExecutor(2, "reader"), lambda pool: pool._thread_name_prefix, "reader"
    ),
    "C library": Row(_library, _use_library, (3, 1 << 40, True, 2, True)),
    "arrays of C": Row(
        _numbers_of_c,
        lambda found: (list(found[0]), found[1].value, found[2] is ctypes.POINTER(ctypes.c_int)),
        ([1, 2, 3], b"abc", True),
    ),
    "text over memory": Row(_text_in_memory, lambda f: f.readline(), "two\n"),
    "rows of sqlite": Row(
        _rows_of_database, lambda rows: (rows[2]["value"], rows[1]["NAME"], rows[0].keys()), (2, "x", ["value", "name"])
    ),
    "sqlite that gives bytes": Row(_giving_bytes, lambda c: tuple(c.execute("SELECT 'a'").fetchone()), (b"a",), "a.db"),
}
