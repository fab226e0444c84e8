"""Arrow's files and memory maps, and Parquet files."""

from __future__ import annotations

import gc
import operator
import os
from typing import TYPE_CHECKING, Any

from safeloader.runtime.handles.places import (
    NotOpenableError,
    Place,
    contents,
    open_regular_files,
    path_for,
    place_of,
    refuse,
    refuse_writing,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Pickler = Any

_OPENING = "keep the path, and open it in the first __getitem__ of each process"


def reduce_mapped(pickler: Pickler, file: Any) -> Any:
    return _reduce_native(pickler, file, "memory_map")


def reduce_file(pickler: Pickler, file: Any) -> Any:
    return _reduce_native(pickler, file, "OSFile")


def _reduce_native(pickler: Pickler, file: Any, opener: str) -> Any:
    if file.closed:
        refuse("it is closed", _OPENING)
    if file.writable():
        refuse_writing(f"the Arrow file with the descriptor {file.fileno()}")
    place, offset = place_of(pickler, file.fileno()), file.tell()
    return pickler.reopened(
        file, f"{place.path or 'a removed file'}, at byte {offset}", open_native, opener, place, offset
    )


def reduce_parquet(pickler: Pickler, file: Any) -> Any:
    """Over the same kind of source; the schema that is read from it has to be the same."""
    import pyarrow

    sources = [found for found in gc.get_referents(file.reader) if isinstance(found, pyarrow.NativeFile)]
    if not sources or file.closed:
        refuse("it is closed, or what it reads from is not known", _OPENING)
    source: Any = sources[0]
    if type(source) is pyarrow.NativeFile:
        place = _found(pickler, source, file)
        return pickler.reopened(file, place.path, open_parquet, type(file), place, file.schema_arrow)
    return pickler.reopened(file, "a Parquet file", open_parquet, type(file), source, file.schema_arrow)


def _found(pickler: Pickler, source: Any, file: Any) -> Place:
    """Which of the open files is this one: it has this size, this beginning and this end, or else all bytes of it."""
    size = source.size()
    ends = [source.read_at(min(size, 1 << 16), at) for at in (0, max(0, size - (1 << 16)))]
    same = [number for number in open_regular_files() if os.fstat(number).st_size == size and _alike(number, ends)]
    if len(same) > 1:
        same = [number for number in same if all(map(operator.eq, contents(number), _contents(source)))]
    if not same:
        refuse("none of the open files is the one that it reads", _OPENING)
    return place_of(pickler, same[0])


def _alike(number: int, ends: list[bytes]) -> bool:
    size = os.fstat(number).st_size
    try:
        return ends == [os.pread(number, len(ends[0]), 0), os.pread(number, len(ends[1]), size - len(ends[1]))]
    except OSError:
        return False


def _contents(source: Any) -> Iterator[bytes]:
    offset = 0
    while piece := source.read_at(1 << 20, offset):
        yield piece
        offset += len(piece)


def open_native(opener: str, place: Place, offset: int) -> Any:
    import pyarrow

    made = getattr(pyarrow, opener)(path_for(place))
    made.seek(offset)
    return made


def open_parquet(cls: Any, source: Any, schema: Any) -> Any:
    made = cls(path_for(Place(*source)) if isinstance(source, tuple) else source)
    if not made.schema_arrow.equals(schema, check_metadata=True):
        raise NotOpenableError(
            "its options (read_dictionary, or a schema of other types) are not known any more",
            "open it in the first __getitem__ of each process",
        )
    return made
