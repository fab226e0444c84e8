"""Whether a ``.beton`` file is whole: FFCV reads a damaged one without a word, or hangs, or aborts.

::

    header ─▶ tables ─▶ extents ─▶ pointers ─▶ JPEG headers ─▶ full decode
    └────────── milliseconds, all samples ──┘  └ a sample ┘    └ asked for: minutes ┘
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from safeloader.errors import BetonError
from safeloader.ffcv.beton import JPG, RAW, Beton, Field
from safeloader.ffcv.jpeg import decodes, jpeg_size
from safeloader.observe.format import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["CheckReport", "Problem", "check"]

SOME = 4096
"""Images whose JPEG markers are looked at when a loader opens a file."""
VERSION = 1  # of `CheckReport.to_dict`
_MOST = 100  # problems that are kept; the rest is counted


class Problem(NamedTuple):
    """One thing that is wrong.

    Attributes:
        what: What it is, in words.
        sample: Number of the sample; None where it is the file itself.
        field: Name of the field; "" where it is the file itself.
    """

    what: str
    sample: int | None = None
    field: str = ""

    def __str__(self) -> str:
        where = "" if self.sample is None else f"sample {self.sample}, field {self.field!r}: "
        return printable(where + self.what)


@dataclass
class CheckReport:
    """What a check found. ``print(report)`` is meant to be read.

    Attributes:
        path: The file.
        samples: Number of samples; 0 if not even that can be told.
        fields: Kind of each field by name.
        problems: What is wrong, at most 100.
        count: How many problems there are.
        images: Images whose markers were looked at.
        decoded: Images that were decoded.
    """

    path: str
    samples: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    count: int = 0
    images: int = 0
    decoded: int = 0

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return not self.count

    def add(self, what: str, sample: int | None = None, name: str = "") -> None:
        """Note a problem.

        Args:
            what: What is wrong.
            sample: Number of the sample, or None.
            name: Name of the field, or "".
        """
        self.count += 1
        if len(self.problems) < _MOST:
            self.problems.append(Problem(what, sample, name))

    def raise_if_bad(self) -> None:
        """Raise what is wrong.

        Raises:
            BetonError: Something is.
        """
        if self.ok:
            return
        more = f"\n... and {self.count - 5:,} more" if self.count > 5 else ""
        raise BetonError(
            f"{self.path} is damaged: " + "\n".join(map(str, self.problems[:5])) + more,
            where=self.path,
            hint=f"`safeloader beton --full {self.path}` lists all of it; then write it again",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; ``problems`` holds at most 100 of ``count``."""
        problems = [problem._asdict() for problem in self.problems]
        return {"v": VERSION, "ok": self.ok, **vars(self), "problems": problems}

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} ({kind})" for name, kind in self.fields.items())
        done = f"{self.images:,} JPEG headers looked at, {self.decoded:,} images decoded"
        head = printable(f"{self.path}: {self.samples:,} samples; {kinds or 'no fields'}; {done}")
        if self.ok:
            return f"{head}\nno problem found"
        count = f"{self.count:,} problem{'' if self.count == 1 else 's'}"
        more = [f"... {self.count - len(self.problems):,} more"] if self.count > len(self.problems) else []
        return "\n".join([head, *(f"  {problem}" for problem in self.problems), *more, count])


