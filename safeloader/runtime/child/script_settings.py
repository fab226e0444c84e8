"""Makes in a process what the main script sets in other modules at its top level (``by_value.script_settings``).

A setting is made as soon as the packages that it names are there: at once, or when somebody imports the last of them.
So no process imports a package for the sake of a setting.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from safeloader.runtime.child.main_script import Script

__all__ = ["make_settings"]

_made: set[str] = set()


def make_settings(script: Script) -> list[str]:
    """Make them. Returns what could not be made, in words."""
    settings, modules = script.settings
    failed: list[str] = []
    for module in modules:
        if module not in sys.modules:
            _try(failed, f"import {module}", functools.partial(importlib.import_module, module))
    for text, names, packages, inside in settings:
        own = any(script.holds(name) for name in names)  # each worker has its own classes and functions of the script
        if text in _made and not own:
            continue
        _made.add(text)
        missing = {package for package in packages if package not in sys.modules}
        if missing:
            _later.wait(missing, functools.partial(_run, script, text, names, inside))
        else:
            _try(failed, text, functools.partial(_run, script, text, names, inside))
    return failed


def _run(script: Script, text: str, names: Sequence[str], modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    script.look_up(names)
    exec(compile(text, script.__dict__.get("__file__", "<main script>"), "exec"), dict(vars(script)))


def _try(failed: list[str], text: str, act: Callable[[], object]) -> None:
    try:
        act()
    except Exception as error:
        line = text.splitlines()[0]
        failed.append(f"what the main script sets by {line!r} fails here ({type(error).__name__}: {error})")


class _Later(importlib.abc.MetaPathFinder):
    """Settings that wait for packages to be imported."""

    def __init__(self) -> None:
        self._waiting: list[tuple[set[str], Callable[[], None]]] = []

    def wait(self, packages: set[str], act: Callable[[], None]) -> None:
        """Act once all of these are there."""
        self._waiting.append((packages, act))
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """A package that is waited for is found as ever, and its loader tells when it is there."""
        if not any(name in packages for packages, _ in self._waiting):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Telling(spec.loader, self)
        return spec

    def arrived(self, name: str) -> None:
        """A package is there."""
        for entry in list(self._waiting):
            entry[0].discard(name)
            if not entry[0] and entry in self._waiting:
                self._waiting.remove(entry)
                _try([], "", entry[1])


class _Telling(importlib.abc.Loader):
    def __init__(self, loader: Any, later: _Later) -> None:
        self._loader = loader
        self._later = later

    def create_module(self, spec: Any) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._later.arrived(module.__name__)


_later = _Later()
