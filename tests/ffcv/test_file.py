"""The file: written whole, read by FFCV and by ourselves alike, checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safeloader import SettingsError
from safeloader.errors import BetonError
from safeloader.ffcv import Beton, check


@pytest.fixture
def d(ffcv_is_here: None) -> Any:
    from tests.ffcv import data

    return data


def test_our_tables_are_ffcvs(beton: Path) -> None:
    from ffcv.reader import Reader

    theirs, ours = Reader(str(beton)), Beton(beton)
    assert (theirs.num_samples, theirs.page_size) == (ours.num_samples, ours.page_size)
    assert list(theirs.handlers) == list(ours.fields)
    assert np.array_equal(theirs.metadata, ours.metadata)
    assert np.array_equal(theirs.alloc_table["ptr"], ours.rows["ptr"])
    field = ours.fields["array"]
    assert (field.kind, field.shape, field.element) == ("array", (2, 3), np.dtype("f4"))


@pytest.mark.slow
def test_a_file_written_by_ffcv_is_whole_too(tmp_path: Path, d: Any) -> None:
    from ffcv.writer import DatasetWriter

    path = tmp_path / "ffcv.beton"
    fields = {"image": d.fields()["image"], "label": d.fields()["label"]}
    pairs = [d.Photographs(40)[index][:2] for index in range(40)]
    writer = DatasetWriter(str(path), fields, num_workers=1, page_size=1 << 21)
    writer.from_indexed_dataset(pairs)
    report = check(path, full=True)
    assert report.ok, report
    assert (report.samples, report.images, report.decoded) == (40, 40, 40)


def test_the_whole_file_is_decoded_and_every_corrupt_image_found(tmp_path: Path, beton: Path) -> None:
    from tests.ffcv.test_matrix import corrupted, noisy_half, zero_half

    bad = corrupted(beton, tmp_path / "a.beton", zero_half, tuple(range(0, 120, 3)))
    bad = corrupted(bad, tmp_path / "b.beton", noisy_half, tuple(range(1, 120, 3)))
    report = check(bad, full=True)
    assert sorted(p.sample for p in report.problems if p.sample is not None) == [n for n in range(120) if n % 3 < 2]
    assert check(beton, full=True).ok
    with pytest.raises(BetonError, match=r"does not decode(.|\n)*and 75 more"):
        report.raise_if_bad()


def test_samples_that_need_several_pages(tmp_path: Path, d: Any) -> None:
    from safeloader.ffcv import write

    path = tmp_path / "pages.beton"
    big = [(np.full((600, 600, 3), n, np.uint8), n) for n in range(7)]
    fields = {"image": d.fields("raw")["image"], "label": d.fields()["label"]}
    assert write(path, big, fields, num_workers=0, page_size=1 << 21, indices=[6, 2, 4, 0, 1, 3, 5]) == 7
    assert check(path).ok
    assert len(set(Beton(path).rows["ptr"] // (1 << 21))) == 7
    with pytest.raises(BetonError, match="more than a page"):
        write(path, [(np.zeros((900, 900, 3), np.uint8), 0)], fields, num_workers=0, page_size=1 << 21)
    assert check(path).samples == 7
    assert os.listdir(tmp_path) == ["pages.beton"]


@pytest.mark.parametrize(
    "text", ["zzz", "<f4", '[["f0"]]', '[["f0", "nonsense"]]', '[["f0", "|O"]]', '[["f0", 7]]', '[["f1", "<f4"]]', "7", "{}",
             "null", '["f0"]', "[" * 700, "\xff\xfe", '[["f0", "V0"]]', '[["f0", ["<f4"]]]'],
)  # fmt: skip
def test_the_text_of_an_arrays_type_may_be_anything(tmp_path: Path, beton: Path, text: str) -> None:
    from safeloader.ffcv.beton import _ARRAY, FIELD, HEADER

    path = tmp_path / "forged.beton"
    data = bytearray(beton.read_bytes())
    whole = Beton(beton)
    place = HEADER.itemsize + FIELD.itemsize * list(whole.fields).index("array")
    row = np.frombuffer(data, FIELD, 1, place)[0].copy()
    described = text.encode("latin-1")
    head = row["arguments"][: _ARRAY.itemsize].view(_ARRAY)
    head["type_length"] = len(described)
    row["arguments"][_ARRAY.itemsize : _ARRAY.itemsize + len(described)] = np.frombuffer(described, np.uint8)
    data[place : place + FIELD.itemsize] = row.tobytes()
    path.write_bytes(data)
    with pytest.raises(BetonError, match="a field descriptor cannot be read"):
        Beton(path)


def test_nothing_to_write(tmp_path: Path, d: Any) -> None:
    from safeloader.ffcv import write

    with pytest.raises(SettingsError, match="nothing to write"):
        write(tmp_path / "a", [], d.fields(), num_workers=0)
    with pytest.raises(SettingsError, match="page_size"):
        write(tmp_path / "a", [1], d.fields(), num_workers=0, page_size=1000)
    with pytest.raises(ValueError, match="must be a tuple of 4 values"):
        write(tmp_path / "a", [(1, 2)], d.fields(), num_workers=0)
    assert not os.listdir(tmp_path)
