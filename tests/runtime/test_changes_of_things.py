"""Objects that change where a look at their attributes or elements does not show it, kind by kind."""

from __future__ import annotations

import collections
import ctypes
import decimal
import hashlib
import random
import types
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from safeloader.runtime.child.own_generators import OwnGenerators
from safeloader.runtime.shadow.change_detection import Change


class Row(NamedTuple):
    """An object, what changes it, and what only reads it; what of it needs which package."""

    make: Callable[[], Any]
    change: Callable[[Any], object]
    read: Callable[[Any], object] = repr
    package: str = "torch"


class _Noted(torch.Tensor):
    note: int


class _Number(int):
    seen: int


class _Slotted(float):
    __slots__ = ("seen",)


class _Generator(random.Random):
    seen: int


def _over_memory() -> tuple[Any, Any]:
    """An array of Arrow's, and what writes to the memory that it shows and tells nobody."""
    import pyarrow

    memory = np.zeros(4, np.int64)
    address = memory.__array_interface__["data"][0]
    return pyarrow.table({"shown": pyarrow.array(memory)}), lambda: ctypes.memset(address, 1, 1)


def _read_only(memory: Any) -> Any:
    shown = np.frombuffer(memory, np.uint8).view()
    shown.flags.writeable = False
    return shown


def _noted(thing: Any) -> Any:
    thing.note = thing.seen = 0
    return thing


def _noted_slot(thing: Any) -> Any:
    thing.seen = 0
    return thing


def _with_gradient() -> torch.Tensor:
    made = torch.ones(2, requires_grad=True)
    made.sum().backward()  # type: ignore[no-untyped-call]
    return made


def _pandas(make: str) -> Callable[[], Any]:
    def made() -> Any:
        import pandas

        return eval(make, {"pandas": pandas})

    return made


def _tokenizer(wrapped: bool = False) -> Any:
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if wrapped:
        import transformers

        return transformers.PreTrainedTokenizerFast(tokenizer_object=made)
    return made


