"""``mmap``: a shared mapping is mapped again, and stays shared, of a file or without one; what is private is copied."""

from __future__ import annotations

import mmap
import os
import pickle
from typing import Any, NamedTuple

from safeloader.runtime.handles.places import (
    Place,
    open_regular_files,
    opened,
    path_for,
    place_at,
    place_of,
    refuse,
    target,
)
from safeloader.runtime.handles.shared_maps import EXCHANGED, reduce_nameless

Pickler = Any


class Area(NamedTuple):
    """What the system says of a mapping: permissions, where in the file it begins, the file's number and path."""

    mode: str
    offset: int
    inode: int
    path: str

    @property
    def of_a_file(self) -> bool:
        return self.inode != 0 and not self.path.startswith(("/dev/zero", f"/memfd:{EXCHANGED} "))

    @property
    def writes_stay_here(self) -> bool:
        return self.mode[3] != "s" and self.mode[1] == "w"


def reduce_mmap(pickler: Pickler, mapped: Any) -> Any:
    if mapped.closed:
        return closed, (type(mapped),)
    area = _area(mapped)
    if not area.of_a_file and area.mode[3] == "s":
        return reduce_nameless(pickler, mapped, _address(mapped))
    if not area.of_a_file or area.writes_stay_here:
        words = f"mapped memory of {len(mapped):,} bytes: each worker has a copy"
        return pickler.reopened(mapped, words, copied, type(mapped), pickle.PickleBuffer(mapped), mapped.tell())
    place = _place(pickler, area)
    words = f"{place.path or 'a removed file'}, mapped from byte {area.offset}"
    how = len(mapped), area.mode[1] == "w", area.mode[3] == "s", area.offset, mapped.tell()
    return pickler.reopened(mapped, words, map_again, type(mapped), place, *how)


def reduce_memmap(pickler: Pickler, array: Any) -> Any:
    """`numpy.memmap` by its file: by value it would be read whole, however big, and into the stream itself."""
    import numpy

    contiguous = array.flags.c_contiguous or array.flags.f_contiguous
    mapped = array._mmap
    area = None if mapped is None or array.mode == "c" or not contiguous else _area_or_none(mapped)
    if area is None or not area.of_a_file:
        return numpy.ndarray.view, (numpy.asarray(array), numpy.memmap)
    # A view remembers the file and offset of the whole; where it lies in memory tells the rest.
    offset = area.offset + array.__array_interface__["data"][0] - _address(mapped)
    place = _place(pickler, area)
    words = f"{place.path or 'a removed file'}, mapped from byte {offset}"
    order = "C" if array.flags.c_contiguous else "F"
    how = array.dtype, "r" if array.mode == "r" else "r+", offset, array.shape, order
    return pickler.reopened(array, words, open_memmap, place, *how)


def open_memmap(place: Place, *how: Any) -> Any:
    import numpy

    return numpy.memmap(path_for(place), *how)


def _area_or_none(mapped: Any) -> Area | None:
    try:
        return _area(mapped)
    except TypeError:  # this system does not tell
        return None


def _place(pickler: Pickler, area: Area) -> Place:
    for number in open_regular_files():
        if os.fstat(number).st_ino == area.inode and target(number) == area.path:
            return place_of(pickler, number)
    try:
        place = place_at(area.path)
    except OSError:
        place = None
    if place is None or place.inode != area.inode:
        refuse("which file is mapped here is not known", "keep the path, and map it in the first __getitem__")
    return place


def _address(mapped: Any) -> int:
    import numpy

    return int(numpy.frombuffer(mapped, numpy.uint8).__array_interface__["data"][0])


def _area(mapped: Any) -> Area:
    address = _address(mapped)
    try:
        with open("/proc/self/maps") as lines:
            for line in lines:
                span, mode, offset, _, inode, *path = line.split(maxsplit=5)
                start, end = (int(part, 16) for part in span.split("-"))
                if start <= address < end:
                    name = path[0].rstrip("\n").replace("\\012", "\n") if path else ""
                    return Area(mode, int(offset, 16) + address - start, int(inode), name)
    except OSError:
        pass
    return refuse("this system does not tell what is mapped", "keep the path, and map it in the first __getitem__")


def map_again(cls: Any, place: Place, size: int, writes: bool, shared: bool, offset: int, position: int) -> Any:
    """Map the same part of the same file; what is written through a shared mapping reaches the file and all others."""
    descriptor = opened(place, os.O_RDWR if writes else os.O_RDONLY)
    try:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writes else 0)
        made = cls(descriptor, size, mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE, protection, offset=offset)
    finally:
        os.close(descriptor)
    made.seek(position)
    return made


def copied(cls: Any, contents: Any, position: int) -> Any:
    view = memoryview(contents)
    made = cls(-1, view.nbytes)
    made[:] = view
    made.seek(position)
    return made


def closed(cls: Any) -> Any:
    made = cls(-1, 1)
    made.close()
    return made
