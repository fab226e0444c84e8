"""What counts as a change of a dataset in itself, and what does not."""

from __future__ import annotations

import decimal
import functools
import logging
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safeloader.runtime.child.own_globals import OwnGlobals
from safeloader.runtime.isolation import readings
from safeloader.runtime.shadow.change_detection import Change
from tests.changing_data import AROUND, MAPS, OUTSIDE, write_files
from tests.hidden_data import HIDDEN, MIDDLE, MOVING


def watched(dataset: Any) -> Change:
    return Change((dataset, None), OwnGlobals([dataset], first=True).values)


_log = logging.getLogger(__name__)
_ROOT = Path("/data/train")
_TABLE = {"a": [1, 2, 3]}


class OfPath:
    def __init__(self) -> None:
        self.root = Path("/data/pictures")

    def sample(self, index: int) -> Any:
        return str(self.root / "1.jpg"), hash(self.root), self.root.parts, hash(_ROOT), str(_ROOT)


class OfLogger:
    def __init__(self) -> None:
        self.log = logging.getLogger("of.a.dataset")

    def sample(self, index: int) -> Any:
        _log.debug("sample %d", index)
        self.log.debug("sample %d", index)


class OfPattern:
    pattern = re.compile("a+")

    def sample(self, index: int) -> Any:
        return self.pattern.match("aaa"), _TABLE["a"][index % 3]


class OfArrays:
    def __init__(self) -> None:
        self.array, self.tensor = np.arange(100), torch.arange(100)

    def sample(self, index: int) -> Any:
        return self.array[index], self.tensor[index].clone().add_(1)


class OfFrame:
    """pandas keeps columns that were looked up."""

    def __init__(self) -> None:
        pandas = pytest.importorskip("pandas")
        self.frame = pandas.DataFrame({"a": range(9), "b": list("abcdefghi")}, index=[str(i) for i in range(9)])

    def sample(self, index: int) -> Any:
        row = index % 9
        return self.frame.iloc[row], self.frame["a"].iloc[row], self.frame.loc[str(row), "b"], self.frame.b


@pytest.mark.parametrize("kind", [OfPath, OfLogger, OfPattern, OfArrays, OfFrame])
def test_what_is_looked_up_again_is_no_change(kind: Any) -> None:
    dataset = kind()
    change = watched(dataset)
    for index in range(5):
        dataset.sample(index)
    assert not change.there()


@pytest.mark.parametrize("kind", [*MAPS, *OUTSIDE])
def test_each_kind_of_state_is_a_change(tmp_path: Path, kind: str) -> None:
    write_files(tmp_path)
    part = (MAPS | OUTSIDE)[kind](tmp_path)
    own = OwnGlobals([part], first=False)
    own.enter()
    change = Change(part, own.values)
    for index in range(4):
        part.sample(index * 10)
    assert change.there()
    own.leave()  # what lies outside of it is as it was for other tests
    if getattr(part, "file", None) is not None:
        part.file.close()


@pytest.mark.parametrize("kind", AROUND)
def test_what_surrounds_a_dataset_may_change_with_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    part = AROUND[kind](tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMPLES", "0")
    change = Change((), around=(readings.lasting, readings.late))
    with decimal.localcontext():
        part.sample(1)
        # Packages set variables when they are imported, with the first sample as a rule, so one look is not enough.
        assert change.seen() == (kind != "Environment")
        assert not change.looked
        part.sample(2)
        assert change.there()


class _Deep:
    def __init__(self) -> None:
        self.inside = [({"x": [0]},)]
        self.bound = functools.partial(self.inside.append)


@pytest.mark.parametrize(
    "make",
    [
        lambda d: d.inside[0][0]["x"].append(1),
        lambda d: d.inside.extend([({},)] * 300),
        lambda d: setattr(d, "late", random.Random(1)),
        lambda d: d.bound(3),
    ],
)
def test_a_change_inside_of_containers_is_seen(make: Any) -> None:
    dataset = _Deep()
    change = watched(dataset)
    make(dataset)
    assert change.there()


@pytest.mark.parametrize(("of_a_task", "expected"), [(0.0, [1, 2, 4, 8, 16, 32]), (100.0, [*range(1, 40)])])
def test_looks_grow_rarer_where_tasks_are_short(of_a_task: float, expected: list[int]) -> None:
    dataset, now, looked = _Deep(), [1000.0], []

    def kept() -> list[int]:
        looked.append(task)
        return []

    def clock() -> float:
        now[0] += 0.001
        return now[0]

    task = 0
    change = Change(dataset, kept, clock=clock)
    looked.clear()
    for task in range(1, 40):  # noqa: B007 - kept() reads it
        now[0] += of_a_task
        assert not change.seen()
    assert looked == expected


# ---------------------------------------------------------------- where it hardly shows


@pytest.mark.parametrize("kind", [*MIDDLE, *MOVING])
def test_a_change_in_the_middle_of_much_and_in_what_is_written_in_c_is_seen(kind: Any) -> None:
    part = kind()
    part.sample(0)
    change = watched(part)
    change.begin([1777])
    part.sample(1777)
    assert change.seen()
    assert not change.hidden


@pytest.mark.parametrize("kind", HIDDEN)
def test_what_tells_nothing_is_known_to_tell_nothing(kind: Any) -> None:
    part = kind()
    assert not watched(part).hidden
    part.sample(0)
    assert watched(part).hidden


def test_an_array_among_values_is_not_written_out() -> None:
    """marshal would take every buffer as bytes."""
    array = np.zeros(1 << 28, np.uint8)  # of which no page is there yet
    change = watched({"tokens": array, "more": [array] * 300})
    array[-1] = 1
    assert change.there()


class _Many:
    def __init__(self) -> None:
        self.samples = [Path(f"/data/{number}.jpg") for number in range(5000)]
        self.boxes = [{"box": [1, 2, number], "name": "cat"} for number in range(5000)]
        self.codes = dict.fromkeys(range(5000), b"x" * 20)

    def sample(self, index: int) -> Any:
        return str(self.samples[index]), self.boxes[index]["box"], self.codes[index]


def test_reading_what_is_large_is_no_change() -> None:
    dataset = _Many()
    change = watched(dataset)
    for index in range(0, 5000, 50):
        change.begin([index, index + 1])
        dataset.sample(index)
        assert not change.seen()
    assert not change.hidden
    dataset.boxes[2500]["box"] = [1, 2, 3]
    assert change.there()
