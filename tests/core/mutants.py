"""Faults put into a copy of the core by replacing a piece of its text, for what no override can express.

Prefer an override (``tests/core/mutated``): it survives a change of the text.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import safeloader.core

__all__ = ["MUTANTS", "Mutant"]

_SHARED = ("messages", "state")  # the world speaks the same words
_IN_ORDER = (
    "policy", "leases", "hunt", "records", "shadows", "story", "returning", "progress", "ledger", "fleet", "traffic", "watch",
    "blame", "recovery", "supervisor",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One fault: in ``module``, ``old`` becomes ``new``."""

    name: str
    module: str
    old: str
    new: str

    @contextlib.contextmanager
    def applied(self) -> Iterator[Any]:
        """The Supervisor class of a copy of the core that has this fault."""
        try:
            yield self._supervisor()
        finally:
            self._forget()

    def _supervisor(self) -> Any:
        package = ModuleType(f"mutant_{self.name}")
        package.__path__ = []
        sys.modules[package.__name__] = package
        for name in _SHARED:
            shared = importlib.import_module(f"safeloader.core.{name}")
            sys.modules[f"{package.__name__}.{name}"] = shared
            setattr(package, name, shared)
        for name in _IN_ORDER:
            self._load(package, name)
        return getattr(package, "supervisor").Supervisor

    def _load(self, package: ModuleType, name: str) -> None:
        path = Path(safeloader.core.__path__[0], f"{name}.py")
        text = path.read_text()
        if name == self.module:
            found = text.count(self.old)
            if found != 1:
                raise LookupError(f"{self.name}: found {found} times in {name}.py: {self.old!r}")
            text = text.replace(self.old, self.new)
        module = ModuleType(f"{package.__name__}.{name}")
        module.__package__ = package.__name__
        sys.modules[module.__name__] = module
        setattr(package, name, module)
        exec(compile(text, f"{path} ({self.name})", "exec"), module.__dict__)

    def _forget(self) -> None:
        for name in [n for n in sys.modules if n.split(".")[0] == f"mutant_{self.name}"]:
            del sys.modules[name]
        importlib.invalidate_caches()


MUTANTS: tuple[Mutant, ...] = (
)  # fmt: skip
