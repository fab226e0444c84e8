"""A batch becomes bytes in a lease and a short pickle stream; the stream and the lease become the batch again.

Tensors and arrays go out of band (pickle protocol 5): what the collate function already put into the lease stays where
it is, the rest is copied there once. Reading makes views of the lease; a view keeps it alive.
"""

from __future__ import annotations

import io
import pickle
import sys
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .arena import Arena
    from .system import Mapping

__all__ = ["ClassTable", "Decoded", "Encoder", "LeaseWriter", "decode"]

_ALIGN = 64  # a cache line; also enough for every dtype and vector instruction
_DTYPES: list[torch.dtype] = sorted({v for v in vars(torch).values() if isinstance(v, torch.dtype)}, key=str)
_WAYS = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__slots__")
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}

ClassTable = list[type]
_tables: dict[str, ClassTable] = {}


class Writer(Protocol):
    """Memory that a batch is put into, piece after piece; pieces are named by their offset."""

    def tensor(self, dtype: torch.dtype, count: int) -> tuple[torch.Tensor, int]: ...
    def write(self, data: memoryview | bytes) -> int: ...
    def offset_of(self, address: int, nbytes: int) -> int | None: ...


class Memory(Protocol):
    """Memory that a batch is read from, by slices of offsets."""

    def __getitem__(self, wanted: slice, /) -> memoryview: ...


def _references(anchors: list[memoryview], number: int) -> int:
    return sys.getrefcount(anchors[number])


_UNSHARED = _references([memoryview(b"")], 0)
"""What ``_references`` gives for an anchor that only its list knows."""


class LeaseWriter:
    """Hands out the memory of one lease, piece after piece; grows as needed.

    The dataset or the collate function may keep what was put into a lease, and the lease's memory is used again. So
    ``close`` looks whether anything still refers to it: if so, this process's view of the slot becomes private memory
    with the same content at the same address, and from then on nothing is collated in place.

    Args:
        arena: the process's side of the arena.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._slot = -1
        self._mappings: list[Mapping] = []
        self._anchors: list[memoryview] = []
        self.used = 0
        self.in_place = True

    def open(self, slot: int) -> None:
        """Begin with an empty lease."""
        self._slot = slot
        self.used = 0
        self._add(self._arena.map(slot, 1))

    def _add(self, mapping: Mapping) -> None:
        self._mappings.append(mapping)
        self._anchors.append(mapping.view())

    def close(self) -> None:
        """Nothing further is written, and the batch is no longer referred to, unless somebody kept it."""
        for number, mapping in enumerate(self._mappings):
            if _references(self._anchors, number) > _UNSHARED:
                mapping.make_private(min(self.used, mapping.length))
                self._arena.forget(self._slot)
                self.in_place = False
        self._slot = -1
        self._mappings.clear()
        self._anchors.clear()

    @property
    def is_open(self) -> bool:
        return self._slot >= 0

    def allocate(self, nbytes: int) -> int:
        """Reserve ``nbytes``; returns their offset."""
        offset = (self.used + _ALIGN - 1) & -_ALIGN
        end = offset + nbytes
        if end > self._mappings[-1].length:
            self._add(self._arena.map(self._slot, end))
        self.used = end
        return offset

    def tensor(self, dtype: torch.dtype, count: int) -> tuple[torch.Tensor, int]:
        """A flat tensor in the lease, and its offset."""
        offset = self.allocate(count * dtype.itemsize)
        return torch.frombuffer(self._anchors[-1], dtype=dtype, count=count, offset=offset), offset

    def write(self, data: memoryview | bytes) -> int:
        """Copy bytes into the lease; returns their offset."""
        offset = self.allocate(len(data))
        self._anchors[-1][offset : offset + len(data)] = data
        return offset

    def offset_of(self, address: int, nbytes: int) -> int | None:
        """The offset of memory that already lies in this lease (under any of its mappings: it may have grown)."""
        for mapping in self._mappings:
            offset = address - mapping.address
            if offset >= 0 and offset + nbytes <= mapping.length:
                return offset
        return None


class Encoder:
    """Encodes the batches of one process.

    Args:
        writer: where large pieces go.
        token: names the table of classes.
        classes: classes of the main script that this process got by value; the trainer knows them by number.
    """

    def __init__(self, writer: Writer, token: str = "", classes: Sequence[type] = ()) -> None:
        self._writer = writer
        self.token = token
        self.numbers = {cls: number for number, cls in enumerate(classes)}

    def encode(self, batch: Any) -> tuple[bytes, list[tuple[int, int]]]:
        """Returns the stream and, for each out-of-band piece in order, its (offset, bytes) in the lease.

        Raises:
            Whatever pickling raises for what cannot be carried.
        """
        file = io.BytesIO()
        places = _Places(self._writer)
        _Pickler(file, places, self).dump(batch)
        return file.getvalue(), places.pieces


class _Places:
    """Where the out-of-band pieces of one batch lie. Apart from the pickler, which would else refer to itself and keep
    the batch until the next garbage collection."""

    def __init__(self, writer: Writer) -> None:
        self.pieces: list[tuple[int, int]] = []
        self._writer = writer
        self._placed: dict[int, tuple[int, int]] = {}

    def add(self, buffer: pickle.PickleBuffer) -> bool:
        """Pickle's callback for each buffer, in order: note where it lies, copying it there unless it does."""
        piece = self._placed.pop(id(buffer), None)
        if piece is None:
            raw = buffer.raw()
            piece = (self._writer.write(raw), len(raw))
        self.pieces.append(piece)
        return False

    def place(self, tensor: torch.Tensor, span: int, contiguous: bool) -> pickle.PickleBuffer:
        """Put a tensor's ``span`` elements into the lease, unless they are there; the buffer only marks the place."""
        nbytes = span * tensor.dtype.itemsize
        offset = self._writer.offset_of(tensor.data_ptr(), nbytes)
        if offset is None:
            flat, offset = self._writer.tensor(tensor.dtype, span)
            source = tensor.detach()
            flat.copy_(source.reshape(-1) if contiguous else source.as_strided((span,), (1,)))
        buffer = pickle.PickleBuffer(bytearray())
        self._placed[id(buffer)] = (offset, nbytes)
        return buffer


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, places: _Places, encoder: Encoder) -> None:
        super().__init__(file, protocol=5, buffer_callback=places.add)
        self._places = places
        self._encoder = encoder

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            return self._tensor(obj)
        if isinstance(obj, type):
            number = self._encoder.numbers.get(obj)
            if number is not None:
                return _known_class, (self._encoder.token, number)
        return NotImplemented

    def _tensor(self, tensor: torch.Tensor) -> Any:
        if tensor.requires_grad and not tensor.is_leaf:
            raise RuntimeError(
                "a tensor that carries a gradient graph cannot be sent from a worker: "
                "call .detach() on it in the dataset or the collate function"
            )
        if type(tensor) is not torch.Tensor:
            return _reduce_subclass(tensor)
        if not _is_plain(tensor):
            return NotImplemented
        shape, stride = tuple(tensor.shape), tensor.stride()
        code = _CODES[tensor.dtype]
        if tensor.numel() == 0:
            return _empty, (code, shape, stride, tensor.requires_grad)
        contiguous = tensor.is_contiguous()
        span = tensor.numel() if contiguous else 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        buffer = self._places.place(tensor, span, contiguous)
        if tensor.requires_grad or not contiguous or 1 in shape:  # a dimension of one has any stride
            return _strided, (buffer, code, shape, stride, tensor.requires_grad)
        return _contiguous, (buffer, code, shape)


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_nested
        and not tensor.is_conj()
        and not tensor.is_neg()
        and all(s >= 0 for s in tensor.stride())
    )


