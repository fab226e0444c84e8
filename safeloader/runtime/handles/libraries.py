"""Shared libraries and their functions, by ctypes: each worker loads the library for itself, since the addresses of one
process mean nothing in another."""

from __future__ import annotations

import ctypes
from typing import Any

from safeloader.runtime.handles.places import refuse

Pickler = Any

_OWN = frozenset({"_name", "_handle", "_FuncPtr"})


def reduce_library(_: Pickler, library: Any) -> Any:
    """With what was set of its functions (``argtypes`` and the like), and attributes that are none."""
    functions, others = {}, {}
    for name, value in vars(library).items():
        if isinstance(value, library._FuncPtr):
            functions[name] = _settings(value)
        elif name not in _OWN:
            others[name] = value
    flags = library._FuncPtr._flags_
    errors = bool(flags & ctypes._FUNCFLAG_USE_ERRNO), bool(flags & ctypes._FUNCFLAG_USE_LASTERROR)  # type: ignore[attr-defined]
    return load_library, (type(library), library._name, *errors, functions, others)


def load_library(cls: Any, name: str | None, errno: bool, last: bool, functions: dict[str, Any], others: Any) -> Any:
    made = cls(name, use_errno=errno, use_last_error=last)
    for function, settings in functions.items():
        _set(getattr(made, function), settings)
    vars(made).update(others)
    return made


def reduce_function(_: Pickler, function: Any) -> Any:
    library = next((found for found in (function._objects or {}).values() if isinstance(found, ctypes.CDLL)), None)
    if library is None:
        refuse("a C function that belongs to no library, or a Python function made one", "make it in the worker")
    return function_of, (
        library,
        function.__name__,
        vars(library).get(function.__name__) is function,
        *_settings(function),
    )


def function_of(library: Any, name: str, kept: bool, *settings: Any) -> Any:
    function = getattr(library, name) if kept else library[name]
    _set(function, settings)
    return function


def _settings(function: Any) -> tuple[Any, Any, Any]:
    return function.argtypes, function.restype, getattr(function, "errcheck", None)


def _set(function: Any, settings: Any) -> None:
    arguments, result, check = settings
    if arguments is not None:
        function.argtypes = arguments
    function.restype = result
    if check is not None:
        function.errcheck = check
