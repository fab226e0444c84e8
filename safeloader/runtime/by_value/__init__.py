"""Carry a dataset and its functions into worker processes: serialised once, mapped by all, copied by none.

::

    trainer                                            worker process (a fresh interpreter)
    packed = pack((dataset, collate_fn, ...))
    write(packed, memfd)  ──▶ │header│stream│buffers│  ──mmap, copy-on-write──▶ obj, classes = read(mapping)
    packed.fds  ────────────── inherited, same numbers ──────────────▶ (shared tensors, queues, values)

What lives in ``__main__``, in a function, or in a module that a fresh interpreter cannot import goes by
value, all else by reference. Arrays and tensors stay where they are until `write`; in the reader they are
views of the mapping. What is shared between processes already (``share_memory_()``, ``mp.Value``, queues)
stays shared.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safeloader.runtime.by_value import memory_files
from safeloader.runtime.by_value.overlaps import aligned, place
from safeloader.runtime.by_value.rebuild import adopt_tracker, reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Packed", "adopt_tracker", "dumps", "loads", "numbers", "pack", "read", "write"]

_MAGIC = b"SLcarry1"
# Magic; bytes in all; where the stream is and how long; counts of buffers and descriptors; which of these is
# the resource tracker's (-1: none); length of the names. Then (start, length) of each buffer, then the descriptors,
# then the names of what is opened again, pickled. A buffer in a file of its own has the number of its descriptor, and
# where it lies there, in place of the start.
_HEADER = struct.Struct("<8sQQQIIiI")
_BUFFER = struct.Struct("<iQQ")  # which descriptor: -1 is this file
_DESCRIPTOR = struct.Struct("<i")

_LINE = 64  # bytes
_PIECES_PER_WRITE = 512  # below IOV_MAX, which is 1024 on Linux


@dataclass(eq=False)
class Packed:
    """An object, serialised; made by `pack`, stored by `write`.

    Attributes:
        stream: Pickle of protocol 5, whose big buffers lie in `buffers`.
        buffers: The memory of arrays and tensors as it lies in the trainer, not copied. They keep that memory
            alive and pinned in size: clear the list when it is written.
        classes: Classes that go by value, in the order in which `read` returns its own.
        fds: Descriptors that every reading process must inherit under the same number. They belong to this
            object.
        tracker: Which of `fds` leads to the trainer's resource tracker, or None.
        modules: What a reader imports, as far as it was asked whether it can be imported.
        handles: Attribute path, and words, of each open thing that a reader opens again.
        elsewhere: Buffers that lie in a file of their own, by number: its place in `fds`, and where in the file. They
            are empty in `buffers`.
    """

    stream: bytes
    buffers: list[memoryview]
    classes: list[type]
    fds: list[int] = field(default_factory=list)
    tracker: int | None = None
    modules: tuple[str, ...] = ()
    handles: list[tuple[str, str]] = field(default_factory=list)
    elsewhere: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def add(self, buffer: memoryview) -> None:
        """One more buffer. Where it lies in a file of its own, readers map that."""
        found = memory_files.find(buffer)
        if found is not None:
            descriptor, offset = found
            self.elsewhere[len(self.buffers)] = len(self.fds), offset, buffer.nbytes
            self.fds.append(os.dup(descriptor))
            buffer = memoryview(b"")
        self.buffers.append(buffer)

    def restart(self) -> None:
        """Nothing is in it."""
        self.close()
        self.buffers.clear()
        self.elsewhere.clear()

    @property
    def size(self) -> int:
        """Bytes that `write` writes."""
        return self._layout()[3]

    def close(self) -> None:
        """Close the descriptors: no more readers can be started; those that inherited them keep them."""
        while self.fds:
            os.close(self.fds.pop())
        self.tracker = None

    def __del__(self) -> None:
        self.close()

    def _layout(self) -> tuple[int, list[int], list[tuple[int, memoryview]], int]:
        """Return where the stream and each buffer start, what of the buffers is written where, and the bytes in all."""
        head = _HEADER.size + _BUFFER.size * len(self.buffers) + _DESCRIPTOR.size * len(self.fds)
        start = aligned(head + len(self._names()), _LINE)
        return start, *place(self.buffers, start + len(self.stream))

    def _names(self) -> bytes:
        return pickle.dumps(self.handles) if self.handles else b""

    def _pieces(self) -> Iterator[bytes | memoryview]:
        """Yield everything that is to be written, in order, gaps included."""
        stream_start, starts, pieces, total = self._layout()
        tracker = -1 if self.tracker is None else self.tracker
        here = ((-1, start, buffer.nbytes) for start, buffer in zip(starts, self.buffers, strict=True))
        table = b"".join(_BUFFER.pack(*self.elsewhere.get(number, place)) for number, place in enumerate(here))
        names, counts = self._names(), (len(self.buffers), len(self.fds))
        head = _HEADER.pack(_MAGIC, total, stream_start, len(self.stream), *counts, tracker, len(names))
        head += table + b"".join(map(_DESCRIPTOR.pack, self.fds)) + names
        yield head
        position = len(head)
        yield bytes(stream_start - position)
        yield self.stream
        position = stream_start + len(self.stream)
        for start, piece in pieces:
            yield bytes(start - position)
            yield piece
            position = start + len(piece)


def pack(obj: Any, *, what: Mapping[str, object] | None = None) -> Packed:
    """Serialise `obj` for any number of fresh interpreters, without copying its arrays and tensors.

    Args:
        obj: Usually a tuple of the dataset and the functions that go with it.
        what: Names of the parts of `obj` for error messages, such as ``{"dataset": dataset}``.

    Returns:
        The stream, the buffers, and what a reader has to inherit. `obj` must stay alive as long as readers
        may come: a spawn context's locks and torch's shared files vanish with the objects of the trainer.

    Raises:
        NotCarriableError: a part cannot be sent to another process; the message names it and says what to
            try.
    """
    from safeloader.runtime.by_value.pickler import pack_into

    packed = Packed(b"", [], [])
    try:
        pack_into(packed, obj, what or {"object": obj})
    except Exception as error:
        packed.close()
        _explain(error, obj, what, inherit=True)
        raise
    except BaseException:
        packed.close()
        raise
    return packed


def write(packed: Packed, file_descriptor: int) -> int:
    """Write a packed object to a file at its current position, which should be a multiple of the page size.

    Args:
        packed: What `pack` returned, not yet closed. It can be written several times.
        file_descriptor: Open for writing; a memfd in the trainer, a file elsewhere.

    Returns:
        The number of bytes written: `packed.size`.

    Raises:
        OSError: no memory or no space.
    """
    batch: list[bytes | memoryview] = []
    for piece in packed._pieces():
        batch.append(piece)
        if len(batch) == _PIECES_PER_WRITE:
            _write_all(file_descriptor, batch)
            batch = []
    _write_all(file_descriptor, batch)
    return packed.size


def numbers(mapping: Any) -> tuple[int, int]:
    """Where the numbers of the trainer's descriptors lie in what `write` wrote: they mean nothing anywhere else."""
    _, _, _, _, buffer_count, descriptor_count, _, _ = _HEADER.unpack_from(mapping)
    start = _HEADER.size + _BUFFER.size * buffer_count
    return start, start + _DESCRIPTOR.size * descriptor_count


