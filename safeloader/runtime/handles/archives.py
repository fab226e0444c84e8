"""Compressed files and archives: over a file of the worker's own."""

from __future__ import annotations

import copyreg
from typing import Any

from safeloader.runtime.handles.places import refuse

Pickler = Any


def reduce_decompressing(_: Pickler, reader: Any) -> Any:
    how = reader._decomp_factory, reader._trailing_error, reader._decomp_args
    return make_decompressing, (type(reader), reader._fp, *how, reader._pos > 0)


def make_decompressing(cls: Any, file: Any, factory: Any, trailing: Any, args: dict[str, Any], begun: bool) -> Any:
    """At the beginning: whoever reads through it knows how far it was, and goes there."""
    if begun:
        file.seek(0)
    return cls(file, factory, trailing_error=trailing, **args)


def reduce_gzip(_: Pickler, reader: Any) -> Any:
    return make_gzip, (type(reader), reader._fp.file, reader._pos > 0)


def make_gzip(cls: Any, file: Any, begun: bool) -> Any:
    if begun:
        file.seek(0)
    return cls(file)


def reduce_zip(pickler: Pickler, archive: Any) -> Any:
    """As it is, but for the count of members that are open."""
    pickler.holds(archive, archive.fp)
    state = {**vars(archive), "_fileRefCnt": min(1, archive._fileRefCnt)}
    return copyreg.__newobj__, (type(archive),), state  # type: ignore[attr-defined]


def reduce_member(pickler: Pickler, member: Any) -> Any:
    close = getattr(member._fileobj, "_close", None)
    if member.closed or close is None:
        refuse("this member of an archive is closed", "open it in the first __getitem__ of each process")
    if member._decrypter is not None:
        refuse("its password is not known any more", "open it in the first __getitem__ of each process")
    pickler.holds(member, close.__self__)
    return open_member, (close.__self__, member.name, member.tell())


def open_member(archive: Any, name: str, offset: int) -> Any:
    made = archive.open(name)
    made.seek(offset)
    return made


def reduce_npz(pickler: Pickler, found: Any) -> Any:
    names = ("allow_pickle", "pickle_kwargs", "max_header_size")
    options = {name: getattr(found, name) for name in names if hasattr(found, name)}
    if found.zip is None:
        refuse("it is closed", "load it in the first __getitem__ of each process")
    pickler.holds(found, found.zip.fp)
    return make_npz, (type(found), found.zip.fp, found.fid is not None, options)


def make_npz(cls: Any, file: Any, own: bool, options: dict[str, Any]) -> Any:
    return cls(file, own_fid=own, **options)
