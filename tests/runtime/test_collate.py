"""Default collation of arrays is torch's, to the byte, the class and the word, whatever the arrays are."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from safeloader import torch_private
from safeloader.runtime.memory.arena import Arena
from safeloader.runtime.memory.collate import collating_into
from safeloader.runtime.memory.slot_writer import SlotWriter

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def writer() -> Iterator[SlotWriter]:
    arena = Arena(slots=2)
    writer = SlotWriter(arena)
    writer.open(0)
    try:
        yield writer
    finally:
        writer.close()
        arena.close()


class Named(np.ndarray[Any, Any]):
    """A subclass."""


def _rows(dtype: Any, *shape: int, count: int = 5) -> list[Any]:
    filled = np.random.default_rng(0).integers(0, 256, size=count * max(int(np.prod(shape)), 1) * 16, dtype=np.uint8)
    if np.dtype(dtype) == np.bool_:
        filled &= 1
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return [filled[k * size : (k + 1) * size].view(dtype).reshape(shape) for k in range(count)]


def _read_only(rows: list[Any]) -> list[Any]:
    for row in rows:
        row.flags.writeable = False
    return rows


PLAIN = {
    **{
        name: _rows(name, 8)
        for name in (
            *("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"),
            *("complex64", "complex128"),
        )
    },
    "several dimensions": _rows("float32", 3, 2, 4),
    "a dimension of one": _rows("float32", 1, 3),
    "one": _rows("float32", 8, count=1),
    "every other": [row[::2] for row in _rows("int64", 8)],
    "columns first": [row.T for row in _rows("int16", 3, 4)],
    "broadcast": [np.broadcast_to(row, (4, 3)).copy()[:, :2] for row in _rows("float64", 3)],
    "longlong": [row.view("longlong") for row in _rows("int64", 4)],
    "a tuple": tuple(_rows("float32", 8)),
}
ODD = {
    "no dimensions": [np.array(1.5), np.array(2.5)],
    "empty": [np.zeros((0, 3)), np.zeros((0, 3))],
    "several dtypes": [*_rows("float32", 8), *_rows("float64", 8)],
    "several orders": [np.zeros((3, 4)), np.zeros((4, 3)).T],
    "a subclass among them": [*_rows("float32", 8), _rows("float32", 8)[0].view(Named)],
    "a tensor among them": [*_rows("float32", 8), torch.zeros(8)],
    "unsigned": _rows("uint16", 8),
    "large": [np.zeros(1 << 15), np.ones(1 << 15)],
}
RAISING = {
    "several shapes": [np.zeros(3), np.zeros(4)],
    "other byte order": [row.astype(">f4") for row in _rows("float32", 8)],
    "backwards": [row[::-1] for row in _rows("float32", 8)],
    "backwards, one, among others": [*_rows("float32", 1, count=2), _rows("float32", 1)[0][::-1]],
    "backwards, one": [row[::-1] for row in _rows("float32", 1)],
    "text": [np.array(["a", "b"])] * 2,
    "objects": [np.array([None, 1], dtype=object)] * 2,
    "skewed": [np.zeros(4, dtype=[("a", "u1"), ("b", "f4")])["b"] for _ in range(2)],
}


def _as_in_a_worker(batch: Any) -> Any:
    """What torch makes of it there: it gives the result a place first, whose dtype counts."""
    torch_private.put_worker_info(object())
    try:
        return default_collate(batch)
    finally:
        torch_private.put_worker_info(None)


def _assert_same(made: Any, due: Any) -> None:
    assert type(made) is type(due) is torch.Tensor
    assert (made.dtype, made.shape, made.stride(), made.requires_grad) == (due.dtype, due.shape, due.stride(), False)
    assert made.numpy().tobytes() == due.numpy().tobytes()


@pytest.mark.parametrize("name", [*PLAIN, *ODD])
def test_arrays_are_collated_as_by_torch(writer: SlotWriter, name: str) -> None:
    batch = {**PLAIN, **ODD}[name]
    due = _as_in_a_worker(batch)
    with collating_into(writer):
        made = default_collate(batch)
    _assert_same(made, due)
    with collating_into(None):
        _assert_same(default_collate(batch), due)
    del made


@pytest.mark.parametrize("name", PLAIN)
def test_plain_arrays_are_put_into_the_lease_by_one_call(
    writer: SlotWriter, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch, "as_tensor", lambda *given: asked.append(given))
    with collating_into(writer):
        made = default_collate(PLAIN[name])
    assert not asked
    assert writer.offset_of(made.data_ptr(), made.nbytes) is not None
    del made


@pytest.mark.parametrize("name", RAISING)
def test_what_torch_refuses_is_refused_in_its_words(writer: SlotWriter, name: str) -> None:
    with pytest.raises(Exception) as due:  # noqa: PT011 - whatever it is
        _as_in_a_worker(RAISING[name])
    with collating_into(writer), pytest.raises(type(due.value)) as made:
        default_collate(RAISING[name])
    assert str(made.value) == str(due.value)


def test_arrays_that_torch_warns_of_are_left_to_it(writer: SlotWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """It warns once a process, so who calls it is all that can be seen here."""
    asked: list[Any] = []
    whole = torch.as_tensor
    monkeypatch.setattr(torch, "as_tensor", lambda given: [asked.append(given), whole(given)][1])
    rows = _read_only(_rows("float32", 8))
    with warnings.catch_warnings(), collating_into(writer):
        warnings.simplefilter("ignore")
        made = default_collate(rows)
    assert len(asked) == len(rows)
    del made


def test_what_the_user_put_into_torchs_table_is_used(writer: SlotWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch_private.default_collate_fn_map
    batch = _rows("float32", 8)
    with collating_into(writer):
        monkeypatch.setitem(table, torch.Tensor, lambda samples, *, collate_fn_map: ("tensors", len(samples)))
        assert default_collate(batch) == ("tensors", 5)
        monkeypatch.undo()
        assert isinstance(default_collate(batch), torch.Tensor)
    monkeypatch.setitem(table, np.ndarray, lambda samples, *, collate_fn_map: ("arrays", len(samples)))
    with collating_into(writer):
        assert default_collate(batch) == ("arrays", 5)
    assert default_collate(batch) == ("arrays", 5)


def test_the_table_is_torchs_again_afterwards(writer: SlotWriter) -> None:
    table = dict(torch_private.default_collate_fn_map)
    with collating_into(writer), collating_into(None):
        pass
    assert table == torch_private.default_collate_fn_map


def test_a_default_device_is_heeded(writer: SlotWriter) -> None:
    batch = _rows("float32", 8)
    with torch.device("meta"), collating_into(writer):
        assert default_collate(batch).device.type == "meta"
