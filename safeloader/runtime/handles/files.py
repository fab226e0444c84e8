"""Files of ``open()``: each worker has its own offset, which begins where the trainer's stood."""

from __future__ import annotations

import copyreg
import fcntl
import gc
import io
import os
import stat
from typing import Any

from safeloader.runtime.handles.places import Place, opened, place_of, refuse
from safeloader.runtime.handles.places import refuse_writing as _refuse

Pickler = Any

_OF_ONE = "a pipe, a socket or a terminal belongs to one process: open it in the first __getitem__ of each process"
_NEWLINES = frozenset({"", "\n", "\r", "\r\n"})


def refuse_writing(_: Pickler, file: Any) -> Any:
    """Whatever writes, unless it is closed."""
    if file.closed:
        return closed, (io.BufferedReader,)
    return _refuse(f"the file {getattr(file, 'name', '?')!r}")


def reduce_raw(pickler: Pickler, file: io.FileIO) -> Any:
    if file.closed:
        return closed, (type(file),)
    number = file.fileno()
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        if stat.S_ISCHR(mode) and file.name == os.devnull:
            return null, (type(file), file.mode)
        refuse(f"{file.name!r} is no regular file", _OF_ONE)
    if file.writable():
        _refuse(f"the file {file.name!r}")
    place, offset = place_of(pickler, number, file.name), file.tell()
    words = f"{place.path or 'a removed file'}, at byte {offset}"
    state = {name: value for name, value in vars(file).items() if name not in ("name", "mode")}
    direct = bool(fcntl.fcntl(number, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0))
    return (*pickler.reopened(file, words, open_raw, type(file), place, file.name, offset, direct), state or None)


def open_raw(cls: Any, place: Place, name: Any, offset: int, direct: bool) -> Any:
    """Open a file again under the name that it had."""
    descriptor = opened(place, os.O_RDONLY | (getattr(os, "O_DIRECT", 0) if direct else 0))
    made = cls.__new__(cls)
    if isinstance(name, int):
        io.FileIO.__init__(made, descriptor, "r")
    else:
        io.FileIO.__init__(made, name, "r", opener=lambda *_: descriptor)
    made.seek(offset)
    return made


def null(cls: Any, mode: str) -> Any:
    return cls(os.devnull, mode)


def closed(cls: Any) -> Any:
    """A file of this class that is closed already."""
    raw: Any = io.FileIO(os.devnull)
    if issubclass(cls, io.FileIO):
        made = raw
    else:
        made = io.BufferedReader(raw)
        made = io.TextIOWrapper(made, "utf-8") if issubclass(cls, io.TextIOWrapper) else made
    made.close()
    return made


def reduce_buffered(pickler: Pickler, file: Any) -> Any:
    if file.closed:
        return closed, (io.BufferedReader,)
    if not file.seekable():
        refuse("where it stands cannot be told", _OF_ONE)
    pickler.holds(file, file.raw)
    return make_buffered, (type(file), file.raw, file.tell()), dict(vars(file)) or None


def make_buffered(cls: Any, raw: Any, offset: int) -> Any:
    made = cls.__new__(cls)
    io.BufferedReader.__init__(made, raw)
    made.seek(offset)
    return made


def reduce_text(pickler: Pickler, file: Any) -> Any:
    if file.closed:
        return closed, (io.TextIOWrapper,)
    in_memory = isinstance(file.buffer, io.BytesIO)
    if in_memory:
        file.flush()
    elif file.writable() and getattr(file, "name", None) != os.devnull:
        _refuse(f"the file {getattr(file, 'name', '?')!r}")
    if not file.seekable():
        refuse("where it stands cannot be told", _OF_ONE)
    how = file.encoding, file.errors, newline_of(file), file.line_buffering, file.write_through
    try:
        place = None if file.writable() and not in_memory else file.tell()
    except OSError as error:
        refuse(f"where it stands is not known: {error}", "read it by readline(), or iter(file.readline, '')")
    pickler.holds(file, file.buffer)
    return make_text, (type(file), file.buffer, *how, place), dict(vars(file)) or None


def newline_of(file: Any) -> str | None:
    """What ``open()`` was given as ``newline``, which a text file keeps and does not tell; None in doubt."""
    inside = gc.get_referents(file)
    kinds = [type(found).__name__ for found in inside]
    at = next((n for n, kind in enumerate(kinds) if kind.endswith("Decoder")), None)
    if at is None or at + 1 >= len(inside):
        return None
    texts = [found for found in inside[at + 1 :] if type(found) is str]
    if kinds[at] == "IncrementalNewlineDecoder" and texts[:1] == [""] and len(texts) < 3:
        file.seek(file.tell())  # what is decoded may be empty as well: then it is not there any more
        texts = [found for found in gc.get_referents(file)[at + 1 :] if type(found) is str]
    first = texts[0] if texts else None
    if kinds[at] == "IncrementalNewlineDecoder":
        return "" if first == "" else None
    return first if first in _NEWLINES else None


def make_text(
    cls: Any, buffer: Any, encoding: str, errors: str, newline: str | None, lines: bool, through: bool, place: Any
) -> Any:
    made = cls.__new__(cls)
    io.TextIOWrapper.__init__(made, buffer, encoding, errors, newline, lines, through)
    if place is not None:
        made.seek(place)
    return made


def reduce_codec(_: Pickler, stream: Any) -> Any:
    """Of ``codecs.open()``: what was read ahead goes along."""
    return copyreg.__newobj__, (type(stream),), dict(vars(stream)), None, None, fill  # type: ignore[attr-defined]


def fill(made: Any, state: dict[str, Any]) -> None:
    """Without a question to the object, which would hand it on to a stream that it does not have yet."""
    vars(made).update(state)


def reduce_temporary(_: Pickler, wrapper: Any) -> Any:
    """The trainer's own removes the file when it is closed; a worker's does not."""
    if not wrapper.file.closed and wrapper.file.writable():
        _refuse(f"the temporary file {wrapper.name!r}")
    return make_temporary, (type(wrapper), wrapper.file, wrapper.name)


def make_temporary(cls: Any, file: Any, name: str) -> Any:
    return cls(file, name, delete=False)
