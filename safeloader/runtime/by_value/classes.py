"""What cloudpickle leaves behind of a class that goes by value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import enum

__all__ = ["born_with", "enum_extras"]


def born_with(cls: type) -> dict[str, Any]:
    """What a class has from its beginning, and cloudpickle sets later or not at all."""
    found: dict[str, Any] = {"__qualname__": cls.__qualname__}
    if "__slots__" in vars(cls) and not issubclass(cls, tuple):  # else its instances would have a dictionary
        found["__slots__"] = vars(cls)["__slots__"]
    return found


def enum_extras(cls: type[enum.Enum]) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Return what cloudpickle leaves behind: the second names of members, and what ``__init__`` gave them."""
    members = cls.__members__
    aliases = {name: member.name for name, member in members.items() if member.name != name}
    attributes = {
        member.name: {name: value for name, value in vars(member).items() if not _of_enum(name)} for member in cls
    }
    return aliases, {name: found for name, found in attributes.items() if found}


def _of_enum(name: str) -> bool:
    return name.startswith("__") or (name.startswith("_") and name.endswith("_"))
