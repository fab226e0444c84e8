"""``patch()``: torch's ``DataLoader`` is safeloader's from here on, in a program that nobody edits.

Two things are changed, so that it does not matter which names the program has imported already: the name ``DataLoader``
in torch's modules, from which later code takes and subclasses it; and what torch's class makes when somebody who
imported it earlier calls it.
"""

from __future__ import annotations

from typing import Any

import torch.utils.data
import torch.utils.data.dataloader

from safeloader import codes
from safeloader.loader import DataLoader

__all__ = ["patch", "patched", "unpatch"]

_TORCHS: Any = torch.utils.data.DataLoader
if issubclass(_TORCHS, DataLoader):  # this module is imported anew while torch is patched
    _TORCHS = DataLoader.__mro__[1]
_MODULES: tuple[Any, ...] = (torch.utils.data, torch.utils.data.dataloader)

_active = False


def _new(cls: type, *_: Any, **__: Any) -> Any:
    """In place of ``object.__new__`` in torch's class: what is made is initialised as what it is."""
    return object.__new__(DataLoader if _active and cls is _TORCHS else cls)


def patch() -> None:
    """Make ``torch.utils.data.DataLoader`` safeloader's, for all code of this process, until ``unpatch()``.

    Loaders that exist already stay as they are, and so do subclasses that were defined before; those are named in a
    warning of the logger ``safeloader``. Settings come from the environment (``SAFELOADER_*``). Calling it twice is
    harmless.
    """
    global _active  # noqa: PLW0603 - one torch in a process
    if _active:
        return
    earlier = [cls for cls in _subclasses(_TORCHS) if not issubclass(cls, DataLoader)]
    if earlier:
        codes.log_warning(
            "SL119",
            "patch() came too late for %s: defined before, they keep torch's loading. Call safeloader.patch() before "
            "importing what defines them, or start the program with `safeloader run`",
            ", ".join(f"{cls.__module__}.{cls.__qualname__}" for cls in earlier),
        )
    _active = True
    _TORCHS.__new__ = staticmethod(_new)
    for module in _MODULES:
        module.DataLoader = DataLoader


def unpatch() -> None:
    """Give torch its own ``DataLoader`` back. Loaders made meanwhile stay safeloader's."""
    global _active  # noqa: PLW0603
    # __new__ stays, and does nothing: a class whose __new__ was once set and deleted refuses arguments (CPython 25731).
    _active = False
    for module in _MODULES:
        module.DataLoader = _TORCHS


def patched() -> bool:
    """True between ``patch()`` and ``unpatch()``."""
    return _active


def _subclasses(cls: Any) -> list[Any]:
    found: list[Any] = []
    for sub in cls.__subclasses__():
        found += [sub, *_subclasses(sub)]
    return found
