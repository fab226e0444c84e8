"""A worker in the trainer, isolated both ways: its own ambient state while it is in, the trainer's when it is out.

::

    trainer's state ──read──▶ kept ─────────────────────────────────────────▶ put back
                              worker's view ──put──▶ sample ──read──▶ worker's view

The states are one table (``torch_states``, ``python_states``, ``system_states``). Context variables are kept by a
context of each worker, which is empty at first, as a new process's. What differs is set; the rest costs a comparison.
"""

from __future__ import annotations

import contextvars
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from safeloader import torch_ambient
from safeloader.runtime.isolation.guards import Guards, Irreversible
from safeloader.runtime.isolation.python_states import python_states
from safeloader.runtime.isolation.system_states import system_states
from safeloader.runtime.isolation.torch_states import torch_states

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.runtime.isolation.state import Surrounding

__all__ = ["Ambient", "View"]

T = TypeVar("T")


class _Follows:
    """In a worker's view: as in the trainer. It equals everything, so that whole views can be compared."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__


_FOLLOWS: Any = _Follows()
_PATIENCE = 100  # interrupts while the trainer's states are put back


@dataclass
class View:
    """How one worker in the trainer sees its process.

    Attributes:
        own: its ambient states, in the order of the table.
        worker: its number.
        inference: whether it is in inference mode.
        context: its context variables.
        lenient: what cannot be undone is left out, not refused.
        thorough: rare states are looked at, too: it is not set up yet, or has changed them.
        told: what people were told of already.
        own_globals: its values of the globals that its code names.
    """

    own: list[Any]
    worker: int = 0
    inference: bool = False
    context: contextvars.Context = field(default_factory=contextvars.Context)
    lenient: bool = False
    thorough: bool = True
    told: set[str] = field(default_factory=set)
    own_globals: Exchanged | None = None


class Exchanged(Protocol):
    """What is there in place of the trainer's while a worker is in."""

    def enter(self) -> None:
        """The worker's is there."""

    def leave(self) -> None:
        """The trainer's is. Broken off by an exception, it is to be repeated."""


class Ambient:
    """All ambient states of this process.

    Args:
        tell: is told which worker did what that could not be undone, and whether it was left out (True) or remains
            (False).
    """

    def __init__(self, tell: Callable[[int, str, bool], None]) -> None:
        self._tell = tell
        states = [*torch_states(), *python_states(), *system_states()]
        self._states = sorted(states, key=lambda state: state.rare)
        self._gets = [state.get for state in self._states]
        self._common = sum(not state.rare for state in states)
        self._derived = [number for number, state in enumerate(self._states) if state.begins == "derived"]
        self._born = [_begin(state) for state in self._states]
        self._guards = Guards()
        self._outside: list[Any] | None = None  # the trainer's, while a worker is in ...
        self._inner: list[Any] | None = None  # ... and the worker's, while it leaves
        self._given: list[Any] = []  # what it was given
        self._inference: Any = None

    def view(self, worker: int = 0, lenient: bool = False) -> View:
        """What a new worker sees."""
        return View(list(self._born), worker, lenient=lenient)

    def inside(self, view: View, act: Callable[[], T]) -> T:
        """Do something as the worker that has this view. The trainer's own states are put back whatever happens.

        Raises:
            Irreversible: it was about to do what cannot be undone.
        """
        if self._outside is not None:  # an interrupt came between two lines of the last time
            self._put_back(view)
        try:
            try:
                self._enter(view)
                result = view.context.run(act)
            finally:
                self._leave(view)
        finally:  # an interrupt may come before the first line of it
            self._leave(view)
        if self._guards.refused is not None:  # the exception was swallowed
            raise Irreversible(self._guards.refused)
        return result

    def _read(self, first: int, last: int) -> list[Any]:
        try:
            return [get() for get in self._gets[first:last]]
        except Exception:  # one cannot be read
            return [state.read() for state in self._states[first:last]]

    # ------------------------------------------------------------ in

    def _enter(self, view: View) -> None:
        count = len(self._states) if view.thorough else self._common
        self._inner, self._outside = None, self._read(0, count)
        now = self._outside
        given = view.own[:count]
        for number in self._derived:
            if given[number] is _FOLLOWS:
                given[number] = self._states[number].clean(now[number])
        if torch.is_inference_mode_enabled() != view.inference:
            self._inference = torch_ambient.enter_inference_mode(view.inference)
            now = self._read(0, count)
        self._given = [now[i] if value is _FOLLOWS else value for i, value in enumerate(given)]
        if given != now:
            for state, current, value in zip(self._states, now, given):  # noqa: B905 - rare ones may be left out
                state.change(current, value)
        if view.own_globals is not None:
            view.own_globals.enter()
        self._guards.up(view.lenient, self._look_closely)

    def _look_closely(self) -> None:
        """Something rare is about to be changed: know what it is now."""
        if self._outside is not None and len(self._outside) == self._common:
            rare = self._read(self._common, len(self._states))
            self._outside += rare
            self._given += rare

    # ------------------------------------------------------------ out

    def _leave(self, view: View) -> None:
        """Whatever interrupts this is raised when it is done."""
        interrupt: BaseException | None = None
        for _ in range(_PATIENCE):
            try:
                if self._outside is not None:
                    self._put_back(view)
                break
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _put_back(self, view: View) -> None:
        """What was begun and interrupted is gone on with when this is called again."""
        outside, inner = self._outside, self._inner
        assert outside is not None
        self._guards.down()
        if view.own_globals is not None:
            view.own_globals.leave()
        if inner is None:
            inner = self._read(0, len(outside))
            self._keep(view, inner)
            self._inner = inner
        if self._inference is not None:
            torch_ambient.leave_inference_mode(self._inference)
            self._inference = None
            inner = self._read(0, len(outside))
        if inner != outside:
            for state, now, value in zip(self._states, inner, outside):  # noqa: B905 - rare ones may be left out
                if not state.change(now, value):
                    self._tell_once(view, f"{state.name} (now {state.read()!r}, and {value!r} before)", left_out=False)
        for what in self._guards.left_undone:
            self._tell_once(view, what, left_out=True)
        self._outside = self._inner = None

    def _keep(self, view: View, inner: list[Any]) -> None:
        """What the worker has changed is its own from now on."""
        view.inference = torch.is_inference_mode_enabled()
        if inner != self._given:
            for number, (now, given) in enumerate(zip(inner, self._given)):  # noqa: B905 - as above
                if now != given and self._states[number].begins != "trainer":
                    view.own[number] = now
        rare = zip(view.own[self._common :], self._born[self._common :], strict=True)
        view.thorough = any(own is not born for own, born in rare)

    def _tell_once(self, view: View, what: str, left_out: bool) -> None:
        if what not in view.told:
            view.told.add(what)
            self._tell(view.worker, what, left_out)


def _begin(state: Surrounding) -> Any:
    if state.begins == "clean":
        return state.clean
    return state.read() if state.begins == "born" else _FOLLOWS
