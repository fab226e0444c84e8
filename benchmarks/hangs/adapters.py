"""Adapters: how a loader under test is made from the arguments of torch's DataLoader.

To add a loader, write a function ``make(dataset, *, deadline, **arguments)`` that returns something that
can be iterated once an epoch, and either put an `Adapter` for it in `ADAPTERS`, or name it on the command
line: ``--loaders torch,mymodule:make``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader as TorchDataLoader

Make = Callable[..., Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Adapter:
    """One loader under test.

    Attributes:
        name: As on the command line and in the tables.
        make: ``make(dataset, *, deadline, **arguments of torch's DataLoader)``; ``deadline`` in seconds.
        about: One line for the tables.
        supervises: It acts on a silent worker by itself, so that a scenario may ask for more patience with
        it.
        impatience: Factor on the cap: a loader that waits for ever need not be watched as long as one with
        a deadline.
        module: What must be importable; otherwise its rows are skipped, visibly.
    """

    name: str
    make: Make
    about: str = ""
    supervises: bool = False
    impatience: float = 1.0
    module: str = ""


def torch_loader(dataset: Any, *, deadline: float, **arguments: Any) -> Iterable[Any]:
    """torch's DataLoader, which has no deadline by default."""
    return TorchDataLoader(dataset, **arguments)


def torch_timeout_loader(dataset: Any, *, deadline: float, **arguments: Any) -> Iterable[Any]:
    """torch's DataLoader with a ``timeout`` of twice the deadline, because it covers the start of its workers, too."""
    return TorchDataLoader(dataset, timeout=2 * deadline, **arguments)


def safeloader_loader(dataset: Any, *, deadline: float, **arguments: Any) -> Iterable[Any]:
    """safeloader's DataLoader with the deadline as its ``batch_timeout``."""
    from safeloader import DataLoader, Policy

    return DataLoader(dataset, policy=Policy(batch_timeout=deadline), **arguments)


ADAPTERS = {
    adapter.name: adapter
    for adapter in (
        Adapter("torch", torch_loader, "torch.utils.data.DataLoader", impatience=0.4),
        Adapter("torch-timeout", torch_timeout_loader, "torch.utils.data.DataLoader(timeout=2 * deadline)"),
        Adapter(
            "safeloader",
            safeloader_loader,
            "safeloader.DataLoader(policy=Policy(batch_timeout=deadline))",
            supervises=True,
            module="safeloader.loader",
        ),
    )
}


def adapter(name: str) -> Adapter:
    """The adapter called ``name``, or one made of ``module:function``.

    Raises:
        LookupError: No such adapter, module or function.
    """
    if name in ADAPTERS:
        return ADAPTERS[name]
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as problem:
        known = ", ".join(ADAPTERS)
        raise LookupError(f"no loader {name!r}: neither one of {known}, nor module:function ({problem})") from problem
    return Adapter(name, make, name, supervises=True)


def unusable(candidate: Adapter) -> str | None:
    """Why this adapter cannot run here, or None."""
    if not candidate.module:
        return None
    try:
        importlib.import_module(candidate.module)
    except ImportError as problem:
        return f"{candidate.module} cannot be imported: {problem}"
    return None
