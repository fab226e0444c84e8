"""What a check finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from safeloader.observe.format import inline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Finding", "Verdict", "examine"]

Verdict = Literal["ok", "warn", "bad", "unknown"]


class Finding(NamedTuple):
    """The verdict of one check.

    Attributes:
        check: what was looked at.
        verdict: ``"bad"``: it will stop or starve a run; ``"warn"``: it may, or it hurts torch's own loader;
            ``"unknown"``: it could not be looked at.
        text: what was found.
        hint: what to try; "" if there is nothing to do.
    """

    check: str
    verdict: Verdict
    text: str
    hint: str = ""


def examine(checks: Iterable[tuple[str, Callable[[], Finding]]]) -> Iterator[Finding]:
    """Carry out checks one after the other; one that fails is told as unknown."""
    for name, check in checks:
        try:
            yield check()
        except Exception as error:
            yield Finding(name, "unknown", f"this check failed: {type(error).__name__}: {inline(error)}")
