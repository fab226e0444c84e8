"""Values of globals of which each worker of a process has a copy, kind by kind."""

from __future__ import annotations

import array
import collections
import concurrent.futures
import dataclasses
import decimal
import functools
import hashlib
import io
import queue
import sys
import threading
import types
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from safeloader.runtime.child.copier import Copier


class _Slotted:
    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen = 0


class _Table(dict[str, int]):
    """A dict of the user's."""


def _add(value: Any, index: int = 0) -> Any:
    value[index] += 1
    return value[index]


def _count(value: Any) -> int:
    value.seen = getattr(value, "seen", 0) + 1
    return int(value.seen)


def _pair() -> Any:
    slotted = _Slotted()
    return slotted, {slotted: [0]}


def _parameter() -> Any:
    made = torch.nn.Parameter(torch.ones(1))
    made.sum().backward()  # type: ignore[no-untyped-call]
    return made


def _weak() -> Any:
    held = collections.UserDict()  # type: ignore[var-annotated]
    return [held], weakref.WeakValueDictionary(a=held)


_KINDS: dict[str, tuple[Any, Any]] = {
    "slots": (_Slotted, _count),
    "dict of a class": (lambda: _Table(a=0), lambda value: _add(value, "a")),  # type: ignore[arg-type]
    "namespace": (types.SimpleNamespace, _count),
    "chained dicts": (lambda: collections.ChainMap({}, {"a": 0}), lambda value: _add(value, "a")),  # type: ignore[arg-type]
    "iterator": (lambda: iter([1, 2, 3, 4]), next),
    "partial": (lambda: functools.partial(_add, [0]), lambda value: value()),
    "method of an object": (lambda: collections.UserDict(a=0).get, lambda value: _add(value.__self__, "a")),  # type: ignore[arg-type]
    "by an object": (_pair, lambda pair: _add(pair[1][pair[0]])),
    "weak values": (_weak, lambda value: _count(value[1]["a"])),
    "local of threads": (threading.local, _count),
    "numbers of C": (lambda: array.array("i", [0]), _add),
    "array of objects": (lambda: np.array([[0], None], dtype=object), lambda value: _add(value[0])),
    "module of torch": (
        lambda: torch.nn.BatchNorm1d(1),
        lambda m: (m(torch.ones(2, 1)), int(m.num_batches_tracked))[1],
    ),
    "gradient": (_parameter, lambda value: (value.sum().backward(), float(value.grad))[1]),
    "sparse": (lambda: torch.eye(1).to_sparse(), lambda value: float(value._values().add_(1))),
    "text in memory": (lambda: io.StringIO("a\nb\nc"), lambda value: value.readline()),
    "digest": (hashlib.sha256, lambda value: (value.update(b"a"), value.hexdigest())[1]),
    "seeds": (lambda: np.random.SeedSequence(1), lambda value: value.spawn(1)[0].spawn_key),
    "context of decimal": (decimal.Context, lambda value: (setattr(value, "prec", value.prec + 1), value.prec)[1]),
}


@pytest.mark.parametrize("kind", _KINDS)
def test_a_copy_changes_on_its_own(kind: str) -> None:
    make, change = _KINDS[kind]
    value = make()
    one, other = Copier().copy(value), Copier().copy(value)
    first = change(one)
    assert change(one) != first
    assert (change(other), change(value)) == (first, first)


def _pool() -> Any:
    return concurrent.futures.ThreadPoolExecutor(1)


class _Ends:
    def __del__(self) -> None:
        """It would do something."""


@pytest.mark.parametrize("make", [queue.Queue, threading.Event, _pool, _Ends, lambda: dataclasses.MISSING])
def test_what_others_wait_for_compare_with_or_end_is_not_copied(make: Any) -> None:
    value = make()
    assert Copier().copy([value])[0] is value


_HELD: dict[str, Any] = {
    "variable": (lambda value: value, lambda copied: copied),
    "list": (lambda value: [value], lambda copied: copied[0]),
    "dict": (lambda value: {"a": value}, lambda copied: copied["a"]),
    "object": (lambda value: types.SimpleNamespace(inside=[value]), lambda copied: copied.inside[0]),
}


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("holder", _HELD)
def test_what_a_package_keeps_is_not_copied_whose_ever_class_it_is(
    holder: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, inside = _HELD[holder]
    package = types.ModuleType("a_package")  # without a file, as those that belong to Python
    monkeypatch.setitem(sys.modules, "a_package", package)
    value = collections.UserDict(a=[0])
    if kept:
        vars(package)["registry"] = value
    user: dict[str, Any] = {"mine": hold(value)}
    del value
    copied = Copier().copies(dict(user))
    assert (inside(copied["mine"]) is inside(user["mine"])) == kept