def read(
    mapping: Any,
    offset: int = 0,
    *,
    classes: Sequence[type] | None = None,
    descriptors: Sequence[int] | None = None,
) -> tuple[Any, list[type]]:
    """Rebuild what `write` wrote. Arrays and tensors are views of `mapping` and keep it open.

    The objects of two reads are independent only if their mappings are: for a second worker in one process,
    make a second copy-on-write mapping (``mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)``). Of a read-only
    mapping, arrays are read-only and tensors are copies. Classes and global variables that were carried by
    value are new with each read, so that two workers in one process share none.

    Args:
        mapping: Anything with the buffer interface.
        offset: Bytes before the header in `mapping`.
        classes: Where the trainer reads its own stream: ``packed.classes``, to get instances of its own
            classes. Their methods then see the trainer's global variables.
        descriptors: The inherited descriptors where they have other numbers than ``packed.fds``, in the same
            order.

    Returns:
        The object, and the classes that came by value: the same ones at the same places as in
        ``packed.classes``.

    Raises:
        ValueError: this is no packed object, or a part of one.
        Exception: whatever the user's own code raises while it is rebuilt (a module that is missing here,
            ...).
    """
    whole = memoryview(mapping).cast("B")[offset:]
    if len(whole) < _HEADER.size or bytes(whole[: len(_MAGIC)]) != _MAGIC:
        raise ValueError("not a packed object of this version of safeloader")
    _, total, start, length, buffer_count, descriptor_count, tracker, names_length = _HEADER.unpack_from(whole)
    if len(whole) < total:
        raise ValueError(f"a packed object of {total} bytes was cut to {len(whole)} bytes")
    table_end = _HEADER.size + _BUFFER.size * buffer_count
    table = list(_BUFFER.iter_unpack(whole[_HEADER.size : table_end]))
    names_at = table_end + _DESCRIPTOR.size * descriptor_count
    handles = pickle.loads(whole[names_at : names_at + names_length]) if names_length else ()
    if descriptors is None:
        numbers = whole[table_end:names_at]
        descriptors = [number for (number,) in _DESCRIPTOR.iter_unpack(numbers)]
    files = [whole if number < 0 else _mapped(descriptors[number]) for number, _, _ in table]
    buffers = (file[at : at + size] for file, (_, at, size) in zip(files, table, strict=True))
    if tracker >= 0:
        adopt_tracker(descriptors[tracker])
    with reading(descriptors, classes, handles=handles):
        obj, found = pickle.loads(whole[start : start + length], buffers=buffers)
    return obj, found


