"""Make a ``.beton`` file: whole, or not at all.

FFCV's own writer waits for ever when a sample raises or a worker dies, and leaves a file that is not finished under the
final name. Here samples are loaded and encoded by safeloader's DataLoader, whose workers may die, and this process
alone writes: a temporary file beside the target that is renamed when it is complete.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from safeloader.errors import BetonError, SettingsError
from safeloader.ffcv.beton import ALLOCATION, FIELD, HEADER, VERSION
from safeloader.ffcv.require import require

if TYPE_CHECKING:
    from safeloader.config import Policy

__all__ = ["write"]

_MARK = 0xB3E7_0000_0000_0000 | (0x5AFE << 32)  # no pointer of a file is as large as this


class Encoded(NamedTuple):
    """A sample as it goes into the file; pointers in ``record`` still count from `_MARK`."""

    record: bytes
    blobs: list[bytes]


class Encoding:
    """A dataset whose samples are encoded by fields. Lives in the workers.

    Args:
        dataset: The user's.
        fields: FFCV's fields by name.
    """

    def __init__(self, dataset: Any, fields: Mapping[str, Any]) -> None:
        self.dataset = dataset
        self.fields = dict(fields)

    def __getitem__(self, index: int) -> Encoded:
        sample = self.dataset[index]
        if not isinstance(sample, Sequence) or len(sample) != len(self.fields):
            raise ValueError(
                f"sample {index} must be a tuple of {len(self.fields)} values, for the fields {', '.join(self.fields)}"
            )
        record = np.zeros(1, _record_dtype(self.fields))
        memory = _Memory()
        for column, (field, value) in enumerate(zip(self.fields.values(), sample, strict=True)):
            field.encode(record[f"f{column}"], value, memory.malloc)
        return Encoded(record.tobytes(), [blob.tobytes() for blob in memory.blobs])


class _Memory:
    """What FFCV's fields write into."""

    def __init__(self) -> None:
        self.blobs: list[np.ndarray[Any, Any]] = []

    def malloc(self, size: int) -> tuple[int, Any]:
        """A pointer, still a mark, and the memory it stands for."""
        self.blobs.append(np.zeros(int(size), np.uint8))
        return _MARK + len(self.blobs) - 1, self.blobs[-1]