def check(
    path: str | os.PathLike[str],
    *,
    full: bool = False,
    images: int | None = None,
    custom_fields: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> CheckReport:
    """Look for damage. Needs no FFCV, except that a full decode is as strict as FFCV's own decoder only with it.

    Args:
        path: The file.
        full: Decode every image, too.
        images: Look at the JPEG headers of at most so many images, evenly spread; None: of all.
        custom_fields: Classes of custom fields by name, as FFCV's loader takes them.
        progress: Called with (images done, images in all) now and then.

    Returns:
        What was found.

    Raises:
        FileNotFoundError: There is no such file.
    """
    report = CheckReport(os.fspath(path))
    try:
        beton = Beton(path, custom_fields)
    except BetonError as error:
        report.add(error.what.partition(" is damaged: ")[2] or error.what)
        return report
    examine(beton, report, images=images, full=full, progress=progress)
    return report


def examine(
    beton: Beton,
    report: CheckReport,
    *,
    images: int | None = SOME,
    full: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Look for damage in an opened file, and note it in the report."""
    report.samples, report.fields = beton.num_samples, {f.name: f.kind for f in beton.fields.values()}
    if not beton.num_samples:
        report.add("it holds no sample")
    _extents(beton, report)
    for item in beton.fields.values():
        good = _pointers(beton, item, report)
        if item.kind == "image" and good is not None:
            _look_at_images(beton, item, good, report, images=None if full else images, full=full, progress=progress)


def _extents(beton: Beton, report: CheckReport) -> None:
    table = beton.table
    ends = table["ptr"] + table["size"]
    bad = (table["ptr"] < beton.data_start) | (ends > beton.table_start) | (ends < table["ptr"])
    bad |= table["sample"] >= beton.num_samples
    bad |= (table["size"] > 0) & (table["ptr"] // beton.page_size != (ends - 1) // beton.page_size)
    for row in table[bad]:
        report.add(f"allocation of {row['size']} bytes at {row['ptr']} for sample {row['sample']} lies elsewhere")
    if len(ends) > 1 and bool((ends[:-1] > table["ptr"][1:]).any()):
        report.add("allocations overlap")


def _pointers(beton: Beton, item: Field, report: CheckReport) -> np.ndarray[Any, Any] | None:
    """Check the pointers of a field; returns which samples have good ones, None for a field without pointers."""
    column = beton.column(item.name)
    if item.kind == "image":
        pointers = column["data_ptr"]
    elif item.kind in ("bytes", "json"):
        pointers = column["ptr"]
    elif item.kind == "array":
        pointers = column
    else:
        return None
    place = np.searchsorted(beton.table["ptr"], pointers)
    found = place < len(beton.table)
    place = np.where(found, place, 0)
    if len(beton.table):
        found &= (beton.table["ptr"][place] == pointers) & (beton.table["sample"][place] == np.arange(len(pointers)))
        sizes = beton.table["size"][place]
    else:
        sizes = np.zeros(len(pointers), np.uint64)
    for sample in np.flatnonzero(~found):
        report.add("its data is not in the allocation table", int(sample), item.name)
    wrong = _wrong_sizes(item, column, sizes) & found
    for sample in np.flatnonzero(wrong):
        report.add(f"{_described(item, column[sample])} do not fit its {sizes[sample]} bytes", int(sample), item.name)
    return np.asarray(found & ~wrong)


def _wrong_sizes(item: Field, column: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if item.kind == "image":
        pixels = column["width"].astype(np.uint64) * column["height"]
        raw = column["mode"] == RAW
        wrong = (raw & (sizes != 3 * pixels)) | (pixels == 0) | ~(raw | (column["mode"] == JPG))
        return np.asarray(wrong | (~raw & (sizes < 4)))
    if item.kind == "array" and item.element is not None:
        return np.asarray(sizes != item.element.itemsize * int(np.prod(item.shape)))
    return np.asarray(sizes != column["size"])


def _described(item: Field, row: Any) -> str:
    if item.kind == "image":
        return f"{row['width']} x {row['height']} pixels (mode {row['mode']})"
    return "the values of shape " + str(item.shape) if item.kind == "array" else f"{row['size']} bytes"


def _look_at_images(
    beton: Beton,
    item: Field,
    good: np.ndarray[Any, Any],
    report: CheckReport,
    *,
    images: int | None,
    full: bool,
    progress: Callable[[int, int], object] | None,
) -> None:
    column = beton.column(item.name)
    wanted = np.flatnonzero(good & (column["mode"] == JPG))
    if images is not None and len(wanted) > images:
        wanted = wanted[np.linspace(0, len(wanted) - 1, images).astype(np.int64)]
    place = np.searchsorted(beton.table["ptr"], column["data_ptr"][wanted])
    with open(beton.path, "rb") as file:
        data = np.memmap(file, np.uint8, "r")
        for number, (sample, row) in enumerate(zip(wanted, beton.table[place], strict=True)):
            start = int(row["ptr"])
            _look_at(data[start : start + int(row["size"])], column[sample], int(sample), item.name, full, report)
            if progress is not None and number % 64 == 0:
                progress(number, len(wanted))
    if progress is not None:
        progress(len(wanted), len(wanted))


def _look_at(data: Any, row: Any, sample: int, name: str, full: bool, report: CheckReport) -> None:
    report.images += 1
    size = jpeg_size(data)
    if size is None or bytes(data[-2:]) != b"\xff\xd9":
        report.add("its JPEG data is damaged: a marker is missing", sample, name)
    elif size != (row["height"], row["width"]):
        pixels = f"{size[1]} x {size[0]} pixels, its record {row['width']} x {row['height']}"
        report.add(f"its JPEG has {pixels}", sample, name)
    elif full:
        report.decoded += 1
        if not decodes(data, *size):
            report.add("its JPEG data does not decode", sample, name)
