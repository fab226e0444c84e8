"""The tables of a ``.beton`` file, read with numpy alone: neither FFCV nor a compiler is needed.

::

    | header | field descriptors | metadata: one record a sample | pages of data ... | allocation table |
                                        └── pointers ─────────────────▲    ▲── (sample, pointer, size) ──┘

The layout is FFCV's version 2 (``ffcv/types.py``).
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from safeloader.errors import BetonError, PipelineError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ALLOCATION",
    "FIELD",
    "HEADER",
    "JPG",
    "RAW",
    "Beton",
    "Field",
    "Fingerprint",
    "fingerprint",
    "unchanged",
]

VERSION = 2
HEADER = np.dtype(
    [("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"), ("num_samples", "<u8"), ("table", "<u8")],
    align=True,
)
FIELD = np.dtype([("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
ALLOCATION = np.dtype([("sample", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
JPG, RAW = 0, 1

_IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_BYTES = np.dtype([("ptr", "<u8"), ("size", "<u8")])
_KINDS: dict[int, tuple[str, np.dtype[Any]]] = {
    0: ("float", np.dtype("<f8")),
    1: ("int", np.dtype("<i8")),
    2: ("image", _IMAGE),
    3: ("bytes", _BYTES),
    4: ("array", np.dtype("<u8")),
    5: ("json", _BYTES),
    6: ("array", np.dtype("<u8")),
}
_ARRAY = np.dtype([("shape", "<u8", 32), ("type_length", "<u8")])


class Fingerprint(NamedTuple):
    """What tells whether a file is still the same."""

    inode: int
    size: int
    modified: int


def fingerprint(path: str) -> Fingerprint:
    """The file as it is now.

    Raises:
        FileNotFoundError: There is none.
    """
    found = os.stat(path)
    return Fingerprint(found.st_ino, found.st_size, found.st_mtime_ns)


def unchanged(path: str, before: Fingerprint) -> None:
    """Look whether a file is still the one that was opened.

    Raises:
        BetonError: It was replaced, truncated or written to.
        FileNotFoundError: It is gone.
    """
    now = fingerprint(path)
    if now == before:
        return
    how = "replaced" if now.inode != before.inode else "changed"
    if now.size < before.size:
        how = f"cut off from {before.size:,} to {now.size:,} bytes"
    raise BetonError(
        f"{path} was {how} after it was opened",
        where=path,
        hint="never write to a .beton file that is in use: write another one and make a new loader",
    )


class Field(NamedTuple):
    """One field of the samples.

    ``kind`` is float, int, image, bytes, array, json or custom; ``dtype`` that of its metadata; ``shape`` and
    ``element`` describe an array's values.
    """

    name: str
    kind: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    element: np.dtype[Any] | None = None


class Beton:
    """A file's tables.

    Attributes:
        path: Its path.
        print: Its fingerprint when it was opened.
        fields: Its fields by name, in order.
        custom_handlers: FFCV's handlers of custom fields, by name.
        metadata: One record a sample; column ``f0`` belongs to the first field.
        table: The allocation table, sorted by pointer.
        descriptors: The field descriptors, as they stand in the file.
        num_fields: How many fields a sample has.
        num_samples: How many samples there are.
        page_size: Bytes of a page of data.
        data_start: Where the data begin, in bytes.
        table_start: Where the allocation table begins, in bytes.

    Args:
        path: The file.
        custom_fields: Classes of custom fields by name, as FFCV's loader takes them.

    Raises:
        FileNotFoundError: There is no such file.
        BetonError: It is no ``.beton`` file, unfinished, or cut off.
    """

    num_fields: int
    num_samples: int
    page_size: int
    table_start: int
    descriptors: np.ndarray[Any, Any]
    table: np.ndarray[Any, Any]

    def __init__(self, path: str | os.PathLike[str], custom_fields: Mapping[str, Any] | None = None) -> None:
        self.path: str = os.fspath(path)
        self.print: Fingerprint = fingerprint(self.path)
        self._read_header()
        self._read_fields(custom_fields or {})
        start = HEADER.itemsize + self.num_fields * FIELD.itemsize
        dtype = np.dtype([("", field.dtype) for field in self.fields.values()], align=True)
        self.data_start: int = start + self.num_samples * dtype.itemsize
        if self.data_start > self.table_start:
            raise self.damaged(f"its tables need {self.data_start:,} bytes, its data ends at {self.table_start:,}")
        self.metadata: np.ndarray[Any, Any] = np.fromfile(self.path, dtype, self.num_samples, offset=start)
        self._read_table()

    def damaged(self, what: str, hint: str = "") -> BetonError:
        """An error about this file.

        Args:
            what: What is wrong with it.
            hint: What to do; to write or copy it again by default.
        """
        return BetonError(
            f"{self.path} is damaged: {what}", where=self.path, hint=hint or "write it again, or copy it again"
        )

    def _read_header(self) -> None:
        size = self.print.size
        if size < HEADER.itemsize:
            raise self.damaged(f"it has {size} bytes, less than a header")
        header = np.fromfile(self.path, HEADER, 1)[0]
        if header["version"] != VERSION:
            raise self.damaged(
                f"its version is {header['version']}, not {VERSION}", "is this a .beton file of FFCV 0.0.3 or later?"
            )
        self.num_fields, self.page_size = int(header["num_fields"]), int(header["page_size"])
        self.num_samples, self.table_start = int(header["num_samples"]), int(header["table"])
        if self.table_start == 0:
            raise self.damaged(
                "it was never finished: its header does not say where the allocation table is",
                "the program that wrote it was interrupted; write it again, with safeloader.ffcv.write it is "
                "complete or not there",
            )
        if self.table_start > size:
            raise self.damaged(f"it is cut off: {size:,} bytes of more than {self.table_start:,} are there")
        if not self.num_fields or not self.page_size or self.page_size & (self.page_size - 1):
            raise self.damaged(f"its header says {self.num_fields} fields and pages of {self.page_size} bytes")
        if HEADER.itemsize + self.num_fields * FIELD.itemsize > size:
            raise self.damaged(f"its {self.num_fields} field descriptors are cut off")

    def _read_fields(self, custom: Mapping[str, Any]) -> None:
        self.descriptors = np.fromfile(self.path, FIELD, self.num_fields, offset=HEADER.itemsize)
        self.fields: dict[str, Field] = {}
        self.custom_handlers: dict[str, Any] = {}
        for row in self.descriptors:
            try:
                name = row["name"].tobytes().split(b"\0")[0].decode("ascii")
                if name in custom:
                    self.custom_handlers[name] = custom[name].from_binary(row["arguments"])
                self.fields[name] = _field(name, row, self.custom_handlers)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError, SyntaxError) as reason:
                raise self.damaged(f"a field descriptor cannot be read ({reason})") from reason

    def _read_table(self) -> None:
        rest = self.print.size - self.table_start
        if rest % ALLOCATION.itemsize:
            raise self.damaged(f"its allocation table is cut off in the middle of a row ({rest:,} bytes)")
        table = np.fromfile(self.path, ALLOCATION, offset=self.table_start)
        self.rows = table
        self.table = table[np.argsort(table["ptr"], kind="stable")]

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """The metadata of a field.

        Args:
            name: The field's name.

        Returns:
            One record a sample, in the order of the samples.
        """
        found: np.ndarray[Any, Any] = self.metadata[f"f{list(self.fields).index(name)}"]
        return found

    def page_to_samples(self) -> dict[Any, set[Any]]:
        """Which samples have data on which page, built as FFCV builds it: its quasi-random order depends on that."""
        pages: dict[Any, set[Any]] = defaultdict(set)
        shift = np.uint64(self.page_size.bit_length() - 1)
        for sample, page in zip(self.rows["sample"], self.rows["ptr"] >> shift, strict=True):
            pages[page].add(sample)
        return pages


def _field(name: str, row: Any, custom: Mapping[str, Any]) -> Field:
    if name in custom:
        return Field(name, "custom", np.dtype(custom[name].metadata_type))
    if row["type_id"] == 255:
        raise PipelineError(
            f"field {name!r} is of a custom type that is not known here",
            hint=f"give custom_fields={{{name!r}: its class}}",
        )
    kind, dtype = _KINDS[int(row["type_id"])]
    if kind != "array":
        return Field(name, kind, dtype)
    head = row["arguments"][: _ARRAY.itemsize].view(_ARRAY)[0]
    described = row["arguments"][_ARRAY.itemsize :][: int(head["type_length"])].tobytes().decode("ascii")
    element = np.dtype([tuple(part) for part in json.loads(described)])["f0"]
    if element.hasobject or not element.itemsize:
        raise ValueError(f"its elements are of type {element}")
    shape = tuple(int(n) for n in np.trim_zeros(head["shape"], "b"))
    return Field(name, kind, dtype, shape, element)
