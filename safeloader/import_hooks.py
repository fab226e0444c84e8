"""Does something to a module of another package as soon as it is imported, and to a function of it wherever it is held.

Frameworks build loaders in functions of their own. They may be imported before safeloader or after it, and a program
may hold such a function by a name of its own. So a module is attended to when it is imported, or at once, and a
function is changed in itself: whoever holds it calls what it became.
"""

from __future__ import annotations

import functools
import importlib.abc
import sys
import types
from typing import TYPE_CHECKING, Any

from safeloader import codes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec

__all__ = ["redirect", "when_imported"]


_TARGET = "_safeloader_redirected_{}"


def when_imported(name: str, do: Callable[[Any], None]) -> None:
    """Call a function with a module: now if it is there, else when somebody imports it."""
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        _attend(name, module, [do])
        return
    _finder.waiting.setdefault(name, []).append(do)
    if not any(finder is _finder for finder in sys.meta_path):
        sys.meta_path.insert(0, _finder)


def redirect(function: types.FunctionType, instead: Callable[..., Any]) -> None:
    """Let a function call ``instead(original, *args, **kwargs)`` from now on, by whatever name it is held.

    Raises:
        TypeError: the function holds variables of an outer function, so that its code cannot be changed.
    """
    if function.__closure__:
        raise TypeError(f"{function.__qualname__} is a closure")
    original = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, None
    )  # fmt: skip
    original.__kwdefaults__ = function.__kwdefaults__
    original.__dict__.update(function.__dict__)
    original.__annotations__, original.__module__ = function.__annotations__, function.__module__
    original.__doc__, original.__qualname__ = function.__doc__, function.__qualname__
    name = _TARGET.format(f"{id(function):x}")
    function.__globals__[name] = functools.partial(instead, original)
    scope: dict[str, Any] = {}
    exec(f"def through(*args, **kwargs):\n    return {name}(*args, **kwargs)\n", scope)
    function.__code__ = scope["through"].__code__.replace(
        co_filename=function.__code__.co_filename, co_firstlineno=function.__code__.co_firstlineno,
        co_name=function.__name__,
    )  # fmt: skip
    function.__defaults__ = function.__kwdefaults__ = None
    function.__wrapped__ = original  # type: ignore[attr-defined] # for inspect.signature


def _attend(name: str, module: Any, hooks: Sequence[Callable[[Any], None]]) -> None:
    for do in hooks:
        try:
            do(module)
        except Exception:  # another version of it: its import must not fail for that
            codes.log_warning(
                "SL122", "safeloader cannot attend to %s: is this version of it supported?", name, exc_info=True
            )


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself; puts a word in where a module is found that somebody waits for."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Callable[[Any], None]]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.waiting:
            return None
        for finder in [finder for finder in sys.meta_path if finder is not self]:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Telling(spec.loader, self.waiting.pop(fullname))
                return spec
        return None


class _Telling(importlib.abc.Loader):
    """A module's own loader, which tells when the module is there."""

    def __init__(self, loader: Any, hooks: list[Callable[[Any], None]]) -> None:
        self._loader = loader
        self._hooks = hooks

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _attend(module.__name__, module, self._hooks)


_finder = _Finder()
