"""torchdata while torch is patched: its ``StatefulDataLoader`` is safeloader's, and what runs processes is named.

``StatefulDataLoader`` derives from torch's loader and replaces nearly all of it. What stands in for it derives from
safeloader's loader first and from torchdata's then: its constructor makes torchdata's samplers, so the order of samples
is torchdata's, and all that loads is safeloader's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.utils.data

from safeloader import import_hooks, unprotected
from safeloader.config import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["begin", "end", "stands_in"]

_MODULES = ("torchdata.stateful_dataloader.stateful_dataloader", "torchdata.stateful_dataloader")
_TORCHS: Any = torch.utils.data.DataLoader
if _TORCHS.__module__ != "torch.utils.data.dataloader":  # this module is imported anew while torch is patched
    _TORCHS = _TORCHS.__mro__[1]
_active = False
_watched = False


def begin(ours: type[Any]) -> None:
    """From now on; also where torchdata is imported later.

    Args:
        ours: safeloader's class of loaders.
    """
    global _active, _watched  # noqa: PLW0603 - one torchdata in a process
    _active = not resolve().disable
    if not _watched:
        _watched = True
        import_hooks.when_imported(_MODULES[0], lambda module: _stand_in(ours, module))
        import_hooks.when_imported("torchdata.nodes.map", _watch_nodes)
    elif _active:
        _names(_stood_in.get("ours"))


def end() -> None:
    """torchdata has its own back."""
    global _active  # noqa: PLW0603
    _active = False
    _names(_stood_in.get("theirs"))


_stood_in: dict[str, Any] = {}


def stands_in(cls: type[Any]) -> bool:
    """Whether safeloader's class is made in place of this one."""
    return cls is _stood_in.get("theirs")


def _stand_in(ours: type[Any], module: Any) -> None:
    theirs = module.StatefulDataLoader
    # Where torch was patched when it was defined, its base is ours, which is to come before it and not behind.
    theirs.__bases__ = tuple(_TORCHS if base is ours else base for base in theirs.__bases__)
    _stood_in.update(theirs=theirs, ours=_class_of(ours, theirs))
    # A name that was imported earlier makes ours, which is initialised as what it is, being a subclass.
    theirs.__new__ = staticmethod(
        lambda cls, *_, **__: object.__new__(_stood_in["ours"] if _active and cls is theirs else cls)
    )
    if _active:
        _names(_stood_in["ours"])


def _names(cls: Any) -> None:
    """Let torchdata's modules have this class under its name; those not imported yet take it from the first."""
    import sys

    for name in _MODULES:
        module = sys.modules.get(name)
        if cls is not None and module is not None and hasattr(module, "StatefulDataLoader"):
            module.StatefulDataLoader = cls  # type: ignore[attr-defined]


def _class_of(ours: type[Any], theirs: type[Any]) -> type[Any]:
    class TorchsWay:
        """Between the two: what safeloader's loader takes from torch's."""

        __iter__ = _TORCHS.__iter__
        _get_iterator = _TORCHS._get_iterator

    def init(self: Any, *given: Any, snapshot_every_n_steps: int | None = 1, **named: Any) -> None:
        ours.__init__(self, *given, snapshot_every_n_steps=snapshot_every_n_steps, **named)
        self.snapshot_every_n_steps = snapshot_every_n_steps  # torchdata's constructor, within, knows its default only

    names = {"__init__": init, "__doc__": theirs.__doc__, "__module__": theirs.__module__}
    return type("StatefulDataLoader", (ours, TorchsWay, theirs), names)


# ---------------------------------------------------------------- torchdata.nodes


def _watch_nodes(module: Any) -> None:
    import_hooks.redirect(module._ParallelMapperIter.__init__, _node_begins)


def _node_begins(make: Callable[..., None], node: Any, *given: Any, **named: Any) -> None:
    make(node, *given, **named)
    if _active and node.method == "process":
        unprotected.note(
            f"torchdata.nodes.ParallelMapper with {node.num_workers} processes",
            'give it method="thread", and iterate the nodes inside of a torch.utils.data.DataLoader, as an '
            "IterableDataset",
        )
