"""A batch becomes bytes in a lease and a short pickle stream; the stream and the lease become the batch again.

Tensors and arrays go out of band (pickle protocol 5): what the collate function already put into the lease stays where
it is, the rest is copied there once. Reading makes views of the lease; a view keeps it alive. Where all of a batch is
usual, its stream is a skeleton that was pickled before (``skeletons``).
"""

from __future__ import annotations

import functools
import io
import pickle
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy
import torch
from torch.multiprocessing.reductions import rebuild_typed_storage

from safeloader import torch_private
from safeloader.runtime.memory.pieces import Pieces, Writer
from safeloader.runtime.memory.registered import reducer_of
from safeloader.runtime.memory.skeletons import ALONE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safeloader.runtime.memory.skeletons import Skeletons

__all__ = ["ClassTable", "Decoded", "Encoder", "decode"]

_DTYPES: list[torch.dtype] = sorted({v for v in vars(torch).values() if isinstance(v, torch.dtype)}, key=str)
_WAYS = ("__torch_dispatch__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__slots__")
_OF_NUMPY = {
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex64", "complex128",
}  # fmt: skip
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}
_NUMPYS = [numpy.dtype(name) if (name := str(dtype).removeprefix("torch.")) in _OF_NUMPY else None for dtype in _DTYPES]

_ARRAY_KINDS = "biufcmMSUV"

ClassTable = list[type]
_tables: dict[str, ClassTable] = {}


class Memory(Protocol):
    """Memory that a batch is read from, by slices of offsets."""

    def __getitem__(self, wanted: slice, /) -> memoryview: ...


class Encoder:
    """Encodes the batches of one process.

    Args:
        writer: where large pieces go.
        token: names the table of classes.
        classes: classes of the main script that this process got by value; the trainer knows them by number.
        skeletons: of batches that go to another process, where what is no tensor is another object.
    """

    def __init__(
        self, writer: Writer, token: str = "", classes: Sequence[type] = (), skeletons: Skeletons | None = None
    ) -> None:
        self._writer = writer
        self._skeletons = skeletons
        self.token = token
        self.numbers = {cls: number for number, cls in enumerate(classes)}

    def encode(self, batch: Any) -> tuple[bytes, list[Any]]:
        """Returns the stream and, for each out-of-band piece in order, its (offset, bytes) in the lease; of a skeleton,
        tensors with the code of their dtype and their shape, and what else is out of band there as it is.

        Raises:
            Whatever pickling raises for what cannot be carried.
        """
        skeletons = self._skeletons
        if skeletons is not None and type(batch) is torch.Tensor and _is_usual(batch):
            return ALONE, self._placed([batch])
        found = None if skeletons is None else skeletons.of(batch)
        if found is not None:
            stream, leaves = found
            tensors = [leaf for leaf in leaves if type(leaf) is torch.Tensor]
            if all(map(_is_usual, tensors)):
                places = iter(self._placed(tensors))
                return stream, [next(places) if type(leaf) is torch.Tensor else leaf for leaf in leaves]
        file = io.BytesIO()
        pieces = Pieces(self._writer)
        _Pickler(file, pieces, self).dump(batch)
        return file.getvalue(), pieces.placed()

    def _placed(self, tensors: list[torch.Tensor]) -> list[tuple[int, int, int, tuple[int, ...]]]:
        """Where usual tensors lie; what does not lie in the lease yet is put there."""
        writer = self._writer
        offsets: list[Any] = [writer.offset_of(tensor.data_ptr(), tensor.nbytes) for tensor in tensors]
        if None in offsets:
            pieces = Pieces(writer)
            for tensor in tensors:
                pieces.add(pieces.tensor(tensor, tensor.numel()))
            offsets = [offset for offset, _ in pieces.placed()]
        return [
            (offset, tensor.nbytes, _CODES[tensor.dtype], tuple(tensor.shape))
            for offset, tensor in zip(offsets, tensors, strict=True)
        ]


def _is_usual(tensor: torch.Tensor) -> bool:
    """True if its dtype and shape say all of it."""
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized or not tensor.is_cpu:
        return False
    if tensor.requires_grad or tensor.is_conj() or tensor.is_neg() or not tensor.is_contiguous() or not tensor.nbytes:
        return False
    shape = tensor.shape
    return 1 not in shape or tensor.stride() == _strides(shape)  # a dimension of one has any stride


