"""Functions of other packages that are redirected, whether they were imported before or come later."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safeloader import import_hooks

SOURCE = """
FACTOR = 2

def work(loader, more: int = 3, *, last=1):
    "Its words."
    return loader * FACTOR + more + last
"""


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"framework_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def _instead(original: Any, *given: Any, **more: Any) -> Any:
    return "ours", original(*given, **more)


def _redirect(module: Any) -> None:
    import_hooks.redirect(module.work, _instead)


def test_a_function_that_is_held_already_is_redirected(named: str) -> None:
    held = importlib.import_module(named).work
    import_hooks.when_imported(named, _redirect)
    assert held(1) == ("ours", 6)
    assert held(loader=1, more=0, last=5) == ("ours", 7)
    assert str(inspect.signature(held)) == "(loader, more: int = 3, *, last=1)"
    assert (held.__name__, held.__doc__) == ("work", "Its words.")
    sys.modules[named].FACTOR = 10  # type: ignore[attr-defined]
    assert held(1) == ("ours", 14)


def test_a_module_that_comes_later_is_attended_to_before_anybody_has_it(named: str) -> None:
    import_hooks.when_imported(named, _redirect)
    module = importlib.import_module(named)
    assert module.work(1) == ("ours", 6)
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__


def test_another_version_of_it_is_named_and_its_import_goes_on(named: str, caplog: pytest.LogCaptureFixture) -> None:
    import_hooks.when_imported(named, lambda module: module.gone)
    assert importlib.import_module(named).work(1) == 6
    assert f"cannot attend to {named}" in caplog.text


def test_a_closure_cannot_be_redirected() -> None:
    number = 3

    def inner() -> int:
        return number

    with pytest.raises(TypeError, match="closure"):
        import_hooks.redirect(inner, _instead)  # type: ignore[arg-type]
    assert inner() == 3