def write(
    path: str | os.PathLike[str],
    dataset: Any,
    fields: Mapping[str, Any],
    *,
    indices: Sequence[int] | None = None,
    num_workers: int = -1,
    page_size: int = 8 << 20,
    policy: Policy | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> int:
    """Write an indexable dataset as a ``.beton`` file that FFCV reads.

    Args:
        path: The file; replaced only when the new one is complete.
        dataset: ``dataset[i]`` is a tuple with one value a field.
        fields: FFCV's fields by name, in the order of a sample's values.
        indices: Samples to write, in this order; all of ``len(dataset)`` by default.
        num_workers: Processes that load and encode; below 0: one a core. 0: this process.
        page_size: Bytes of a page: a power of two from 2 MiB to below 4 GiB. No sample can be larger.
        policy: What to do about faults, as for DataLoader.
        progress: Called with (samples done, samples in all).

    Returns:
        Number of samples written: fewer than asked for where the policy leaves bad ones out.

    Raises:
        SettingsError: No samples, no fields, or a page size that is not accepted.
        BetonError: A sample does not fit into a page.
        BadSampleError: A sample kills or hangs every process that loads it.
        Exception: What a sample raised. Nothing is left behind, and an older file stays as it was.
    """
    require()
    wanted = np.arange(len(dataset)) if indices is None else np.asarray(indices)
    _validate(fields, wanted, page_size)
    target = os.path.abspath(os.fspath(path))
    half = f"{target}.{os.getpid()}-{secrets.token_hex(3)}.part"
    try:
        with open(half, "wb") as file:
            pages = _Pages(file, fields, len(wanted), page_size)
            for encoded in _encoded(dataset, fields, wanted, num_workers, policy):
                pages.add(encoded)
                if progress is not None:
                    progress(pages.samples, len(wanted))
            pages.finish()
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(half)
        raise
    return pages.samples


def _validate(fields: Mapping[str, Any], wanted: np.ndarray[Any, Any], page_size: int) -> None:
    if not fields or not len(wanted):
        raise SettingsError("nothing to write: there are no fields, or no samples", where="safeloader.ffcv.write")
    if page_size & (page_size - 1) or not 2 << 20 <= page_size < 4 << 30:
        raise SettingsError(
            f"page_size={page_size} is not accepted: it must be a power of two from 2 MiB to below 4 GiB",
            where="safeloader.ffcv.write",
        )
    for name in fields:
        if not name.isascii() or len(name) > 16:
            raise SettingsError(f"field name {name!r} must have at most 16 ASCII characters", where="fields")


def _encoded(dataset: Any, fields: Mapping[str, Any], wanted: Any, num_workers: int, policy: Policy | None) -> Any:
    from safeloader.loader import DataLoader

    if num_workers < 0:
        num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    batches = [wanted[start : start + 16].tolist() for start in range(0, len(wanted), 16)]
    encoding: Any = Encoding(dataset, fields)
    inner: DataLoader[Any] = DataLoader(
        encoding, batch_sampler=batches, num_workers=min(num_workers, len(batches)),
        collate_fn=list, policy=policy, name="beton writer",
        multiprocessing_context="spawn" if num_workers else None,
    )  # fmt: skip
    with inner as loader:
        for batch in loader:
            yield from batch


def _record_dtype(fields: Mapping[str, Any]) -> np.dtype[Any]:
    return np.dtype([("", field.metadata_type) for field in fields.values()], align=True)


class _Pages:
    """Writes a file from front to back, one page in memory."""

    def __init__(self, file: Any, fields: Mapping[str, Any], samples: int, page_size: int) -> None:
        self._file = file
        self._page = bytearray()
        self._page_size = page_size
        self._allocations: list[tuple[int, int, int]] = []
        self.samples = 0
        self._head = np.zeros(1, HEADER)
        self._head[0] = (VERSION, len(fields), page_size, samples, 0)
        self._descriptors = _descriptors(fields)
        self._records = np.zeros(samples, _record_dtype(fields))
        tables = self._head.nbytes + self._descriptors.nbytes + self._records.nbytes
        self._start = -(-tables // page_size) * page_size
        file.seek(self._start)

    def add(self, encoded: Encoded) -> None:
        """Put the next sample onto a page, all of it onto the same."""
        number = self.samples
        needed = sum(map(len, encoded.blobs))
        if needed > self._page_size:
            raise BetonError(
                f"sample {number} has {needed:,} bytes, more than a page of {self._page_size:,}",
                hint="give a larger page_size, or smaller images (max_resolution, jpeg_quality)",
            )
        if len(self._page) + needed > self._page_size:
            self._flush()
        record = encoded.record
        for place, blob in enumerate(encoded.blobs):
            pointer = self._start + len(self._page)
            record = record.replace((_MARK + place).to_bytes(8, "little"), pointer.to_bytes(8, "little"))
            self._page += blob
            self._allocations.append((number, pointer, len(blob)))
        self._records[number] = np.frombuffer(record, self._records.dtype)[0]
        self.samples += 1

    def _flush(self) -> None:
        self._file.write(self._page.ljust(self._page_size, b"\0"))
        self._start += self._page_size
        self._page = bytearray()

    def finish(self) -> None:
        """Write the last page and the tables; the header, which makes the file valid, last of all."""
        if not self.samples:
            raise BetonError("nothing to write: every sample was left out as bad")
        if self._page:
            self._flush()
        self._head["table"], self._head["num_samples"] = self._start, self.samples
        self._file.truncate(self._start)  # samples of numbers alone have no pages
        self._file.seek(self._start)
        self._file.write(np.array(self._allocations, ALLOCATION).tobytes())
        self._file.seek(self._head.nbytes)
        self._file.write(self._descriptors.tobytes() + self._records[: self.samples].tobytes())
        self._file.flush()
        self._file.seek(0)
        self._file.write(self._head.tobytes())


def _descriptors(fields: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    from ffcv.types import TYPE_ID_HANDLER

    numbers = {kind: number for number, kind in TYPE_ID_HANDLER.items()}
    rows = np.zeros(len(fields), FIELD)
    for row, (name, field) in zip(rows, fields.items(), strict=True):
        row["type_id"] = numbers.get(type(field), 255)
        row["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
        row["arguments"][:] = np.frombuffer(field.to_binary().tobytes(), np.uint8)
    return rows
