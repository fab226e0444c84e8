"""``patch()``: torch's ``DataLoader`` is safeloader's from here on, in a program that nobody edits.

It does not matter which names the program has imported already. Changed are the name ``DataLoader`` in torch's modules,
from which later code takes and subclasses it; what torch's class makes when somebody who imported it earlier calls it;
torch's multiprocess iterator, for whoever makes that himself (`safeloader.takeover`); and torchdata's
``StatefulDataLoader`` (`safeloader.stateful`).
"""

from __future__ import annotations

from typing import Any

import torch.utils.data
import torch.utils.data.dataloader

from safeloader import codes, stateful, takeover
from safeloader.loader import DataLoader

__all__ = ["patch", "patched", "unpatch"]

_TORCHS: Any = torch.utils.data.DataLoader
if issubclass(_TORCHS, DataLoader):  # this module is imported anew while torch is patched
    _TORCHS = DataLoader.__mro__[1]
_MODULES: tuple[Any, ...] = (torch.utils.data, torch.utils.data.dataloader)

_active = False


def _new(cls: type, *_: Any, **__: Any) -> Any:
    """In place of ``object.__new__`` in torch's class: what is made is initialised as what it is."""
    return DataLoader.__new__(DataLoader) if _active and cls is _TORCHS else object.__new__(cls)


def patch() -> None:
    """Make ``torch.utils.data.DataLoader`` safeloader's, for all code of this process, until ``unpatch()``.

    Loaders that exist already, and subclasses that were defined before, get their batches from safeloader's processes,
    too, but none of its methods; such subclasses are named in a warning of the logger ``safeloader``. So is, once,
    whatever runs processes of its own that nobody replaces. torchdata's ``StatefulDataLoader`` is safeloader's as well.
    Settings come from the environment (``SAFELOADER_*``). Calling it twice is harmless.
    """
    global _active  # noqa: PLW0603 - one torch in a process
    if _active:
        return
    _active = True
    takeover.begin()
    stateful.begin(DataLoader)
    earlier = [cls for cls in _subclasses(_TORCHS) if not issubclass(cls, DataLoader) and not stateful.stands_in(cls)]
    if earlier:
        codes.log_warning(
            "SL119",
            "patch() came too late for %s: defined before, they have no state_dict, policy or report of safeloader's; "
            "their batches are protected unless a line says otherwise. Call safeloader.patch() before importing what "
            "defines them, or start the program with `safeloader run`",
            ", ".join(f"{cls.__module__}.{cls.__qualname__}" for cls in earlier),
        )
    _TORCHS.__new__ = staticmethod(_new)
    for module in _MODULES:
        module.DataLoader = DataLoader


def unpatch() -> None:
    """Give torch its own ``DataLoader`` back. Loaders made meanwhile stay safeloader's."""
    global _active  # noqa: PLW0603
    # __new__ stays, and does nothing: a class whose __new__ was once set and deleted refuses arguments (CPython 25731).
    _active = False
    takeover.end()
    stateful.end()
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