def dumps(obj: Any, classes: Sequence[type] = (), *, what: Mapping[str, object] | None = None) -> bytes:
    """Serialise something small (an index, an exception) by the same rules, in one piece.

    Args:
        obj: Anything that needs no descriptor: objects that share memory or locks are refused, shared tensors
            copied.
        classes: The classes that both sides know: ``packed.classes`` in the trainer, what `read` returned in
            a worker. They go as numbers, so the other side gets instances of its own class.
        what: Names for error messages, as for `pack`.

    Raises:
        NotCarriableError: a part cannot be sent to another process.
    """
    from safeloader.runtime.by_value.pickler import dump_bytes

    try:
        return dump_bytes(obj, classes)
    except Exception as error:
        _explain(error, obj, what, inherit=False)
        raise


def loads(data: Any, classes: Sequence[type] = (), *, script: dict[str, Any] | None = None) -> Any:
    """Rebuild what `dumps` returned, given this side's `classes`, and the namespace of the main `script`.

    Raises:
        Exception: whatever rebuilding raises.
    """
    with reading((), classes, script):
        return pickle.loads(data)


def _explain(error: Exception, obj: Any, what: Mapping[str, object] | None, *, inherit: bool) -> None:
    """Raise a NotCarriableError that names the part; return where memory, not the object, was the reason."""
    if isinstance(error, MemoryError):
        return
    from safeloader.runtime.by_value.names import not_carriable

    raise not_carriable(error, obj, what, inherit=inherit) from error


def _mapped(descriptor: int) -> memoryview:
    return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY))


def _write_all(file_descriptor: int, pieces: Sequence[bytes | memoryview]) -> None:
    left = [memoryview(piece) for piece in pieces if len(piece)]
    while left:
        written = os.writev(file_descriptor, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]
