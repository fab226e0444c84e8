"""A user's program as the ``__main__`` module of this process: for ``safeloader run`` and ``safeloader bisect``."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

__all__ = ["ProgramError", "open_program", "source_of"]


class ProgramError(Exception):
    """The program cannot be opened.

    Args:
        text: why.
        missing: there is none of that name.
    """

    def __init__(self, text: str, *, missing: bool) -> None:
        super().__init__(text)
        self.missing = missing


def source_of(program: str, as_module: bool) -> bytes:
    """The text of a program, found without importing anything; empty where a module has none to read.

    Raises:
        ProgramError: there is no such program.
    """
    path = _source_path(program) if as_module else Path(program)
    if path is None:
        return b""
    if not path.is_file():
        raise ProgramError(f"there is no file {program}; for a module write: -m {program}", missing=True)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProgramError(f"{program} cannot be read: {error.strerror}", missing=False) from None


def _source_path(name: str) -> Path | None:
    """Of a module. `importlib.util.find_spec` imports the packages that it is in: they might take long."""
    path = [os.getcwd(), *sys.path[1:]]
    parts = name.split(".")
    try:
        spec = PathFinder.find_spec(parts[0], path) or importlib.util.find_spec(parts[0])
        for depth in range(2, len(parts) + 1):
            inside = spec.submodule_search_locations if spec is not None else None
            spec = PathFinder.find_spec(".".join(parts[:depth]), inside) if inside else None
        if spec is not None and spec.submodule_search_locations is not None:
            spec = PathFinder.find_spec(f"{name}.__main__", spec.submodule_search_locations)
    except (ImportError, ValueError) as error:
        raise ProgramError(f"no module {name}: {error}", missing=True) from None
    if spec is None:
        raise ProgramError(f"no module {name} that can be run", missing=True)
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def open_program(program: str, as_module: bool) -> tuple[types.ModuleType, Any]:
    """The ``__main__`` module that a program is to run in, and its code.

    Raises:
        ProgramError: there is no such program, or it is none.
    """
    return _module(program) if as_module else _script(program)


def _script(program: str) -> tuple[types.ModuleType, Any]:
    path = Path(program)
    try:
        code = compile(source_of(program, False), str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise ProgramError(f"{program} is not a Python program: {error}", missing=False) from None
    sys.path[0] = str(path.resolve().parent)
    return _new_main(str(path), None), code


def _module(name: str) -> tuple[types.ModuleType, Any]:
    sys.path[0] = os.getcwd()
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError) as error:
        raise ProgramError(f"no module {name}: {error}", missing=True) from None
    loader: Any = spec.loader if spec is not None else None
    code = loader.get_code(spec.name) if spec is not None and hasattr(loader, "get_code") else None
    if spec is None or code is None:
        raise ProgramError(f"no module {name} that can be run", missing=True)
    return _new_main(spec.origin, spec), code


def _new_main(file: str | None, spec: ModuleSpec | None) -> types.ModuleType:
    """The module that the program is: what its classes and functions call ``__main__``."""
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=file, __spec__=spec, __builtins__=__builtins__)
    main.__package__ = spec.parent if spec is not None else None
    main.__loader__ = spec.loader if spec is not None else None
    return main
