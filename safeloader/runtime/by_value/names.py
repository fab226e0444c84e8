"""Find what cannot be carried, and say so: ``dataset.transform.lock (a _thread.lock) cannot be sent ...``.

pickle's own message names a type, never a place. Here the object is taken apart as pickle would take it
apart, and the part that fails is taken apart again, until nothing smaller fails. Halves of the parts are
tried, not single ones, so a search costs a few times what serialising costs, and it has a bound on time and
depth.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from safeloader.errors import NotCarriableError
from safeloader.runtime.by_value.advice import advice_for, describe, is_known
from safeloader.runtime.by_value.kinds import RefusedError
from safeloader.runtime.by_value.parts import Part, parts_of
from safeloader.runtime.by_value.pickler import CarryPickler, handing_over

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MOST_SECONDS = 10.0
_MOST_STEPS = 60


def not_carriable(error: Exception, obj: Any, what: Mapping[str, object] | None, *, inherit: bool) -> NotCarriableError:
    """Build the error that names the part of `obj` on which serialising ended with `error`.

    Args:
        error: What serialising raised.
        obj: What was serialised.
        what: Names of its parts; without them it is called "object".
        inherit: Whether readers may inherit descriptors.
    """
    other = "a worker process" if inherit else "another process"
    deep = next((e for e in (error, error.__cause__) if isinstance(e, RecursionError)), None)
    if deep is not None:
        return NotCarriableError(
            f"this is nested too deeply to be sent to {other}: {deep}",
            hint="hold nodes in a list and link them by index, or raise sys.setrecursionlimit()",
        )
    search = _Search(inherit=inherit)
    for name, root in {**(what or {}), "object": obj}.items():
        culprit = search.descend(name, root)
        if culprit is not None:
            break
    else:
        return NotCarriableError(f"this cannot be sent to {other}: {_in_one_line(error)}")
    path, part, reason = culprit
    subject = f"{path} ({describe(part)})" if search.ended else f"something in {path}"
    return NotCarriableError(
        f"{subject} cannot be sent to {other}: {_in_one_line(reason)}",
        path=path,
        hint=advice_for(part, reason, path),
    )


class _Search:
    """One search; `ended` tells whether it came to the smallest failing part within its bounds."""

    def __init__(self, *, inherit: bool) -> None:
        self.ended = True
        self._inherit = inherit
        self._deadline = time.monotonic() + _MOST_SECONDS
        # Objects on the way down. They are left out of what is tried, or a part that refers back to its owner
        # would fail for its owner's sake. Held, as they are known by id.
        self._ancestors: list[object] = []

    def descend(self, name: str, root: object) -> tuple[str, object, Exception] | None:
        """Return path, part and reason of the smallest failing part of `root`; None if `root` is well."""
        reason = self._failure(root)
        if reason is None:
            return None
        path, part = name, root
        for _ in range(_MOST_STEPS):
            self._ancestors.append(part)
            found = None if is_known(part) else self._first_failing(part)
            if found is None:
                return path, part, reason
            step, part, reason = found
            path += step
        self.ended = False
        return path, part, reason

    def _first_failing(self, whole: object) -> tuple[str, object, Exception] | None:
        parts: Sequence[Part] = ()
        try:
            with self._trial(()) as pickler:
                parts = list(parts_of(pickler, whole))
        except Exception:  # `whole` cannot even be taken apart, so it is the culprit itself
            return None
        # A temporary made by taking apart must outlive its id.
        self._ancestors.append(parts)
        reason = self._failure([part for _, part in parts])
        if reason is None:
            return None
        while len(parts) > 1:
            half = parts[: len(parts) // 2]
            in_half = self._failure([part for _, part in half])
            if time.monotonic() > self._deadline:
                self.ended = False
                return None
            parts = half if in_half else parts[len(half) :]
            reason = in_half or reason
        step, part = parts[0]
        return step, part, self._failure(part) or reason

    def _failure(self, obj: object) -> Exception | None:
        """Try to serialise `obj`; return what that raised."""
        try:
            with self._trial(self._ancestors) as pickler:
                pickler.dump(obj)
        except Exception as error:
            return error
        return None

    @contextmanager
    def _trial(self, left_out: Sequence[object]) -> Iterator[CarryPickler]:
        duplicates: list[int] = []
        pickler = _Trial({id(obj) for obj in left_out}, inherit=self._inherit)
        try:
            with handing_over(duplicates) if self._inherit else nullcontext():
                yield pickler
        finally:
            for descriptor in duplicates:
                os.close(descriptor)


class _Trial(CarryPickler):
    """Serialises into nothing, and leaves out the objects with the given ids."""

    def __init__(self, left_out: set[int], *, inherit: bool) -> None:
        self._left_out = left_out
        super().__init__(_Nowhere(), lambda _: False, inherit=inherit)

    def reducer_override(self, obj: Any) -> Any:
        if id(obj) in self._left_out:
            return int, ()
        return super().reducer_override(obj)


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)


def _in_one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, RefusedError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
