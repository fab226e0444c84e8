"""The settings that are tried."""

from __future__ import annotations

import ast
import itertools
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from safeloader.observe.format import many

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ScriptLoaders", "Setting", "everything", "has_main_guard", "one_at_a_time", "starts_of", "validation_switches",
]  # fmt: skip

STARTS = ("fork", "spawn", "forkserver")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is changed from outside; None leaves what the script says.

    Attributes:
        loader: ``"torch"`` or ``"safeloader"``.
        workers: at most so many workers for each loader.
        persistent: ``persistent_workers``.
        start: the start method of the workers.
        validation: False: the script's own switch against validation is used.
    """

    loader: str = "torch"
    workers: int | None = None
    persistent: bool | None = None
    start: str | None = None
    validation: bool | None = None

    @property
    def label(self) -> str:
        """In words: ``safeloader, 2 workers, no validation``."""
        parts = [self.loader]
        if self.workers is not None:
            parts.append(many(self.workers, "worker"))
        if self.persistent is not None:
            parts.append("persistent" if self.persistent else "not persistent")
        parts += [self.start] if self.start else []
        parts += ["no validation"] if self.validation is False else []
        return ", ".join(parts) if len(parts) > 1 or self.loader != "torch" else "as it is"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ScriptLoaders:
    """What the script itself asks its loaders for, seen in its first run.

    Attributes:
        workers: the most workers of any loader.
        persistent: whether any loader with workers keeps them.
        start: how workers start; "" if none did.
    """

    workers: int = 0
    persistent: bool = False
    start: str = ""


def starts_of(seen: ScriptLoaders, guarded: bool) -> tuple[str, ...]:
    """The other start methods that torch's workers can have: without a main guard none, they run the script again."""
    return tuple(start for start in STARTS[1:] if start != seen.start) if guarded and seen.workers else ()


def one_at_a_time(seen: ScriptLoaders, can_skip_validation: bool, guarded: bool = True) -> Iterator[Setting]:
    """What follows the script as it is: each setting changed alone."""
    base = Setting()
    if can_skip_validation:
        yield replace(base, validation=False)
    if seen.workers:
        yield replace(base, persistent=not seen.persistent)
        for workers in _fewer(seen.workers):
            yield replace(base, workers=workers)
        for start in starts_of(seen, guarded):
            yield replace(base, start=start)
    yield replace(base, loader="safeloader")


def everything(seen: ScriptLoaders, can_skip_validation: bool, guarded: bool = True) -> Iterator[Setting]:
    """Every combination, apart from the script as it is."""
    validations = (None, False) if can_skip_validation else (None,)
    workers = (None, *_fewer(seen.workers)) if seen.workers else (None,)
    starts = (None, *starts_of(seen, guarded))
    persistences = (None, not seen.persistent) if seen.workers else (None,)
    for loader, validation, number, persistent, start in itertools.product(
        ("torch", "safeloader"), validations, workers, persistences, starts
    ):
        setting = Setting(loader, number, persistent, start, validation)
        if setting == Setting() or (number == 0 and (persistent is not None or start)):
            continue
        yield setting


def _fewer(workers: int) -> list[int]:
    """Half as many, 2, 1, 0."""
    return sorted({n for n in (workers // 2, 2, 1, 0) if n < workers}, reverse=True)


_ARGUMENT = re.compile(r"^--(no|skip|disable|without)[-_]?(val|valid|validate|validation|eval|evaluation|evaluate)$")
_VARIABLE = re.compile(r"^([A-Z0-9]+_)*(NO|SKIP|DISABLE|WITHOUT)_?(VAL|VALID|VALIDATION|EVAL|EVALUATION)$")


def has_main_guard(source: bytes | str) -> bool:
    """Whether a script asks for its own ``__name__``; also what cannot be read counts as one that does."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return True
    return any(
        isinstance(node, ast.If) and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test))
        for node in ast.walk(tree)
    )


def validation_switches(source: bytes | str) -> list[str]:
    """What in a script's text looks like a switch against validation: ``--no-val``, ``SKIP_VALIDATION=1``."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    found: dict[str, None] = {}
    for text in texts:
        if _ARGUMENT.match(text):
            found[text] = None
        elif _VARIABLE.match(text):
            found[f"{text}=1"] = None
    return list(found)