@functools.lru_cache(64)
def _strides(shape: torch.Size) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, pieces: Pieces, encoder: Encoder) -> None:
        super().__init__(file, protocol=5, buffer_callback=pieces.add)
        self._pieces = pieces
        self._encoder = encoder

    def reducer_override(self, obj: Any) -> Any:
        registered = reducer_of(type(obj))
        if registered is not None:
            return registered(obj)
        if isinstance(obj, torch.Tensor):
            return self._tensor(obj)
        if type(obj) is numpy.ndarray:
            return self._array(obj)
        if isinstance(obj, torch.UntypedStorage):
            return _reduce_storage(obj)
        if isinstance(obj, torch.TypedStorage):
            return rebuild_typed_storage, (torch_private.untyped(obj), obj.dtype)
        if isinstance(obj, type):
            number = self._encoder.numbers.get(obj)
            if number is not None:
                return _known_class, (self._encoder.token, number)
            return NotImplemented
        return _as_by_default(obj)

    def _tensor(self, tensor: torch.Tensor) -> Any:
        if tensor.requires_grad and not tensor.is_leaf:
            raise RuntimeError(
                "a tensor that carries a gradient graph cannot be sent from a worker: "
                "call .detach() on it in the dataset or the collate function"
            )
        if type(tensor) is not torch.Tensor:
            return _reduce_subclass(tensor)
        if tensor.layout in torch_private.SPARSE_PARTS:
            return _reduce_sparse(tensor)
        if not _is_plain(tensor):
            return NotImplemented
        shape, stride = tuple(tensor.shape), tensor.stride()
        code = _CODES[tensor.dtype]
        if tensor.numel() == 0:
            return _empty, (code, shape, stride, tensor.requires_grad)
        contiguous = tensor.is_contiguous()
        span = tensor.numel() if contiguous else 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        buffer = self._pieces.tensor(tensor, span)
        if tensor.requires_grad or not contiguous or 1 in shape:  # a dimension of one has any stride
            return _strided, (buffer, code, shape, stride, tensor.requires_grad)
        return _contiguous, (buffer, code, shape)

    def _array(self, array: numpy.ndarray[Any, Any]) -> Any:
        """As from torch's workers, who pickle by Python's default: with protocol 4, to Python 3.13, an array comes out
        native, writable and contiguous; with protocol 5 as it is, but where numpy has no buffer of it.
        """
        dtype = array.dtype
        if dtype.hasobject or dtype.kind not in _ARRAY_KINDS:
            return NotImplemented
        if pickle.DEFAULT_PROTOCOL > 4:
            reduced: Any = array.__reduce_ex__(5)
            make, (buffer, *how), *_ = reduced
            if type(buffer) is pickle.PickleBuffer:
                return (make, (self._pieces.array(array, dtype, "K"), *how)) if array.flags.writeable else reduced
        if dtype.byteorder not in "=|":
            dtype = dtype.newbyteorder("=")
        order: Literal["C", "F"] = "F" if array.flags.fnc else "C"
        name = dtype if dtype.kind == "V" or dtype.metadata else dtype.str
        if array.nbytes == 0:
            return array.__reduce__()
        return _array, (self._pieces.array(array, dtype, order), name, array.shape, order)


def _as_by_default(obj: Any) -> Any:
    """What its class makes of it for Python's default protocol, by which torch's workers pickle, where it is asked."""
    cls: Any = type(obj)
    if cls.__reduce_ex__ is object.__reduce_ex__:
        return NotImplemented
    return obj.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        tensor.layout is torch.strided
        and tensor.is_cpu
        and not tensor.is_quantized
        and not tensor.is_nested
        and not tensor.is_conj()
        and not tensor.is_neg()
        and all(s >= 0 for s in tensor.stride())
    )


def _reduce_sparse(tensor: torch.Tensor) -> Any:
    """Not by torch's pickling, which keeps a sparse tensor that it rebuilt for ever, to validate it."""
    plain = tensor.detach()
    parts = tuple(torch_private.parts_of(plain))
    coalesced = plain.is_coalesced() if plain.layout is torch.sparse_coo else None
    return _sparse, (plain.layout, parts, tuple(plain.shape), coalesced, tensor.requires_grad)


