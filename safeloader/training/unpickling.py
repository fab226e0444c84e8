"""The tensors and plain values of a file that torch.save wrote, whoever wrote it, with nothing of it executed.

``weights_only`` refuses whole models, as Ultralytics saves them. Here a class or function that is not torch's own way
to build a tensor becomes a `Stub`, which only keeps what it is given.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import Counter, OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any

import torch

from safeloader.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Stub", "read_torch"]


class Stub:
    """Stands for an object of a class that is not imported."""

    name = "?"

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """Whatever it is built from."""
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **__: Any) -> None:
        if arguments:
            self.arguments = list(arguments)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = {**(state[0] or {}), **state[1]}
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})

    def __call__(self, *arguments: Any, **_: Any) -> Any:
        """A function's result."""
        return Stub(*arguments)

    def append(self, item: Any) -> None:
        """As a list."""
        self.__dict__.setdefault("items", []).append(item)

    def extend(self, items: Any) -> None:
        """As a list."""
        self.__dict__.setdefault("items", []).extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("entries", {})[key] = value

    def __hash__(self) -> int:
        return id(self)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """As ``torch._utils._rebuild_tensor_v2``."""
    found: torch.Tensor = torch.as_strided(storage, tuple(size), tuple(stride), offset)
    return found


def _parameter(data: Any, *_: Any) -> Any:
    return data


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("collections", "Counter"): Counter,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "Size"): tuple,
    ("builtins", "set"): set,
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("builtins", "int"): int,
    ("builtins", "float"): float,
    ("builtins", "complex"): complex,
}
_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file, encoding="utf-8")
        self._archive, self._root = archive, root
        self._storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """A known one, or a stub."""
        module = {"__builtin__": "builtins"}.get(module, module)  # as Python 2 called it, and protocol 2 still does
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module.startswith("torch") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return type(name.rpartition(".")[2], (Stub,), {"name": f"{module}.{name}", "__module__": "safeloader.stub"})

    def persistent_load(self, pid: Any) -> Any:
        """A storage, as a flat tensor."""
        _, kind, key = pid[:3]
        dtype = kind if isinstance(kind, torch.dtype) else torch.uint8
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._root}/data/{key}"))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]


def read_torch(path: Path) -> Any:
    """The content of a file of torch.save.

    Raises:
        CheckpointError: It is damaged, or no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl") and n.count("/") == 1)
            return _Unpickler(io.BytesIO(archive.read(name)), archive, name.split("/", maxsplit=1)[0]).load()
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, RuntimeError, EOFError, pickle.PickleError) as reason:
        legacy = _legacy(path)
        if legacy is not None:
            return legacy
        raise CheckpointError(f"it is cut off, damaged, or no file of torch.save: {reason}", path=str(path)) from reason
    except Exception as reason:
        raise CheckpointError(f"it cannot be understood: {reason!r}", path=str(path)) from reason


def _legacy(path: Path) -> Any:
    """A file as torch wrote them before 1.6."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return None
