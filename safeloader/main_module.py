"""A user's program as the ``__main__`` module of this process: for ``safeloader run`` and ``safeloader bisect``."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

__all__ = ["ProgramError", "open_program"]


class ProgramError(Exception):
    """The program cannot be opened.

    Args:
        text: why.
        missing: there is none of that name.
    """

    def __init__(self, text: str, *, missing: bool) -> None:
        super().__init__(text)
        self.missing = missing


def open_program(program: str, as_module: bool) -> tuple[types.ModuleType, Any]:
    """The ``__main__`` module that a program is to run in, and its code.

    Raises:
        ProgramError: there is no such program, or it is none.
    """
    return _module(program) if as_module else _script(program)


def _script(program: str) -> tuple[types.ModuleType, Any]:
    path = Path(program)
    if not path.is_file():
        raise ProgramError(f"there is no file {program}; for a module write: safeloader run -m {program}", missing=True)
    try:
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
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
