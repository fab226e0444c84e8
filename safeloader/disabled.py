"""Under ``SAFELOADER_DISABLE`` a loader does not have what torch's does not have: frameworks ask for it, and use it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from safeloader.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NO_STATE", "anew", "without"]

NO_STATE = "SAFELOADER_DISABLE leaves torch's plain loader, which has no state"


class HiddenStateError(StateError, AttributeError):
    """The attribute is not there; for who asks without looking first, why."""


def anew(cls: type[Any]) -> Any:
    """An object of this class, for its state to be put into; with state where safeloader is not disabled."""
    made: Any = cls
    return made.__new__(made)


@functools.cache
def without(names: frozenset[str], cls: type[Any]) -> type[Any]:
    """A class like this one, without these methods.

    ``hasattr`` does not find them, and neither does ``isinstance(loader, Stateful)``, which looks into classes.
    """

    def __getattribute__(self: Any, name: str) -> Any:
        if name in names:
            raise HiddenStateError(NO_STATE, hint="unset it")
        return super(made, self).__getattribute__(name)

    def __reduce_ex__(self: Any, protocol: Any) -> tuple[Callable[..., Any], tuple[Any, ...], Any]:
        return anew, (cls,), self.__getstate__()

    # None in a class says to a protocol that it has no such method.
    own = {"__getattribute__": __getattribute__, "__reduce_ex__": __reduce_ex__, **dict.fromkeys(names)}
    same = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    made: type[Any] = type(cls.__name__, (cls,), {**own, **same, "_plain": cls})
    return made
