"""What is to go wrong, read from text: ``kind:key=value,key=value; kind:...``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safeloader.errors import SafeLoaderError, SettingsError
from safeloader.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KINDS", "ChaosError", "Planned", "parse"]

_PLACES = ("loader", "epoch", "batch", "sample", "worker", "times")
KINDS: dict[str, tuple[str, ...]] = {
    "kill": (),
    "exit": ("code",),
    "hang": (),
    "stop": (),
    "slow": ("seconds",),
    "raise": (),
    "nan": (),
    "oom": ("megabytes",),
}
"""The kinds of faults, each with the keys that it alone has."""


class ChaosError(SafeLoaderError):
    """What ``raise`` raises: made on purpose."""

    code = "SL240"


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault that is to happen, when all that is given is so.

    Attributes:
        number: Its place in the text, from 0.
        kind: One of `KINDS`.
        text: As it was written.
        loader: Name of the loader.
        epoch: Epoch of the loader, from 0.
        batch: Batch of the epoch, from 0.
        sample: Dataset index.
        worker: Worker's id.
        times: How often at most; None: always.
        seconds: How long ``slow`` sleeps.
        code: What ``exit`` exits with.
        megabytes: How much ``oom`` takes before it is killed.
    """

    number: int
    kind: str
    text: str
    loader: str | None = None
    epoch: int | None = None
    batch: int | None = None
    sample: int | None = None
    worker: int | None = None
    times: int | None = 1
    seconds: float = 1.0
    code: int = 1
    megabytes: int = 256


def parse(text: str) -> list[Planned]:
    """Read a plan.

    Args:
        text: ``kind:key=value,key=value; kind:...``, as for ``SAFELOADER_CHAOS``.

    Returns:
        Its faults, in order.

    Raises:
        SettingsError: it says nothing, or something that is not known; with the nearest known word.
    """
    faults = [_fault(number, part) for number, part in enumerate(part for part in text.split(";") if part.strip())]
    if not faults:
        raise SettingsError("a plan of faults without a fault", hint=_EXAMPLE)
    return faults


_EXAMPLE = 'for example "kill:batch=12; hang:sample=77; slow:sample=5,seconds=3,times=always"'


def _fault(number: int, part: str) -> Planned:
    kind, _, rest = (word.strip() for word in part.partition(":"))
    if kind not in KINDS:
        raise _unknown("fault", kind, tuple(KINDS), part)
    known = (*_PLACES, *KINDS[kind])
    given: dict[str, Any] = {}
    for pair in (pair.strip() for pair in rest.split(",") if pair.strip()):
        key, equals, value = (word.strip() for word in pair.partition("="))
        if key not in known:
            raise _unknown(f"key of {kind}", key, known, part)
        if key in given or not equals:
            what = "is given twice" if key in given else "has no value"
            raise SettingsError(f"{part.strip()!r}: {key} {what}", hint=_EXAMPLE)
        given[key] = _value(key, value, part)
    return Planned(number=number, kind=kind, text=part.strip(), **given)


def _times(text: str) -> int | None:
    return None if text == "always" else _count(text, least=1)


def _count(text: str, least: int = 0) -> int:
    number = int(text)
    if number < least:
        raise ValueError
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e9:
        raise ValueError
    return number


_READ: dict[str, tuple[Callable[[str], Any], str]] = {
    "loader": (str, "a name"),
    "times": (_times, 'a whole number of times, at least 1, or "always"'),
    "seconds": (_seconds, "a number of seconds, at least 0"),
}


def _value(key: str, text: str, part: str) -> Any:
    read, accepts = _READ.get(key, (_count, "a whole number, at least 0"))
    try:
        return read(text)
    except ValueError:
        raise SettingsError(f"{part.strip()!r}: {key}={text} is not accepted: it must be {accepts}") from None


def _unknown(what: str, word: str, known: tuple[str, ...], part: str) -> SettingsError:
    guess = nearest(word, known)
    return SettingsError(
        f"{part.strip()!r}: {word!r} is no {what}" + (f"; {guess}" if guess else ""),
        hint=f"known are {', '.join(known)}; {_EXAMPLE}",
    )
