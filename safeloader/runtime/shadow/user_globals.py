"""What the user's own code keeps outside of its objects: in globals of modules, in classes, on functions.

A counter or a cache that a dataset's methods name (``global seen``, ``type(self).seen``, ``read.calls``) belongs to a
module, a class or a function. Installed packages are left out: what they set up lazily is theirs, and a new process
sets it up again.
"""

from __future__ import annotations

import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

from safeloader.runtime.child.reach import names_of_code, walk

__all__ = ["UserGlobals"]

_INSTALLED = tuple(
    str(Path(path).resolve()) + "/" for name in ("purelib", "platlib", "stdlib") if (path := sysconfig.get_path(name))
)
_MOST = 500


class UserGlobals:
    """Those that the code of some objects can reach.

    Args:
        roots: the objects.
    """

    def __init__(self, roots: Any) -> None:
        self._places: dict[tuple[int, str], tuple[Any, str]] = {}
        self._functions: list[types.FunctionType] = []
        owns: dict[str, bool] = {}
        for _, value, _ in walk([("", roots)], most=_MOST):
            if not isinstance(value, (types.FunctionType, type)):
                continue
            module = value.__module__ or ""
            if module not in owns:
                owns[module] = _is_the_users(module)
            if not owns[module]:
                continue
            if isinstance(value, types.FunctionType):
                self._functions.append(value)
                for name in names_of_code(value.__code__):
                    self._places[id(value.__globals__), name] = (value.__globals__, name)
            else:
                for name in vars(value):
                    self._places[id(value), name] = (value, name)

    def values(self) -> list[Any]:
        """What is there now, None where nothing is; without modules, classes, functions and what Python keeps."""
        found = [self._value(holder, name) for holder, name in self._places.values()]
        return found + [(one.__defaults__, one.__kwdefaults__, vars(one)) for one in self._functions]

    @staticmethod
    def _value(holder: Any, name: str) -> Any:
        value = (holder if isinstance(holder, dict) else vars(holder)).get(name)
        return None if name.startswith("__") or isinstance(value, _CODE) else value


_CODE = (
    type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, staticmethod, classmethod, property,
    types.GetSetDescriptorType, types.MemberDescriptorType,
)  # fmt: skip


def _is_the_users(name: str) -> bool:
    """False for what is installed: its file lies where packages do, or it has none."""
    if name in ("__main__", "__mp_main__"):
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return bool(file) and not str(Path(file).resolve()).startswith(_INSTALLED)
