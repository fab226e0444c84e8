"""Values that datasets and collate functions return, each made by a function of its own."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import pickle
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from tests.api.parity.describe import describe

__all__ = ["MODES", "VALUES", "WRONG_IN_TORCH", "deliver"]

VALUES: dict[str, Callable[[], Any]] = {}


def _add(**values: Callable[[], Any]) -> None:
    VALUES.update({name.replace("_", " "): make for name, make in values.items()})


# ---------------------------------------------------------------- classes


class Point(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Record:
    image: Any
    label: int = 0


@dataclasses.dataclass(frozen=True)
class FrozenRecord:
    image: Any


class Color(enum.Enum):
    RED = 1


class ReadOnlyMapping(Mapping[str, Any]):
    """A mapping that can be neither copied into nor made from a dict."""

    def __init__(self, first: Any, second: Any) -> None:
        self.pair = (first, second)

    def __getitem__(self, key: str) -> Any:
        return self.pair["ab".index(key)]

    def __iter__(self) -> Iterator[str]:
        return iter("ab")

    def __len__(self) -> int:
        return 2


class NotedDict(dict[str, Any]):
    """A dict with an attribute, which torch's collate keeps."""

    note = "none"


class NotedList(list[Any]):
    note = "none"


class Slotted:
    __slots__ = ("left", "right")

    def __init__(self, left: Any, right: Any) -> None:
        self.left = left
        self.right = right


class Reduced:
    """Has a way of its own through pickle."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> Any:
        return Reduced, (self.tensor + 1,)


class Octets:
    """Goes out of band where pickle's protocol has that, and knows by which it went."""

    def __init__(self, data: bytes | bytearray, protocol: int = 0) -> None:
        self.data = data
        self.protocol = protocol

    def __reduce_ex__(self, protocol: Any) -> Any:
        data = pickle.PickleBuffer(self.data) if protocol >= 5 else bytes(self.data)
        return Octets, (data, protocol)


class Registered:
    """Multiprocessing's pickler knows a way for it that pickle does not."""

    def __init__(self, way: str) -> None:
        self.way = way


def _reduce_registered(_: Registered) -> Any:
    return Registered, ("multiprocessing's",)


ForkingPickler.register(Registered, _reduce_registered)


class ProtocolTensor(torch.Tensor):
    def __reduce_ex__(self, protocol: Any) -> Any:
        return str, (f"by protocol {protocol}",)


class Boxes(torch.Tensor):
    """A subclass with attributes, like torchvision's."""

    note: str


