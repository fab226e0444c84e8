"""The core decides and touches nothing: it may import itself and a few pure parts of the standard library."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import safeloader.core

PURE = {"__future__", "typing", "collections", "collections.abc", "dataclasses", "enum", "math"}
FILES = sorted(Path(safeloader.core.__path__[0]).glob("*.py"))
ORDER = (
    "state", "events", "commands", "messages", "policy", "placement", "leases", "bisection", "records", "story", "story_lines",
    "new_copy", "books", "shadows", "restoring", "schedule", "deadlines", "quarantine", "dispatch", "answers", "consumer",
    "failback", "fleet", "recovery", "view", "supervisor", "duplicate",
)  # fmt: skip
BUILTINS = {"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"}


def imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """(Module, whether it is one of the core's own)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            package, _, name = str(node.module).partition("safeloader.core")
            own = not package and str(node.module) != name
            if not own:
                yield str(node.module), False
            else:
                yield from [(name[1:], True)] if name else [(alias.name, True) for alias in node.names]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_module_of_the_core_imports_nothing_that_acts(path: Path) -> None:
    for name, own in imports(ast.parse(path.read_text())):
        assert (name in ORDER) if own else (name in PURE), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_modules_of_the_core_import_only_those_before_them_for_types_too(path: Path) -> None:
    if path.stem == "__init__":
        return
    own = [name for name, own in imports(ast.parse(path.read_text())) if own]
    assert all(ORDER.index(name) < ORDER.index(path.stem) for name in own), own


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_module_of_the_core_calls_nothing_that_acts_and_imports_nothing_late(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in BUILTINS, f"{path.name}:{node.lineno} calls {node.func.id}"
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            late = [n for n in ast.walk(node) if isinstance(n, (ast.Import, ast.ImportFrom))]
            assert not late, f"{path.name}:{node.lineno} imports late"


def test_every_module_of_the_core_is_in_the_order() -> None:
    assert {path.stem for path in FILES} == {*ORDER, "__init__"}


def test_this_test_notices_an_import_that_acts() -> None:
    text = "import time\nfrom os import path\nfrom safeloader.core import fleet\nfrom safeloader.core.state import Mark"
    assert list(imports(ast.parse(text))) == [
        ("time", False),
        ("os", False),
        ("fleet", True),
        ("state", True),
    ]
