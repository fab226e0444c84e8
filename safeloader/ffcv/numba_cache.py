"""Compiled code on disk: what numba's own cache needs, to find FFCV's code again in a later process.

numba keeps no code that calls into a library by its address, as all of FFCV's decoders do: here the functions of FFCV's
library have names, which the linker looks up in each process. And it names the compiled parts of a function by random
numbers, so that no later process finds it: here a function's key says what it and its parts are.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Linked", "keep_in", "link_by_name", "named", "njit_kept"]

_FOREIGN = type(ctypes.pythonapi.Py_GetVersion).__mro__[-2]  # what every function of a loaded library is
_PREFIX = "safeloader_ffcv_"
_PLAIN = (bool, int, float, complex, str, bytes, np.generic)
_HERE = "the one at"  # marks what only this process understands
_on_disk = False
_held: list[Any] = []  # what keys name by identity must not be freed, or its number would come again


def keep_in(folder: str) -> None:
    """Keep compiled code in a folder (numba's cache, which notices changed source files) for later processes."""
    global _on_disk  # noqa: PLW0603 - one cache a process
    import numba

    os.makedirs(folder, exist_ok=True)
    numba.config.CACHE_DIR = folder
    _on_disk = True


class Linked:
    """A function of a loaded library: compiled code calls it by name, Python as before.

    Args:
        name: Its name; the same in every process.
        function: The function, with its types of arguments.
    """

    def __init__(self, name: str, function: Any) -> None:
        import llvmlite.binding
        from numba import types as kinds
        from numba.core.typing.ctypes_utils import make_function_type

        self.name, self.function = _PREFIX + name, function
        self.type = kinds.ExternalFunction(self.name, make_function_type(function).sig)
        llvmlite.binding.add_symbol(self.name, ctypes.cast(function, ctypes.c_void_p).value)

    def __call__(self, *arguments: Any) -> Any:
        """Call it from Python."""
        return self.function(*arguments)


def link_by_name() -> None:
    """Put such functions in the place of FFCV's, wherever FFCV has them."""
    from ffcv import libffcv
    from numba.extending import typeof_impl

    typeof_impl.register(Linked)(lambda linked, context: linked.type)
    linked = {name: Linked(name, value) for name, value in vars(libffcv).items() if name.startswith("ctypes_")}
    for name, module in list(sys.modules.items()):
        if name.startswith("ffcv."):
            vars(module).update({known: linked[known] for known in linked if known in vars(module)})


def njit_kept(code: Any, signature: Any, options: dict[str, Any]) -> Any:
    """Compile; with a folder, find it there or put it there, as far as that can be."""
    from numba import njit

    if _on_disk and not _holds_pointers(code):
        try:
            compiled = njit(cache=True, **options)(code)
        except RuntimeError:  # there is no file of source to tell a new version by
            pass
        else:
            _tell_key(compiled, _digest((named(code), repr(sorted(options.items())))))
            if signature is not None:
                compiled.compile(signature)
                compiled.disable_compile()
            return compiled
    return njit(signature, **options)(code)


def _tell_key(compiled: Any, digest: str | None) -> None:
    """numba's key knows neither the options nor, across processes, the compiled parts."""
    if digest is not None:
        compiled._cache._index_key = lambda signature, codegen: (signature, codegen.magic_tuple(), digest)


def _holds_pointers(code: Any) -> bool:
    """Whether a function calls into a library by address; numba cannot keep such code for another process."""
    if any(isinstance(code.__globals__.get(name), _FOREIGN) for name in code.__code__.co_names):
        return True
    parts = [getattr(cell.cell_contents, "py_func", None) for cell in code.__closure__ or ()]
    return any(part is not None and _holds_pointers(part) for part in parts)


def named(value: Any, by_identity: bool = True) -> Any:
    """A key for a function or what it has closed over: equal keys, equal code.

    Args:
        value: The function, or a part of it.
        by_identity: What has no value that can be compared is told by which object it is; else by its type.
    """
    if isinstance(value, types.FunctionType):
        cells = tuple(named(cell.cell_contents, by_identity) for cell in value.__closure__ or ())
        constants = tuple(
            (name, named(value.__globals__[name], by_identity))
            for name in value.__code__.co_names
            if isinstance(value.__globals__.get(name), (*_PLAIN, tuple, np.ndarray))
        )
        return (value.__code__, value.__module__, cells, named(value.__defaults__, by_identity), constants)
    if hasattr(value, "py_func"):  # compiled by numba
        return ("compiled", named(value.py_func, by_identity), repr(sorted(value.targetoptions.items())))
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, tuple):
        return ("tuple", *(named(item, by_identity) for item in value))
    if isinstance(value, type):
        return ("class", value.__module__, value.__qualname__)
    if value is None or isinstance(value, _PLAIN):
        return (type(value).__name__, repr(value))
    if not by_identity:
        return ("some", type(value).__module__, type(value).__qualname__)
    if not any(value is held for held in _held):
        _held.append(value)
    return (_HERE, id(value))


def _digest(key: Any) -> str | None:
    """The same for the same key in every process; None for a key that only this process understands."""
    parts: list[str] = []
    return None if _spell(key, parts.append) else hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _spell(key: Any, say: Callable[[str], None]) -> bool:
    """Say all parts of a key. Returns True if one of them has no meaning elsewhere."""
    if isinstance(key, types.CodeType):
        key = (key.co_code, key.co_names, key.co_varnames, key.co_consts)
    if not isinstance(key, tuple):
        say(repr(sorted(key, key=repr) if isinstance(key, frozenset) else key))
        return False
    say(f"({len(key)}")
    return key[:1] == (_HERE,) or any(_spell(part, say) for part in key)
