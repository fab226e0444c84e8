"""Faults in the core, as subclasses that override a method. The walks must notice each of them.

A mutant names a class of the core as its base, or, decorated with ``instead_of``, a function. While it is applied, the
core's modules hold the mutant under the base's name. A new one is a class with ``@mutant`` in one of the files here;
mypy checks what it overrides, so a rename that forgets it is an error.
"""

from __future__ import annotations

import contextlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple, TypeVar
from unittest import mock

import safeloader.core
from safeloader.core.books import Books

__all__ = ["MUTANTS", "Mutant", "altered", "instead_of", "mutant", "without"]

T = TypeVar("T")
_CORE = [import_module(f"safeloader.core.{found.name}") for found in pkgutil.iter_modules(safeloader.core.__path__)]


class Mutant(NamedTuple):
    """One fault: ``new`` stands where the core has ``old``."""

    name: str
    old: Any
    new: Any

    @contextlib.contextmanager
    def applied(self) -> Iterator[Any]:
        """The Supervisor class of a core that has this fault, while the context lasts."""
        with contextlib.ExitStack() as stack:
            for module in _CORE:
                for name in [name for name, value in vars(module).items() if value is self.old]:
                    stack.enter_context(mock.patch.object(module, name, self.new))
            yield sys.modules["safeloader.core.supervisor"].Supervisor

    def overridden(self) -> list[str]:
        """What a mutant that is a class overrides."""
        own = vars(self.new) if isinstance(self.new, type) else {}
        return [name for name, value in own.items() if callable(value) or isinstance(value, (property, staticmethod))]


MUTANTS: list[Mutant] = []


def mutant(new: type[T]) -> type[T]:
    """Register a class: it stands for the class of the core that it derives from."""
    old = next(base for base in new.__mro__ if base.__module__.startswith("safeloader.core."))
    MUTANTS.append(Mutant(re.sub(r"(?<!^)(?=[A-Z])", "_", new.__name__).lower(), old, new))
    return new


def instead_of(old: Callable[..., T]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Register a function: it stands for ``old``."""

    def register(new: Callable[..., T]) -> Callable[..., T]:
        MUTANTS.append(Mutant(new.__name__, old, new))
        return new

    return register


@contextlib.contextmanager
def without(method: Any) -> Iterator[None]:
    """This bound method does nothing meanwhile."""
    with mock.patch.object(method.__self__, method.__name__, return_value=None):
        yield


@contextlib.contextmanager
def altered(books: Books, kind: type[T], alter: Callable[[T], T | None]) -> Iterator[None]:
    """Commands of a kind are given meanwhile as ``alter`` returns them, or not at all."""
    before = len(books.out)
    yield
    given: list[Any] = [alter(command) if isinstance(command, kind) else command for command in books.out[before:]]
    books.out[before:] = [command for command in given if command is not None]


for _file in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")
