"""What the value of a setting may be: each kind reads it from text and checks it as an argument.

A kind knows no names and no sources: it returns the value as it will be used, or raises ValueError. Who asked
turns that into an error that names the setting (`safeloader.config`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from safeloader.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Explained", "Kind", "choice", "count", "faults", "flag", "host_choice", "names", "path", "seconds"]

_YES = ("true", "1", "yes", "on")
_NO = ("false", "0", "no", "off")


class Explained(ValueError):
    """Why a value is not accepted, in words for people."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value.

    Attributes:
        accepts: What is accepted, with its unit, to follow the words "must be".
        check: Returns an argument in its one canonical type, or raises ValueError.
        read: Returns the value that a text stands for, or raises ValueError.
        unit: Unit to print behind a number; "" if there is none.
    """

    accepts: str
    check: Callable[[object], Any]
    read: Callable[[str], Any]
    unit: str = ""


def seconds(*, auto: bool = False) -> Kind:
    """A finite number of seconds above zero, as float; with `auto`, the word ``"auto"`` too."""

    def check(value: object) -> float | str:
        if auto and value == "auto":
            return "auto"
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError("not a number")
        try:
            number = float(value)
        except OverflowError:
            raise ValueError("too large") from None
        if not (math.isfinite(number) and number > 0):
            raise ValueError("out of range")
        return number

    def read(text: str) -> float | str:
        return "auto" if auto and text.lower() == "auto" else check(float(text))

    accepts = "a finite number of seconds greater than 0" + (', or "auto"' if auto else "")
    return Kind(accepts, check, read, "s")


def count(unit: str, *, least: int, optional: bool = False) -> Kind:
    """A whole number of things, at least `least`; with `optional`, None (as text: ``none``) too."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError("not a whole number")
        if value < least:
            raise ValueError("out of range")
        return int(value)

    def read(text: str) -> int | None:
        return None if optional and text.lower() == "none" else check(int(text))

    accepts = f"a whole number of {unit}, at least {least}" + (", or None" if optional else "")
    return Kind(accepts, check, read, unit)


def choice(*words: str, note: str = "") -> Kind:
    """One of a few words. As text, upper and lower case are the same."""
    by_folded = {word.casefold(): word for word in words}

    def check(value: object) -> str:
        if isinstance(value, str) and value in words:
            return str(value)
        raise ValueError(nearest(str(value), words))

    def read(text: str) -> str:
        return check(by_folded.get(text.casefold(), text))

    *most, last = (f'"{word}"' for word in words)
    return Kind(f"{', '.join(most)} or {last}" + (f" ({note})" if note else ""), check, read)


def flag(*, auto: bool = False) -> Kind:
    """True or False. As text: true, 1, yes, on; false, 0, no, off. With `auto`, ``"auto"`` too."""

    def check(value: object) -> bool | str:
        if not isinstance(value, bool) and not (auto and value == "auto"):
            raise ValueError("not a bool")
        return bool(value) if isinstance(value, bool) else "auto"

    def read(text: str) -> bool | str:
        word = text.lower()
        if auto and word == "auto":
            return word
        if word not in _YES + _NO:
            raise ValueError("neither yes nor no")
        return word in _YES

    accepts = "True or False (as text: true, 1, yes, on; false, 0, no, off)"
    return Kind(f'"auto", {accepts}' if auto else accepts, check, read)


def host_choice() -> Kind:
    """Where processes may be: the words ``"local"`` and ``"ray"``, or an object with a `launcher`."""

    def check(value: object) -> Any:
        if value in ("local", "ray") or callable(getattr(value, "launcher", None)):
            return value
        raise ValueError(nearest(str(value), ("local", "ray")))

    return Kind('"local", "ray" or a safeloader.RayHosts', check, lambda text: check(text.lower()))


def names() -> Kind:
    """Names of modules, as a tuple or list of texts. As text, separated by commas."""

    def check(value: object) -> tuple[str, ...]:
        if not isinstance(value, (tuple, list)) or not all(isinstance(name, str) for name in value):
            raise ValueError("not a tuple of names")
        if not all(part.isidentifier() for name in value for part in name.split(".")):
            raise ValueError("not names of modules")
        return tuple(value)

    def read(text: str) -> tuple[str, ...]:
        return check([name.strip() for name in text.split(",") if name.strip()])

    return Kind("names of modules (as text: separated by commas)", check, read)


def path() -> Kind:
    """The path of a file, which is not looked at yet. As text, ``none`` is None."""

    def check(value: object) -> str:
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError("not a path")
        return value

    return Kind("the path of a file, or None", check, _or_none(check))


def faults() -> Kind:
    """A plan of faults, as `safeloader.testing` reads it. As text, ``none`` is None."""

    def check(value: object) -> str:
        from safeloader.fault_plan import parse  # only who plans faults needs it

        if not isinstance(value, str):
            raise ValueError("not a text")
        try:
            parse(value)
        except ValueError as error:
            raise Explained(getattr(error, "what", str(error))) from None
        return value

    return Kind("a plan of faults such as kill:batch=12; hang:sample=77, or None", check, _or_none(check))


def _or_none(check: Callable[[object], str]) -> Callable[[str], str | None]:
    return lambda text: None if text.lower() == "none" else check(text)
