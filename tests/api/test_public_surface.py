"""What is public is documented: each argument, what comes back, and what is raised; and has types."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from safeloader.setting_table import TABLE
from tools.public_types import PACKAGES, main

UNDERSTOOD = {"self", "cls", "args", "kwargs", "exc"}
TORCHS = ("torch.", "typing.", "enum.")


class Public(NamedTuple):
    """A function, method or class."""

    name: str
    thing: Any


def _things() -> Iterator[Public]:
    seen = set()
    for package in PACKAGES:
        module = importlib.import_module(f"safeloader{package}")
        for name in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
            thing = getattr(module, name)
            if not str(getattr(thing, "__module__", "")).startswith("safeloader") or id(thing) in seen:
                continue
            seen.add(id(thing))
            yield Public(f"safeloader{package}.{name}", thing)
            if inspect.isclass(thing):
                yield from _members(f"safeloader{package}.{name}", thing)


def _members(owner: str, cls: type) -> Iterator[Public]:
    for name, member in vars(cls).items():
        if not name.startswith("_"):
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if inspect.isfunction(function):
                yield Public(f"{owner}.{name}", function)


THINGS = sorted(_things())
FUNCTIONS = [public for public in THINGS if inspect.isfunction(public.thing)]
CLASSES = [public for public in THINGS if inspect.isclass(public.thing)]


def _text(public: Public) -> str:
    return inspect.getdoc(public.thing) or ""


def _arguments(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in UNDERSTOOD]


def _told(section: str, text: str) -> set[str]:
    """The names of a section: ``name: what it is``, or ``name, other: what they are``."""
    found = re.search(rf"^{section}:\n((?:[ \t].*\n?|\n)+)", text, re.M)
    if found is None:
        return set()
    lines = [line for line in textwrap.dedent(found[1]).splitlines() if line and not line[0].isspace()]
    return {name.strip(" *`") for line in lines for name in line.partition(":")[0].split(",")}


@pytest.mark.parametrize("public", THINGS, ids=lambda public: public.name)
def test_it_has_a_first_sentence(public: Public) -> None:
    assert len(_text(public).split()) >= 2, public.name


@pytest.mark.parametrize("public", FUNCTIONS, ids=lambda public: public.name)
def test_each_argument_of_a_function_is_explained(public: Public) -> None:
    """One that its first sentence names needs no more."""
    text = _text(public)
    told = _told("Args", text)
    summary = text.partition("\n\n")[0]
    for name in _arguments(public.thing):
        assert name in told or re.search(rf"\b{name}\b", summary), f"{public.name}: {name}"


@pytest.mark.parametrize("public", CLASSES, ids=lambda public: public.name)
def test_each_argument_or_field_of_a_class_is_explained(public: Public) -> None:
    if issubclass(public.thing, BaseException):
        return  # made by safeloader; their attributes are what a program reads
    text = "\n".join(
        inspect.getdoc(cls) or "" for cls in public.thing.__mro__ if cls.__module__.startswith("safeloader")
    )
    told = _told("Args", text) | _told("Attributes", text) | set(re.findall(r"`(\w+)`", text))
    if dataclasses.is_dataclass(public.thing):
        names = [field.name for field in dataclasses.fields(public.thing)]
    elif hasattr(public.thing, "_fields"):
        names = list(public.thing._fields)
    elif "__init__" in vars(public.thing):
        names = _arguments(public.thing.__init__)
    else:
        names = []
    if public.name == "safeloader.Settings":  # its fields are the table, which has a sentence for each
        told |= {row.name for row in TABLE if row.meaning}
    missing = [name for name in names if name not in told and not name.startswith("_")]
    assert not missing, f"{public.name}: {missing}"


def _raised(function: Any) -> set[str]:
    """The classes of the errors of safeloader that it raises itself."""
    from safeloader import errors

    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return {ast.unparse(call.func) for call in calls} & set(errors.__all__)


@pytest.mark.parametrize("public", FUNCTIONS, ids=lambda public: public.name)
def test_each_error_that_it_raises_is_named(public: Public) -> None:
    for name in _raised(public.thing):
        assert name in _text(public), f"{public.name}: {name}"


@pytest.mark.parametrize("public", FUNCTIONS, ids=lambda public: public.name)
def test_each_argument_and_result_has_a_type(public: Public) -> None:
    signature = inspect.signature(public.thing)
    assert signature.return_annotation is not inspect.Signature.empty, public.name
    for name, parameter in signature.parameters.items():
        assert name in ("self", "cls") or parameter.annotation is not inspect.Parameter.empty, f"{public.name}: {name}"


def test_torchs_arguments_of_the_loader_are_all_named() -> None:
    from safeloader import DataLoader

    text = inspect.getdoc(DataLoader) or ""
    assert {"policy", "name", *_arguments(DataLoader.__init__)} <= _told("Args", text)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("basedpyright") is None, reason="basedpyright is not installed")
def test_a_type_checker_knows_all_public_types(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0, capsys.readouterr().out
