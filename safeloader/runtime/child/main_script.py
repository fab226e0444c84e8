"""``__main__`` in a process: the trainer's main script, without running it.

Each worker has its own, in ``sys.modules`` while it works. What its names are is in a table that came with the dataset
(``carry.script``); each is made when somebody looks it up, so that nobody imports what nobody asks for.
"""

from __future__ import annotations

import importlib
import pickle
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from safeloader.runtime import by_value

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Script", "never_run_it"]


class Script(ModuleType):
    """The main script, as far as it was described.

    Args:
        described: By the trainer.

    Attributes:
        classes: Those that came with the worker's dataset; they are the script's, too.
        settings: What it sets in other modules, and modules that do so.
    """

    __slots__ = ("_aliases", "_classes", "_lock", "_table", "settings")

    def __init__(self, described: bytes) -> None:
        said, spec, self._aliases, self._table, self.settings = pickle.loads(described)
        super().__init__(said.get("__name__", "__main__"))
        self._classes: Sequence[type] = ()
        self._lock = threading.RLock()
        vars(self).update(said, __builtins__=__builtins__)
        if spec is not None:
            self.__spec__ = ModuleSpec(spec[0], None, origin=spec[1])

    def be_main(self) -> None:
        """Be the one that is found."""
        for name in self._aliases:
            sys.modules[name] = self

    def know(self, classes: Sequence[type]) -> None:
        """These came with the dataset, so they are what the script calls by their names."""
        self._classes = classes
        for cls in classes:
            if cls.__module__ in self._aliases and self._table.get(cls.__qualname__, ("",))[0] == "value":
                vars(self).setdefault(cls.__qualname__, cls)

    def holds(self, name: str) -> bool:
        """True for a name whose value is the script's own, not something that is imported."""
        return bool(self._table.get(name, ("",))[0] == "value")

    def look_up(self, names: Sequence[str]) -> None:
        """Make what these names are, as far as the script has them.

        Raises:
            AttributeError: one of them stays in the trainer.
        """
        for name in names:
            if name in self._table:
                getattr(self, name)

    def __getattr__(self, name: str) -> Any:
        entry = self._table.get(name)
        if entry is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if entry[0] == "here":
            raise AttributeError(f"{name!r} of the main script stays in the trainer: {entry[1]}")
        with self._lock:
            return self._made(name, entry)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *(name for name, entry in self._table.items() if entry[0] != "here")})

    def _made(self, name: str, entry: tuple[Any, ...]) -> Any:
        names = vars(self)
        if name in names:
            return names[name]
        if entry[0] == "name":
            value = importlib.import_module(entry[1])
            for part in entry[2].split(".") if entry[2] else ():
                value = getattr(value, part)
        else:
            value = by_value.loads(entry[1], self._classes, script=names)
        names[name] = value
        for other in entry[2] if entry[0] == "value" else ():
            needed = self._table.get(other)
            if needed is not None and needed[0] != "here":
                self._made(other, needed)
        return value


def never_run_it() -> None:
    """Let processes that a worker starts through multiprocessing not import the script: it may have no main guard."""
    from multiprocessing import spawn

    prepared: Any = spawn.get_preparation_data

    def without_main(name: str) -> Any:
        data = prepared(name)
        for key in ("init_main_from_name", "init_main_from_path"):
            data.pop(key, None)
        return data

    spawn.get_preparation_data = without_main