class StatefulTensor(torch.Tensor):
    """A subclass that says itself what it keeps."""

    note: str

    def __getstate__(self) -> dict[str, Any]:
        return {"note": getattr(self, "note", "") + "!"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.note = state["note"]


class NotedArray(np.ndarray[Any, Any]):
    pass


def _noted(tensor: torch.Tensor, cls: Any) -> Any:
    made = tensor.as_subclass(cls)
    made.note = "kept"
    return made


# ---------------------------------------------------------------- tensors


def _of_dtype(dtype: torch.dtype) -> torch.Tensor:
    raw = (torch.arange(96) % (2 if dtype is torch.bool else 60)).to(torch.uint8)
    return raw.view(dtype)


def _can(dtype: torch.dtype) -> bool:
    try:
        _of_dtype(dtype).clone()
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _grid(*shape: int) -> torch.Tensor:
    return torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    _DTYPES = sorted({v for v in vars(torch).values() if isinstance(v, torch.dtype)}, key=str)
    VALUES.update({f"tensor of {str(d)[6:]}": lambda d=d: _of_dtype(d) for d in _DTYPES if _can(d)})  # type: ignore[misc]

_add(
    tensor_0d=lambda: torch.tensor(3.5),
    tensor_empty=lambda: torch.zeros(0),
    tensor_empty_3d=lambda: torch.zeros(2, 0, 3, dtype=torch.int16),
    tensor_empty_transposed=lambda: torch.zeros(2, 0, 3).permute(2, 0, 1),
    tensor_expanded=lambda: torch.ones(1, 3).expand(4, 3),
    tensor_expanded_everywhere=lambda: torch.tensor(2.0).expand(3, 3),
    tensor_transposed=lambda: _grid(3, 4).T,
    tensor_permuted=lambda: _grid(2, 3, 4).permute(2, 0, 1),
    tensor_channels_last=lambda: _grid(2, 3, 4, 5).to(memory_format=torch.channels_last),
    tensor_sliced=lambda: _grid(6, 6)[1::2, 2:5],
    tensor_column=lambda: _grid(30, 7)[:, 3],
    tensor_row_of_one=lambda: _grid(4, 7)[::4],
    tensor_of_ones_in_shape=lambda: _grid(5, 1, 1).expand(5, 1, 1)[::2],
    tensor_overlapping=lambda: _grid(8).as_strided((3, 4), (2, 1)),
    tensor_diagonal=lambda: _grid(5, 5).diagonal(),
    tensor_requiring_grad=lambda: torch.ones(2, 3, requires_grad=True),
    tensor_transposed_requiring_grad=lambda: torch.ones(2, 3).T.requires_grad_(),
    tensor_with_an_attribute=lambda: _noted(_grid(2), torch.Tensor),
    tensor_in_shared_memory=lambda: _grid(3, 2).share_memory_(),  # type: ignore[no-untyped-call]
    tensor_of_numpy=lambda: torch.from_numpy(np.arange(5)),
    tensor_of_readonly_memory=lambda: torch.frombuffer(bytearray(b"abcdefgh"), dtype=torch.uint8)[1:7],
    tensor_detached=lambda: (torch.ones(2, requires_grad=True) * 2).detach(),
    tensor_made_in_inference_mode=lambda: _in_inference_mode(),
    tensor_large=lambda: torch.arange(9 << 20, dtype=torch.int64),
    tensor_shapes=lambda: torch.Size([2, 3]),
    tensor_dtype=lambda: torch.float16,
    tensor_conjugate=lambda: torch.tensor([1 + 2j, 3 - 4j]).conj(),
    tensor_negative=lambda: torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
    tensor_complex_real_part=lambda: torch.tensor([1 + 2j, 3 - 4j]).real,
    parameter=lambda: torch.nn.Parameter(_grid(2, 2)),
    parameter_with_an_attribute=lambda: _noted_container(torch.nn.Parameter(_grid(2, 2))),
    parameter_without_grad=lambda: torch.nn.Parameter(_grid(2, 2).T, requires_grad=False),
    subclass_with_attributes=lambda: _noted(_grid(2, 4), Boxes),
    subclass_transposed=lambda: _noted(_grid(2, 4).T, Boxes),
    subclass_empty=lambda: _noted(torch.zeros(0, 4), Boxes),
    subclass_requiring_grad=lambda: _noted(_grid(2, 4), Boxes).requires_grad_(),
    subclass_with_a_state=lambda: _noted(_grid(3), StatefulTensor),
    subclass_with_a_way_for_each_protocol=lambda: _grid(3).as_subclass(ProtocolTensor),
    subclass_that_wraps_others=lambda: _quietly(
        lambda: torch.masked.masked_tensor(_grid(2), torch.tensor([True, False]))
    ),
    sparse_coo=lambda: torch.eye(3).to_sparse(),
    sparse_coo_uncoalesced=lambda: _sparse([[0, 0]], torch.tensor([1.0, 2.0]), (3,)),
    sparse_with_dense_values=lambda: _sparse([[0, 2]], torch.ones(2, 3), (4, 3)),
    sparse_bsr=lambda: _quietly(lambda: torch.eye(4).to_sparse_bsr((2, 2))),
    sparse_csc=lambda: _quietly(lambda: torch.eye(3).to_sparse_csc()),
    sparse_csr=lambda: _quietly(lambda: torch.eye(3).to_sparse_csr()),
    nested=lambda: _quietly(lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
    quantized=lambda: _quietly(lambda: torch.quantize_per_tensor(_grid(4), 0.5, 3, torch.quint8)),
    views_of_one_tensor=lambda: _views(_grid(6, 4)),
    same_tensor_twice=lambda: [_grid(3)] * 2,
    storage=lambda: _grid(3).untyped_storage(),
    typed_storage=lambda: _quietly(lambda: _grid(3).storage()),
    two_hundred_tensors=lambda: [torch.full((i % 5,), i) for i in range(200)],
)


def _sparse(indices: Any, values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.tensor(indices), values, shape, check_invariants=True)


def _in_inference_mode() -> torch.Tensor:
    with torch.inference_mode():
        return _grid(2, 3) + 1


def _quietly(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def _views(base: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return base, base[2], base[:, 1], base.T, base.view(-1)


# ---------------------------------------------------------------- arrays

_STRUCTURE = np.dtype([("name", "U8"), ("box", "<i4", (2, 2)), ("score", ">f8")])
_CODES = [
    "?",
    "i1",
    "u2",
    "i4",
    "u8",
    "f2",
    "f4",
    "f8",
    "g",
    "F",
    "D",
    ">i4",
    ">f8",
    "S5",
    "U7",
    "M8[s]",
    "m8[ms]",
    "V3",
]


def _array(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(int(np.prod(shape)), dtype=np.float64).reshape(shape)


def _frozen(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


def _frozen_fortran() -> np.ndarray[Any, Any]:
    return _frozen(np.asfortranarray(_array(3, 4)))


def _padded() -> np.ndarray[Any, Any]:
    """Records with bytes between their fields, which a comparison of the memory sees."""
    dtype = np.dtype([("box", ">f4", (2,)), ("flag", "u1")], align=True)
    return np.frombuffer(bytearray(range(7 * dtype.itemsize)), dtype)  # not copied: numpy copies the fields alone


def _memmap() -> Any:
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(range(32)))
        file.flush()
        return np.memmap(file.name, dtype=np.int16, mode="r")


VALUES.update({f"array of {code}": lambda code=code: np.zeros(6, np.dtype(code)) for code in _CODES})  # type: ignore[misc]
_add(
    array_0d=lambda: np.array(1.5),
    array_empty=lambda: np.zeros((0, 3)),
    array_empty_and_nothing_else=lambda: [np.zeros(0), np.zeros((2, 0), np.int8)],
    array_fortran=lambda: np.asfortranarray(_array(3, 4)),
    array_transposed_cube=lambda: _array(2, 3, 4).transpose(2, 0, 1),
    array_sliced=lambda: _array(6, 6)[1::2, 2:5],
    array_backwards=lambda: _array(5)[::-1],
    array_broadcast=lambda: np.broadcast_to(_array(3), (2, 3)),
    array_row_of_one=lambda: _array(4, 7)[::4],
    array_readonly=lambda: _frozen(_array(4)),
    array_readonly_fortran=_frozen_fortran,
    array_readonly_large=lambda: _frozen(_array(1 << 14)),
    array_of_octets=lambda: np.frombuffer(b"abcdefgh", dtype=np.uint8),
    array_big_endian_0d=lambda: np.array(3, dtype=">i2"),
    array_big_endian_empty=lambda: np.zeros((0, 3), dtype=">f4"),
    array_big_endian_sliced=lambda: np.arange(12, dtype=">i4")[::2],
    array_big_endian_dates=lambda: np.array(["2020-01-01"], dtype=">M8[D]"),
    array_big_endian_matrix=lambda: _quietly(lambda: np.matrix([[1, 2]], dtype=">i4")),
    array_permuted=lambda: _array(2, 3, 4, 5).transpose(0, 2, 3, 1),
    array_permuted_row_of_one=lambda: _array(1, 3, 4).transpose(2, 0, 1),
    array_of_a_dtype_with_metadata=lambda: np.zeros(2, np.dtype("i4", metadata={"unit": "m"})),
    array_padded=_padded,
    array_padded_twice=lambda: [_padded(), {"again": _padded()}],
    array_of_objects=lambda: np.array([1, "two", None, (3,)], dtype=object),
    array_of_structures=lambda: np.zeros(2, _STRUCTURE),
    array_of_a_subclass=lambda: _array(2, 2).view(NotedArray),
    array_record=lambda: np.rec.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f4")]),
    array_matrix=lambda: _quietly(lambda: np.matrix([[1, 2], [3, 4]])),
    array_memmap=_memmap,
    array_large=lambda: _array(1 << 18),
    scalar_float=lambda: np.float32(1.25),
    scalar_int=lambda: np.int64(-3),
    scalar_bool=lambda: np.bool_(True),
    scalar_string=lambda: np.str_("abc"),
    scalar_date=lambda: np.datetime64("2024-02-29"),
)

# ---------------------------------------------------------------- everything else


def _deep(depth: int) -> Any:
    value: Any = _grid(2)
    for number in range(depth):
        value = [value] if number % 2 else {"deeper": value}
    return value


def _noted_container(container: Any) -> Any:
    container.note = "kept"
    return container


_add(
    nothing=lambda: None,
    truth=lambda: True,
    number=lambda: 7,
    large_number=lambda: 10**40,
    real=lambda: 0.1,
    infinities=lambda: [float("inf"), float("-inf")],
    complex_number=lambda: 1 + 2j,
    text=lambda: "a photograph of a cat",
    text_of_the_world=lambda: "naïve 図 🖼 \udce4",
    huge_text=lambda: "sentence " * 700_000,
    text_longer_than_a_message=lambda: "x" * 5_000,
    octets=lambda: b"\x00\xff",
    huge_octets=lambda: bytes(range(256)) * 20_000,
    mutable_octets=lambda: bytearray(b"abc") * 3_000,
    octets_of_a_class=lambda: [Octets(b"abc"), Octets(bytearray(b"abc")), Octets(bytearray(b"abc") * 3_000)],
    empty_list=list,
    empty_dict=dict,
    a_tuple=lambda: (1, _grid(2), "x"),
    nested_tuples=lambda: ((1, (_grid(2), (2.5,))), [(_array(2),)]),
    a_list=lambda: [1, 2, 3],
    a_set=lambda: {3, 1, 2},
    a_frozenset=lambda: frozenset("ab"),
    a_range=lambda: range(3),
    a_slice=lambda: slice(1, 2),
    a_deque=lambda: collections.deque([1, _grid(2)], maxlen=4),
    a_dict=lambda: {"image": _grid(2, 2), "label": 3, 5: "five"},
    ordered=lambda: collections.OrderedDict([("b", 1), ("a", _grid(1))]),
    counted=lambda: collections.Counter("abca"),
    with_default=lambda: collections.defaultdict(list, {"a": [1]}),
    own_mapping=lambda: ReadOnlyMapping(1, _grid(2)),
    dict_with_a_note=lambda: _noted_container(NotedDict(x=_grid(2))),
    list_with_a_note=lambda: _noted_container(NotedList([_grid(2), 1])),
    named_tuple=lambda: Point(_grid(2), _array(2)),
    record=lambda: Record(_grid(3), 4),
    frozen_record=lambda: FrozenRecord(_array(3)),
    slotted=lambda: Slotted(_grid(2), "right"),
    reduced=lambda: Reduced(_grid(2)),
    registered=lambda: [Registered("its own"), Registered("its own")],
    member_of_an_enum=lambda: Color.RED,
    path=lambda: pathlib.PurePosixPath("images/cat.jpg"),
    moment=lambda: datetime.datetime(2024, 2, 29, 12),
    exact=lambda: decimal.Decimal("0.10"),
    identity=lambda: uuid.UUID(int=5),
    an_error=lambda: ValueError("not raised"),
    a_class=lambda: Record,
    a_function=lambda: _deep,
    deep=lambda: _deep(60),
    mixed=lambda: {"a": (_grid(2).T, [_array(3)[::2], {"b": b"x", "c": None}]), "d": _of_dtype(torch.bfloat16)},
)

try:
    from PIL import Image
except ImportError:
    pass
else:
    _add(
        picture=lambda: Image.fromarray(np.arange(75, dtype=np.uint8).reshape(5, 5, 3)),
        grey_picture=lambda: Image.new("L", (4, 3), 7),
        palette_picture=lambda: Image.new("P", (4, 3), 2),
    )

WRONG_IN_TORCH = {
    "tensor conjugate": "torch's workers lose the conjugate bit",
    "tensor negative": "torch's workers lose the negative bit",
    "subclass requiring grad": "torch's workers make a tensor of it that is no leaf",
    "quantized": "torch's workers lose the scale and the zero point",
}
"""Values that come out of torch's own workers as others than went in; safeloader delivers what went in."""

# ---------------------------------------------------------------- delivering


class _Each(Dataset[Any]):
    """Each value ``repeats`` times in a row, always made anew."""

    def __init__(self, names: list[str], repeats: int) -> None:
        self.names = names
        self.repeats = repeats

    def __len__(self) -> int:
        return len(self.names) * self.repeats

    def __getitem__(self, index: int) -> Any:
        return VALUES[self.names[index // self.repeats]]()


def as_it_is(value: Any) -> Any:
    return value


MODES: dict[str, dict[str, Any]] = {
    "as it is": {"batch_size": None, "collate_fn": as_it_is},
    "converted": {"batch_size": None},
    "collated": {"batch_size": 2},
}


def deliver(mode: str, names: list[str], loader_class: Any, **more: Any) -> dict[str, Any]:
    """What a loader with one worker makes of each value: its description, or the error."""
    options = MODES[mode]
    loader = loader_class(_Each(names, options["batch_size"] or 1), num_workers=1, **options, **more)
    batches = iter(loader)
    seen: dict[str, Any] = {}
    for name in names:
        try:
            seen[name] = describe(next(batches))
        except Exception as error:
            line = str(error).strip().splitlines()[-1]
            seen[name] = ("error", type(error).__name__, line.removeprefix(f"{type(error).__name__}: "))
    return seen
