"""What a scenario is, and where the scenarios are found."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OUTCOMES = {
    "finished": "every batch was delivered, each equal to the reference where there is one, and the program ended",
    "error": "the program ended with an error",
    "hang": "nothing happened for as long as the cap, and the program had to be killed",
    "truncated": "the program ended as if all were well, but batches are missing",
    "wrong": "the program ended as if all were well, but bytes differ from the reference",
    "orphans": "the trainer was killed, and its processes lived on",
    "skipped": "this machine or this loader does not allow it",
}
"""What can come of a run, in words."""


class NotHere(Exception):
    """This machine does not allow the scenario; the message says why."""


@dataclass(frozen=True, slots=True)
class Room:
    """The surroundings of a run: what is put before its command line, and what its environment has in addition."""

    prefix: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


@contextmanager
def plain_room(directory: Path) -> Iterator[Room]:
    """No special surroundings."""
    yield Room()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the catalogue of hangs, as a program.

    Attributes:
        row: Which row of the catalogue; "-" for a control.
        title: What goes wrong, in a few words.
        batches: How many batches are due.
        reference: The scenario whose undisturbed run gives the digests ("own": this one), None where there
        can be none.
        expect: The outcomes that safeloader may have.
        says: A pattern that the text of safeloader's error must match.
        longest: Seconds that safeloader may keep the trainer waiting after the fault, beyond the start of processes.
        script: The whole program as a text, for programs that are not importable modules.
        stdin: The script is read from standard input (``python -``).
        room: Makes the surroundings in the run's directory; raises `NotHere` where that is not allowed.
        dead_trainer: The trainer is killed; what matters is whether its processes end.
        grace: Seconds that processes have to end in after the trainer has ended.
        patience: Factor on the cap, for loaders that supervise and need several deadlines to come to an end.
        slow: Factor on the cap, for every loader.
        quick: Belongs to the short table.
    """

    row: str
    title: str
    batches: int = 8
    reference: str | None = "undisturbed"
    expect: tuple[str, ...] = ("finished",)
    says: str | None = None
    longest: float | None = None
    script: str | None = None
    stdin: bool = False
    room: Callable[[Path], AbstractContextManager[Room]] = plain_room
    dead_trainer: bool = False
    grace: float = 3.0
    patience: float = 1.0
    slow: float = 1.0
    quick: bool = False


@functools.cache
def _found() -> dict[str, tuple[str, Scenario]]:
    """Each scenario with its module: a module has a ``SCENARIO`` of its own name, or several ``SCENARIOS``."""
    from benchmarks.hangs import scenarios

    found: dict[str, tuple[str, Scenario]] = {}
    for file in pkgutil.iter_modules(scenarios.__path__, f"{scenarios.__name__}."):
        module = importlib.import_module(file.name)
        several = vars(module).get("SCENARIOS") or {file.name.rpartition(".")[2]: module.SCENARIO}
        found.update((name, (file.name, one)) for name, one in several.items())
    return found


def names() -> list[str]:
    """The names of all scenarios."""
    return sorted(_found())


def load(name: str) -> Scenario:
    """The scenario called ``name``.

    Raises:
        LookupError: There is none.
    """
    if name not in names():
        raise LookupError(f"no scenario {name!r}; there are {', '.join(names())}")
    return _found()[name][1]


def module_of(name: str) -> str:
    """The module that runs the scenario called ``name``, with that name as its argument."""
    return _found()[name][0]