def _has_a_way_of_its_own(cls: type) -> bool:
    own = cls.__mro__[: cls.__mro__.index(torch.Tensor)]
    return any(name in vars(base) for base in own for name in _WAYS)


def _reduce_subclass(tensor: torch.Tensor) -> Any:
    """A subclass without a way of its own travels as a plain tensor, its class and its attributes."""
    cls = type(tensor)
    if isinstance(tensor, torch.nn.Parameter) or _has_a_way_of_its_own(cls):
        return NotImplemented
    with torch._C.DisableTorchFunctionSubclass():
        plain = tensor.detach().as_subclass(torch.Tensor)
    if not _is_plain(plain) or type(plain) is not torch.Tensor:
        return NotImplemented
    return _subclass, (plain, cls, tensor.__dict__, tensor.requires_grad)


# ---------------------------------------------------------------- reading


class Decoded:
    """Where the classes of a loader's main script are found by number."""

    @staticmethod
    def register(token: str, classes: ClassTable) -> None:
        _tables[token] = classes

    @staticmethod
    def forget(token: str) -> None:
        _tables.pop(token, None)


def decode(stream: bytes | memoryview, pieces: Sequence[tuple[int, int]], memory: Memory | None) -> Any:
    """Make the batch again; its tensors and arrays are views of ``memory``."""
    if not pieces:
        return pickle.loads(stream)
    if memory is None:
        memory = memoryview(bytearray())  # all pieces are empty
    return pickle.loads(stream, buffers=[memory[start : start + length] for start, length in pieces])


def _known_class(token: str, number: int) -> type:
    return _tables[token][number]


def _contiguous(buffer: memoryview, code: int, shape: tuple[int, ...]) -> torch.Tensor:
    # Changed in place, not viewed: a view could not be detached in place, as a tensor of torch's workers can.
    return torch.frombuffer(buffer, dtype=_DTYPES[code]).resize_(shape)


def _strided(
    buffer: memoryview, code: int, shape: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool
) -> torch.Tensor:
    tensor = torch.frombuffer(buffer, dtype=_DTYPES[code]).as_strided_(shape, stride)
    return tensor.requires_grad_() if requires_grad else tensor


def _empty(code: int, shape: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool) -> torch.Tensor:
    return torch.empty_strided(shape, stride, dtype=_DTYPES[code], requires_grad=requires_grad)


def _subclass(plain: torch.Tensor, cls: type, attributes: dict[str, Any], requires_grad: bool) -> torch.Tensor:
    tensor: torch.Tensor = plain.as_subclass(cls)
    tensor.__dict__.update(attributes)
    return tensor.requires_grad_() if requires_grad else tensor
