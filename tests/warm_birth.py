"""What a fork does to be what an interpreter would be that starts with this command line: for ``tests.warm_server`` and
``tests.warm_workers``."""

from __future__ import annotations

import builtins
import ctypes
import os
import sys
import warnings
from importlib.machinery import SourceFileLoader
from types import CodeType
from typing import Any, NamedTuple

__all__ = ["OF_THREADS", "ROOM", "Command", "Program", "called", "interpreter", "parsed"]

Program = tuple[CodeType, dict[str, Any]]
"""What is run, and the names of its ``__main__``."""

ROOM = "-" * 6000
"""An argument of who is forked: room for the command line of the fork."""
OF_THREADS = "OMP_NUM_THREADS"
"""A variable that is read at the start, but can be obeyed later."""
_OWN_MODULES = ("tests", *(f"tests.warm{part}" for part in ("", "_birth", "_server", "_workers")))
_MODULE = "import runpy; runpy._run_module_as_main({!r})"


class Command(NamedTuple):
    """A command line behind the name of the interpreter.

    Attributes:
        warnings: The filters of ``-W``.
        writes: Whether bytecode is written: no ``-B``.
        code: Of ``-c``, or None.
        module: Of ``-m``, or "".
        argv: What is behind the options: a script or a module, and its arguments.
    """

    warnings: list[str]
    writes: bool
    code: str | None
    module: str
    argv: list[str]

    def program(self) -> Program:
        """Be it."""
        sys.dont_write_bytecode = sys.dont_write_bytecode or not self.writes
        names = vars(sys.modules["__main__"])
        sys.argv = list(self.argv)
        if self.code is not None:
            sys.argv[0], sys.path[0] = "-c", ""
            return compile(self.code, "<string>", "exec"), names
        if self.module:
            sys.path[0] = os.getcwd()
            names["__loader__"] = None
            return compile(_MODULE.format(self.module), "<string>", "exec"), names
        path = os.path.abspath(sys.argv[0])
        sys.path[0] = os.path.dirname(os.path.realpath(path))
        names |= {"__file__": path, "__cached__": None, "__loader__": SourceFileLoader("__main__", path)}
        with open(path, "rb") as file:
            return compile(file.read(), path, "exec"), names


def parsed(command: list[str]) -> Command | None:
    """A command line; None where a fork cannot be what it asks for."""
    rest, filters, writes = list(command), [], True
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option == "-W":
            filters.append(rest.pop(0))
        elif option.startswith("-W"):
            filters.append(option[2:])
        elif option == "-m":
            return Command(filters, writes, None, rest[0], rest)
        elif option == "-c":
            return Command(filters, writes, rest[0], "", rest)
        elif option == "-B":
            writes = False
        elif option != "-u":
            return None
    return Command(filters, writes, None, "", rest) if rest else None


def interpreter(environment: dict[str, str], options: list[str], by_python: int) -> dict[str, Any]:
    """What an interpreter that starts finds, before it runs anything.

    Args:
        environment: its variables.
        options: its filters of warnings.
        by_python: so many of the last filters of warnings are there in each interpreter, behind those of ``-W``.

    Returns:
        The names of its ``__main__``.
    """
    os.environ.clear()
    os.environ.update(environment)
    if environment.get(OF_THREADS, "").isdigit():
        sys.modules["torch"].set_num_threads(int(environment[OF_THREADS]))
    sys.warnoptions[:] = options
    by_modules, last = warnings.filters[:-by_python], warnings.filters[-by_python:]
    warnings.resetwarnings()
    warnings._processoptions(options)  # type: ignore[attr-defined]
    warnings.filters[:] = [*by_modules, *warnings.filters, *last]
    names = vars(sys.modules["__main__"])
    names.clear()
    names |= {"__name__": "__main__", "__doc__": None, "__package__": None, "__spec__": None, "__builtins__": builtins}
    for name in _OWN_MODULES:  # without a look at all there are: that would copy a page for each second name
        sys.modules.pop(name, None)
    return names


def called(command: list[str]) -> None:
    """Let the system list this process by its own command line, where there was left room for it."""
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    first, last = int(fields[45]), int(fields[46])
    room = last - first
    if first and room > len(ROOM):
        line = os.fsencode(" ".join(command))[: room - 2]
        ctypes.memset(first, 0, room)
        ctypes.memmove(first, line, len(line))
        ctypes.memset(last - 1, ord("-"), 1)  # else what is behind the line belongs to it