def _reduce_storage(storage: torch.UntypedStorage) -> Any:
    """As a tensor over all of it, so that other tensors of the batch look into it still."""
    if storage.device.type != "cpu":
        return NotImplemented
    return torch.Tensor.untyped_storage, (torch.empty(0, dtype=torch.uint8).set_(storage),)


def _has_a_way_of_its_own(cls: type) -> bool:
    own = cls.__mro__[: cls.__mro__.index(torch.Tensor)]
    return any(name in vars(base) for base in own for name in _WAYS)


def _reduce_subclass(tensor: torch.Tensor) -> Any:
    """A subclass without a way of its own travels as a plain tensor, its class and its attributes; a parameter without
    these, as with torch's workers.
    """
    cls = type(tensor)
    is_parameter = cls is torch.nn.Parameter
    if not is_parameter and (isinstance(tensor, torch.nn.Parameter) or _has_a_way_of_its_own(cls)):
        return _as_by_default(tensor)
    plain = torch_private.plain_tensor(tensor)
    if not _is_plain(plain) or type(plain) is not torch.Tensor:
        return _as_by_default(tensor)
    if is_parameter:
        return cls, (plain, tensor.requires_grad)
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


def decode(stream: bytes | memoryview, pieces: Sequence[Any], memory: Memory | None) -> Any:
    """Make the batch again; its tensors and arrays are views of ``memory``."""
    if not pieces:
        return pickle.loads(stream)
    if memory is None:
        memory = memoryview(bytearray())  # all pieces are empty
    if stream == ALONE:
        return _piece(pieces[0], memory)
    return pickle.loads(stream, buffers=[_piece(piece, memory) for piece in pieces])


def _piece(piece: Any, memory: Memory) -> Any:
    kind = type(piece)
    if kind is not tuple:
        return piece[:] if kind is list else piece
    if len(piece) == 2:
        start, length = piece
        return memory[start : start + length]
    start, length, code, shape = piece
    dtype = _NUMPYS[code]
    if dtype is not None:
        return torch.from_numpy(numpy.ndarray(shape, dtype, memory[start : start + length]))
    return _contiguous(memory[start : start + length], code, shape)


def _known_class(token: str, number: int) -> type:
    return _tables[token][number]


def _contiguous(buffer: memoryview, code: int, shape: tuple[int, ...]) -> torch.Tensor:
    dtype = _NUMPYS[code]
    if dtype is not None:
        return torch.from_numpy(numpy.ndarray(shape, dtype, buffer))
    # Changed in place, not viewed: a view could not be detached in place, as a tensor of torch's workers can.
    return torch.frombuffer(buffer, dtype=_DTYPES[code]).resize_(shape)


def _strided(
    buffer: memoryview, code: int, shape: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool
) -> torch.Tensor:
    tensor = torch.frombuffer(buffer, dtype=_DTYPES[code]).as_strided_(shape, stride)
    return tensor.requires_grad_() if requires_grad else tensor


def _empty(code: int, shape: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool) -> torch.Tensor:
    return torch.empty_strided(shape, stride, dtype=_DTYPES[code], requires_grad=requires_grad)


def _sparse(
    layout: torch.layout, parts: Any, shape: tuple[int, ...], coalesced: bool | None, requires_grad: bool
) -> torch.Tensor:
    make: Any = torch.sparse_coo_tensor if layout is torch.sparse_coo else torch.sparse_compressed_tensor
    more = {"is_coalesced": coalesced} if layout is torch.sparse_coo else {"layout": layout}
    tensor: torch.Tensor = make(*parts, shape, check_invariants=False, **more)
    return tensor.requires_grad_() if requires_grad else tensor


def _array(buffer: memoryview, dtype: Any, shape: tuple[int, ...], order: Any) -> Any:
    return numpy.ndarray(shape, dtype, buffer, order=order)


def _subclass(plain: torch.Tensor, cls: type, attributes: dict[str, Any], requires_grad: bool) -> torch.Tensor:
    tensor: torch.Tensor = plain.as_subclass(cls)
    tensor.__dict__.update(attributes)
    return tensor.requires_grad_() if requires_grad else tensor
