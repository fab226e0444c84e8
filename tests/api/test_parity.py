"""Generated configurations: the same batches as torch's DataLoader, to the byte, and the same generators afterwards.

Each is run with processes and, at no cost, with none: all workers in the main process.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest

from safeloader import DataLoader, Policy
from tests.api.parity import cases
from tests.api.parity.reference import Job

COUNT = 36
MORE = 120
SPAWNED = (13, 17, 32)

pytestmark = [
    pytest.mark.timeout(600),  # the first to come waits for all references
    pytest.mark.usefixtures("forked"),
]

Reference = Callable[[Job], Any]


def _numbers() -> list[Any]:
    numbers: list[Any] = []
    for number in range(MORE):
        marks = [pytest.mark.needs_reference(Job("case", number)), *([pytest.mark.slow] if number >= COUNT else [])]
        numbers.append(pytest.param(number, marks=marks, id=str(cases.case(number)).removeprefix("number=")))
    return numbers


@pytest.fixture(autouse=True)
def _errors_are_expected(caplog: pytest.LogCaptureFixture) -> None:
    """Samples that raise are part of some configurations; each is one line of log."""
    caplog.set_level(logging.CRITICAL, "safeloader")


def _compare(number: int, reference: Reference, max_processes: int | None) -> None:
    expected = reference(Job("case", number))
    seen = cases.trace(cases.case(number), DataLoader, policy=Policy(max_processes=max_processes))
    for torchs, ours in zip(expected, seen, strict=True):
        assert ours == torchs


@pytest.mark.parametrize("number", _numbers())
def test_what_is_seen_equals_torch(number: int, reference: Reference) -> None:
    _compare(number, reference, cases.case(number).max_processes)


@pytest.mark.parametrize("number", _numbers())
def test_what_is_seen_without_any_process_equals_torch(number: int, reference: Reference) -> None:
    _compare(number, reference, 0)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(
            number,
            marks=[
                pytest.mark.needs_reference(Job("case", number)),
                pytest.mark.needs_reference(Job("case", number, "spawn")),
                *([] if number in SPAWNED else [pytest.mark.slow]),
            ],
        )
        for number in range(COUNT)
    ],
)
def test_torch_itself_gives_the_same_forked_and_spawned(number: int, reference: Reference) -> None:
    """So references may be forked, which is cheaper."""
    assert reference(Job("case", number)) == reference(Job("case", number, "spawn"))


@pytest.mark.parametrize(
    ("attribute", "choices"),
    [
        ("kind", {"items", "at once", "subset", "concat", "random_split", "tensors", "map pipe",
                  "shards", "chain", "pipe"}),
        ("order", {"none", "shuffle", "subset", "weighted", "lazy", "endless", "iterator", "names", "batches",
                   "shuffled batches"}),
        ("batch_size", {None, 1, 2, 3, 4}),
        ("drop_last", {True, False}),
        ("generator", {True, False}),
        ("num_workers", {0, 1, 2, 3, 4}),
        ("prefetch_factor", {None, 1, 2, 3, 4}),
        ("persistent", {True, False}),
        ("in_order", {True, False}),
        ("init", {"", "seeding", "sharding"}),
        ("collate", {"", "draws", "identity"}),
        ("asks_length", {True, False}),
        ("pin_memory", {True, False}),
        ("raises", {True, False}),
        ("max_processes", {None, 1, 2}),
    ],
)  # fmt: skip
def test_the_configurations_reach_every_choice(attribute: str, choices: set[Any]) -> None:
    assert {getattr(cases.case(number), attribute) for number in range(COUNT)} == choices


def test_some_configurations_leave_an_epoch_early_with_and_without_persistent_workers() -> None:
    early = [c for c in map(cases.case, range(COUNT)) if any(c.epochs) and c.num_workers]
    assert {c.persistent for c in early} == {True, False}
    assert {c.iterable for c in early} == {True, False}


def test_a_difference_would_be_seen() -> None:
    """The measure itself."""
    one = dataclasses.replace(
        cases.case(0), kind="items", length=17, order="lazy", batch_size=3, draws=("torch",), drop_last=False
    )
    assert one.num_workers == 0
    trace = cases.trace(one, DataLoader)
    assert trace == cases.trace(one, DataLoader)
    for change in ({"number": 12}, {"draws": ("python",)}, {"drop_last": True}, {"order": "shuffle"}, {"raises": True}):
        assert trace != cases.trace(dataclasses.replace(one, **change), DataLoader), change