def _quietly(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


SEEN = {
    "order": Row(lambda: collections.OrderedDict(a=1, b=2), lambda d: d.move_to_end("a"), lambda d: list(d.items())),
    "number with an attribute": Row(lambda: _noted(_Number(3)), lambda n: setattr(n, "seen", 1), lambda n: n + 1),
    "slot of a number": Row(lambda: _noted_slot(_Slotted(3)), lambda n: setattr(n, "seen", 1), lambda n: n + 1),
    "code": Row(lambda: types.SimpleNamespace(of=lambda: 1), lambda n: setattr(n, "of", lambda: 2), lambda n: n.of()),
    "attribute of a generator": Row(lambda: _noted(_Generator(3)), lambda n: setattr(n, "seen", 1)),
    "mask": Row(
        lambda: np.ma.masked_array([1, 2], mask=[0, 1]), lambda a: a.mask.__setitem__(0, True), lambda a: a.sum()
    ),
    "column over memory": Row(
        _over_memory, lambda made: made[1](), lambda made: made[0]["shown"].to_pylist(), "pyarrow"
    ),
    "array that is not to be written": Row(
        lambda: _read_only(np.zeros(3)),
        lambda a: ctypes.memset(a.__array_interface__["data"][0], 1, 1),
        lambda a: a.sum(),
    ),
    "decimal context": Row(decimal.Context, lambda c: setattr(c, "prec", 5), lambda c: c.prec),
    "seed sequence": Row(lambda: np.random.SeedSequence(1), lambda s: s.spawn(1), lambda s: s.generate_state(1)),
    "children of a generator": Row(lambda: np.random.default_rng(1), lambda g: g.spawn(1)),
    "gradient": Row(_with_gradient, lambda t: t.sum().backward(), lambda t: (t * 2).sum()),
    "attribute of a tensor": Row(lambda: _noted(torch.ones(2).as_subclass(_Noted)), lambda t: setattr(t, "note", 1)),
    "sparse": Row(lambda: torch.eye(2).to_sparse(), lambda t: t._values().add_(1), lambda t: t.to_dense()),
    "sparse by rows": Row(
        lambda: _quietly(lambda: torch.eye(2).to_sparse_csr()), lambda t: t.values().add_(1), lambda t: t.to_dense()
    ),
    "conjugate": Row(lambda: torch.zeros(2, dtype=torch.cfloat).conj(), lambda t: t.conj().numpy().fill(1), torch.sum),
    "nested": Row(
        lambda: _quietly(lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])), lambda t: t.add_(1)
    ),
    "storage": Row(lambda: torch.ones(2).untyped_storage(), lambda s: s.fill_(1), lambda s: s.tolist()),
    "masked values": Row(_pandas("pandas.array([1, 2], dtype='Int64')"), lambda a: a.__setitem__(0, 5), sum, "pandas"),
    "sparse values": Row(
        _pandas("pandas.arrays.SparseArray([0, 1])"), lambda a: a.sp_values.__setitem__(0, 5), sum, "pandas"
    ),
    "labels": Row(
        _pandas("pandas.DataFrame({'a': [1, 2]})"),
        lambda f: setattr(f, "index", f.index + 1),
        lambda f: (f.loc[1, "a"], f.iloc[0], f["a"].sum(), f.values),
        "pandas",
    ),
    "categories": Row(
        lambda: {"labels": _pandas("pandas.Series(['a', 'b'], dtype='category')")()},
        lambda d: d.update(labels=d["labels"].cat.add_categories(["c"])),
        lambda d: (d["labels"].cat.codes, d["labels"][0], d["labels"].value_counts()),
        "pandas",
    ),
    "labels that are dates": Row(
        _pandas("pandas.DataFrame({'a': range(9)}, index=pandas.date_range('2020', periods=9))"),
        lambda f: setattr(f, "index", f.index.shift(1)),
        lambda f: (f.describe(), f.loc[f.index[2]], f.sort_index(), f.reset_index()),
        "pandas",
    ),
    "labels of several levels": Row(
        lambda: [_pandas("pandas.DataFrame({'a': [1, 2], 'b': [3, 4]}).set_index(['a', 'b'])")()],
        lambda frames: frames.append(frames.pop().reset_index(level=0)),
        lambda frames: (frames[0].index.values, frames[0].loc[(1, 3)]),
        "pandas",
    ),
    "notes of a table": Row(_pandas("pandas.DataFrame({'a': [1]})"), lambda f: f.attrs.update(a=1), len, "pandas"),
    "lengths of a tokenizer": Row(
        _tokenizer, lambda t: t.enable_truncation(2), lambda t: t.encode("a b"), "tokenizers"
    ),
    "words of a tokenizer": Row(
        lambda: _tokenizer(wrapped=True),
        lambda t: t.add_tokens(["c"]),
        lambda t: t("a b", truncation=True, max_length=1),
        "transformers",
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_a_change_is_seen_and_reading_is_none(name: str) -> None:
    row = SEEN[name]
    pytest.importorskip(row.package)
    thing = row.make()
    change = Change({"held": thing})
    row.read(thing)
    assert not change.there()
    row.change(thing)
    assert change.there()
    assert not change.hidden


def _typed_list() -> Any:
    import numba

    return numba.typed.List([1])


def _compiled_module() -> Any:
    return _quietly(lambda: torch.jit.trace(torch.nn.BatchNorm1d(2), torch.ones(3, 2), check_trace=False))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("make", [hashlib.sha256, _typed_list, _compiled_module])
def test_what_tells_nothing_is_known_to_tell_nothing(make: Callable[[], Any]) -> None:
    assert Change({"held": make()}).hidden


def test_what_is_not_filled_is_looked_at() -> None:
    """A parser of XML has a list with holes, at which Python crashes."""
    parser = ElementTree.XMLPullParser()
    parser.feed("<a><b>")
    change, generators = Change({"parser": parser}), OwnGenerators([("dataset", parser)])
    parser.feed("</b>")
    assert (change.hidden, generators.moved()) == (True, False)
    change.there()
