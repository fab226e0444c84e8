"""What the user's own code keeps outside of its objects: in globals of modules, in classes, on functions.

A counter or a cache that a dataset's methods name (``global seen``, ``type(self).seen``, ``read.calls``) belongs to a
module, a class or a function. Installed packages are left out: what they set up lazily is theirs, and a new process
sets it up again.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import sys
import types
from importlib.machinery import EXTENSION_SUFFIXES
from typing import TYPE_CHECKING, Any

from safeloader.runtime.child.reach import names_of_code, walk
from safeloader.runtime.shadow.contents import HIDDEN, MOVES
from safeloader.runtime.user_code import is_foreign

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Namespace", "is_code", "is_installed", "namespaces"]

_MOST = 500
_IN_C: dict[str, tuple[object, frozenset[str]]] = {
    "cv2": (MOVES, frozenset({"randu", "randn", "randShuffle", "setRNGSeed", "theRNG"})),
    "ctypes": (HIDDEN, frozenset({"CDLL", "PyDLL", "cdll", "pydll", "pythonapi", "LibraryLoader"})),
}
"""Names in modules whose state is C's: generators that cannot be read, and libraries of any kind."""
_BY_WORDS = ({"globals"}, {"vars"}, {"sys", "modules"})
"""Code that names these may mean any variable: ``globals()["seen"]``."""
_SCRIPT = ("__main__", "__mp_main__")
_DEEPEST = 3  # modules in modules
_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None)})
_CELL = "cell_contents"
_EMPTY = types.CellType()
_DEFAULTS = ("__defaults__", "__kwdefaults__")
_CODE = (
    type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, staticmethod, classmethod, property,
    types.GetSetDescriptorType, types.MemberDescriptorType, logging.Logger, logging.Handler,
)  # fmt: skip


class Namespace:
    """A module, class or function that holds values of the user's.

    Args:
        holder: the variables of a module; or a class, a function, or a variable that functions of a module share.
        module: to which it belongs.
    """

    def __init__(self, holder: Any, module: str | None = None) -> None:
        self.holder = holder
        self._module = module  # where a class, a function or its variable belongs
        self.names: set[str] = set()  # of a module: those that the user's code uses
        self.whole = False  # ... and it may use any other, by a word that it makes

    @property
    def is_of_script(self) -> bool:
        """True if it belongs to the main script."""
        name = self.holder.get("__name__") if isinstance(self.holder, dict) else self._module
        return name in _SCRIPT

    def read(self) -> dict[str, Any]:
        """Its values by name."""
        if isinstance(self.holder, dict):
            found = {name: self.holder[name] for name in self.names if name in self.holder}
            if self.whole:
                others = {name: value for name, value in self.holder.items() if not name.startswith("__")}
                found |= {name: value for name, value in others.items() if not is_code(value)}
            return found
        if isinstance(self.holder, types.CellType):
            return {} if self.holder == _EMPTY else {_CELL: self.holder.cell_contents}
        found = {name: value for name, value in vars(self.holder).items() if not name.startswith("__")}
        if isinstance(self.holder, types.FunctionType):
            found |= {name: getattr(self.holder, name) for name in _DEFAULTS}
        return found

    def in_c(self) -> Iterator[object]:
        """`HIDDEN` or `MOVES` for what its code names and whose state is C's, so that nobody can read it."""
        for name in self.names:
            value = self.holder.get(name)
            if isinstance(value, types.ModuleType) or (value is None and name in _IN_C):  # imported in a function
                kind, draws = _IN_C.get(name if value is None else value.__name__, (HIDDEN, frozenset()))
                if not draws.isdisjoint(self.names) or (value is not None and _is_users_library(value)):
                    yield kind
            yield from (
                kind
                for module, (kind, draws) in _IN_C.items()
                if name in draws and value is not None and value is getattr(sys.modules.get(module), name, None)
            )

    def put(self, values: dict[str, Any]) -> None:
        """Let its values be these, and no others."""
        now = self.read()
        for name in now.keys() - values.keys():
            self._delete(name)
        for name, value in values.items():
            if name not in now or now[name] is not value:
                self._set(name, value)

    def _set(self, name: str, value: Any) -> None:
        if isinstance(self.holder, dict):
            self.holder[name] = value
        else:
            with contextlib.suppress(AttributeError, TypeError):  # a metaclass that refuses
                setattr(self.holder, name, value)

    def _delete(self, name: str) -> None:
        if isinstance(self.holder, dict):
            self.holder.pop(name, None)
        else:
            with contextlib.suppress(AttributeError, TypeError):
                delattr(self.holder, name)


class _OfPackage(Namespace):
    """A module of an installed package: numbers, words and switches that the user's code names, and so may set."""

    def read(self) -> dict[str, Any]:
        return {name: value for name, value in super().read().items() if type(value) in _PLAIN}

    def in_c(self) -> Iterator[object]:
        return iter(())


def is_code(value: Any) -> bool:
    """True for what holds no data: a module, class, function, descriptor or logger."""
    return isinstance(value, _CODE)


def namespaces(roots: Iterable[Any]) -> list[Namespace]:
    """Those that the code of some objects can reach."""
    found: dict[int, Namespace] = {}
    installed: dict[str, bool] = {}
    for _, value, shared in walk((("", root) for root in roots), most=_MOST):
        if not isinstance(value, (types.FunctionType, type)) or isinstance(value, enum.EnumMeta):
            continue
        module = value.__module__ or ""
        if module not in installed:
            installed[module] = is_installed(module)
        if installed[module]:
            continue
        found[id(value)] = Namespace(value, module)
        if isinstance(value, types.FunctionType):
            _add(found, value.__globals__, set(names_of_code(value.__code__)))
            if shared or _is_at_its_name(value):
                cells = [cell for cell in value.__closure__ or () if cell != _EMPTY and not is_code(cell.cell_contents)]
                found.update((id(cell), Namespace(cell, module)) for cell in cells)
    return list(found.values())


def _is_at_its_name(function: types.FunctionType) -> bool:
    """True for a function that is there once in a process, and not once in each dataset."""
    there: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        there = getattr(there, name, None)
    return there is function


def _add(found: dict[int, Namespace], holder: dict[str, Any], names: set[str]) -> None:
    """The names that a function uses, in its module and in modules of the user's that it names."""
    known = found.setdefault(id(holder), Namespace(holder))
    known.whole |= any(words <= names for words in _BY_WORDS)
    new = {name for name in names - known.names if not name.startswith("__")}
    known.names |= new
    for name in new:
        value = holder.get(name, sys.modules.get(name))  # what a function imports is its own
        if not isinstance(value, types.ModuleType):
            continue
        if is_installed(value.__name__):
            _add_package(found, vars(value), names, _DEEPEST)
        else:
            _add(found, vars(value), names)


def _add_package(found: dict[int, Namespace], holder: dict[str, Any], names: set[str], depth: int) -> None:
    """The same in an installed package, and in those of its modules that are named as well."""
    known = found.setdefault(id(holder), _OfPackage(holder))
    new = {name for name in names - known.names if not name.startswith("__")}
    known.names |= new
    for name in new if depth else ():
        if isinstance(value := holder.get(name), types.ModuleType):
            _add_package(found, vars(value), names, depth - 1)


def _is_users_library(module: types.ModuleType) -> bool:
    file = getattr(module, "__file__", None) or ""
    return file.endswith(tuple(EXTENSION_SUFFIXES)) and not is_foreign(file)


def is_installed(module: str) -> bool:
    """True for a module whose file lies where packages do, and for one without a file."""
    if module in _SCRIPT:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return not file or is_foreign(file)
