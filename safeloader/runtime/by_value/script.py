"""The trainer's ``__main__``, as far as a worker may look it up: described once, when iteration begins.

No process runs the main script, but for what it sets in other modules (`script_settings`). But pickles on a disk name
its classes, and code asks it for its file, its functions and its constants. So each of its names goes into a table,
serialised for itself: classes and functions by value, what can be imported by name, plain values as they are. A process
makes of it what is looked up, when it is (``script`` one level up). What is large, or lives (a model, a loader, an open
file), stays here, and the table says so.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import pickle
import sys
import types
from typing import TYPE_CHECKING, Any

from safeloader.runtime.by_value.pickler import CarryPickler
from safeloader.runtime.by_value.rebuild import script_globals
from safeloader.runtime.by_value.script_settings import settings_of_script
from safeloader.runtime.user_code import module_of, package_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["describe"]

_MOST = 1 << 18  # bytes of one name
_MOST_IN_ALL = 1 << 22
_LARGE = 1 << 16  # bytes of one buffer: it is not even copied
_ATTRIBUTES = ("__name__", "__file__", "__package__", "__doc__", "__cached__")
_HOMES = frozenset(
    {"argparse", "builtins", "collections", "datetime", "decimal", "fractions", "pathlib", "re", "types", "uuid"}
)
_EXACT = ("torch", "numpy")
"""Modules whose instances are values: with all below them, or themselves."""


def describe(known: Sequence[type]) -> bytes:
    """The table and what ``__main__`` says of itself, pickled.

    Args:
        known: Classes that went with the dataset: they go by number, and are the same ones there.
    """
    main = sys.modules["__main__"]
    names = list(vars(main).items())
    table: dict[str, tuple[Any, ...]] = {}
    left = _MOST_IN_ALL
    for name, value in names:
        if name.startswith("__") and name.endswith("__"):
            continue
        table[name] = entry = _entry(name, value, main, known, left)
        left -= len(entry[1]) if entry[0] == "value" else 0
    spec = getattr(main, "__spec__", None)
    said = {name: value for name in _ATTRIBUTES if type(value := vars(main).get(name)) is str}
    aliases = [name for name in ("__main__", "__mp_main__") if sys.modules.get(name) is main]
    settings = settings_of_script(main)
    return pickle.dumps((said, spec and (spec.name, spec.origin), aliases, table, settings), protocol=5)


def _entry(name: str, value: Any, main: types.ModuleType, known: Sequence[type], left: int) -> tuple[Any, ...]:
    """``("name", module, qualified name)``, ``("value", bytes, names that it needs)`` or ``("here", why)``."""
    if isinstance(value, types.ModuleType):
        found = sys.modules.get(value.__name__) is value
        return ("name", value.__name__, "") if found else ("here", "it is a module that cannot be imported by its name")
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)) and not _of(value, main):
        return _by_name(value)
    if not _is_plain(value, main):
        return "here", f"it is an object of {type(value).__module__}.{type(value).__qualname__}"
    file = _Limited(min(left, _MOST))
    pickler = _ScriptPickler(file, main, known)
    try:
        pickler.dump(value)
    except _TooLarge:
        return "here", "it is too large"
    except Exception as error:
        return "here", f"it cannot be serialised: {type(error).__name__}: {error}"
    return "value", file.getvalue(), sorted(pickler.needs - {name})


def _of(value: Any, main: types.ModuleType) -> bool:
    return getattr(value, "__module__", None) in ("__main__", main.__name__)


def _by_name(value: Any) -> tuple[Any, ...]:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    return ("name", module, name) if found is value else ("here", "it cannot be imported by its name")


def _is_plain(value: Any, main: types.ModuleType) -> bool:
    kind = type(value)
    if isinstance(value, (type, types.FunctionType, enum.Enum)):
        return True
    if dataclasses.is_dataclass(value) and _of(kind, main):
        return True
    return module_of(kind) in _EXACT or package_of(kind) in _HOMES


class _TooLarge(Exception):
    """More than may go."""


class _Limited(io.BytesIO):
    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._most:
            raise _TooLarge
        return super().write(data)


class _Globals(dict):  # type: ignore[type-arg]
    """Stands for the namespace of the script in the process."""

    def __reduce__(self) -> Any:
        return script_globals, ()


class _ScriptPickler(CarryPickler):
    """Serialises one value of the script. Functions find their globals in the script's namespace over there.

    Attributes:
        needs: Names that have to be there before this one is used.
    """

    def __init__(self, file: Any, main: types.ModuleType, known: Sequence[type]) -> None:
        super().__init__(file, _refuse_large, inherit=False, known=known)
        self.needs: set[str] = set()
        self._namespace = vars(main)
        self._globals = _Globals()

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if type(obj) is not types.FunctionType or obj.__globals__ is not self._namespace:
            return reduced
        if not isinstance(reduced, tuple):
            return reduced
        make, (code, _, *args), (attributes, slots), *rest = reduced
        self.needs |= slots["__globals__"].keys()
        slots["__globals__"], slots["_cloudpickle_submodules"] = {}, []
        return make, (code, self._globals, *args), (attributes, slots), *rest


def _refuse_large(buffer: pickle.PickleBuffer) -> bool:
    if buffer.raw().nbytes > _LARGE:
        raise _TooLarge
    return True
