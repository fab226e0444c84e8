"""A checkpoint's file: written whole or not at all, and read only if every byte is as it was written.

::

    | payload: what torch.save writes | manifest: JSON | lengths, digests of both, magic (fixed size) |

``torch.load(path, weights_only=True)`` reads the payload from such a file, too: it does not look behind it. A file
appears under its name by one rename, after its bytes are on the disk; so at each instant, kill -9 included, there is
the old state of the folder or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
import struct
from typing import IO, TYPE_CHECKING, Any

import torch

from safeloader.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["is_full", "read", "read_manifest", "sweep", "write"]

_MAGIC = b"SAFELDR1"
_FOOTER = struct.Struct("<QQ32s32s8s")  # payload's length, manifest's length, their digests, magic
_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _digest() -> Any:
    return hashlib.blake2b(digest_size=32)


class _Sink:
    """What torch.save writes to: file and digest. An error is kept, since torch's writer would bury it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = _digest()
        self.length = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self._file.write(data)
                self.digest.update(data)
            except OSError as error:
                self.error = error
        self.length += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing: all is flushed at the end."""


def write(path: Path, payload: Any, manifest: dict[str, Any]) -> None:
    """Write a checkpoint under its name, whole or not at all.

    Args:
        path: its file; a file of that name is replaced in the same instant.
        payload: plain values and tensors (see `plain`).
        manifest: what JSON can hold.

    Raises:
        CheckpointError: it could not be written (no space, no permission). Nothing of it is left, and no other
            file was touched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            _lock(file.fileno())  # tells a living writer's file from one that was left behind
            _write_all(file, payload, manifest)
            file.flush()
            _to_disk(file.fileno())
            os.replace(temporary, path)
        _folder_to_disk(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write_all(file: IO[bytes], payload: Any, manifest: dict[str, Any]) -> None:
    sink = _Sink(file)
    torch.save(payload, sink)  # type: ignore[arg-type]
    if sink.error is not None:
        raise sink.error
    text = json.dumps(manifest).encode()
    head = struct.pack("<QQ", sink.length, len(text)) + sink.digest.digest()
    seal = _digest()
    seal.update(text)
    seal.update(head)
    file.write(text)
    file.write(_FOOTER.pack(sink.length, len(text), sink.digest.digest(), seal.digest(), _MAGIC))


def is_full(error: CheckpointError) -> bool:
    """Whether a checkpoint could not be written for want of space."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL


def _not_written(path: Path, error: OSError) -> CheckpointError:
    hint = "look at the folder's permissions and at the disk"
    if error.errno in _FULL:
        free = ""
        with contextlib.suppress(OSError):
            free = f" ({shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free)"
        hint = f"make room{free}, keep fewer checkpoints, or give another folder"
    return CheckpointError(
        f"the checkpoint could not be written: {error.strerror or error}; the older ones are untouched",
        path=str(path),
        hint=hint,
    )


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody else's, or a file system without locks
        return False
    return True


def _to_disk(descriptor: int) -> None:
    full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: its fsync stops at the drive's cache
    if full is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


def _folder_to_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path, prefix: str) -> int:
    """Remove what writers that were killed have left. Returns how many files."""
    removed = 0
    for path in folder.glob(f".{glob.escape(prefix)}*.tmp"):
        with contextlib.suppress(OSError, CheckpointError), _opened(path) as file:
            if _lock(file.fileno()):
                path.unlink()
                removed += 1
    return removed


# ---------------------------------------------------------------- reading


class _Slice(io.RawIOBase):
    """The first bytes of a file, as a file."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        self._file = file
        self._length = length
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(min(len(view), self._length - self._at), 0)
        self._file.seek(self._at)
        data = self._file.read(wanted)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, without the payload: cheap. The file is complete and its manifest as it was written.

    Raises:
        CheckpointError: it is not; the message says how.
    """
    with _opened(path) as file:
        return _manifest(file, path)[0]


def read(path: Path, check: Callable[[dict[str, Any]], None] | None = None) -> tuple[dict[str, Any], Any]:
    """Manifest and payload of a file, each byte of which is as it was written. Tensors come to the CPU.

    Args:
        path: its file.
        check: looks at the manifest first, and raises if the payload is not wanted.

    Raises:
        CheckpointError: the file is damaged; the message says how.
    """
    with _opened(path) as file:
        manifest, length, wanted = _manifest(file, path)
        if check is not None:
            check(manifest)
        if _hashed(file, length) != wanted:
            raise _damaged(path, "its content is not what was written (the digest differs)")
        try:
            payload = torch.load(_Slice(file, length), map_location="cpu", weights_only=True)  # type: ignore[arg-type]
        except Exception as error:  # the bytes are right, so it is this torch that cannot read them
            raise CheckpointError(
                f"torch {torch.__version__} cannot read it: {error}",
                path=str(path),
                hint=f"it was written with torch {manifest.get('torch')}",
            ) from error
    return manifest, payload


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe that nobody writes to is no wait
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointError("the checkpoint cannot be read: it is no file", path=str(path))
            yield file
    except OSError as error:
        raise CheckpointError(f"the checkpoint cannot be read: {error.strerror or error}", path=str(path)) from error


def _manifest(file: IO[bytes], path: Path) -> tuple[dict[str, Any], int, bytes]:
    size = os.fstat(file.fileno()).st_size
    if size < _FOOTER.size:
        raise _damaged(path, f"it is cut off: {size:,} bytes are left")
    file.seek(size - _FOOTER.size)
    payload_length, manifest_length, payload_digest, seal, magic = _FOOTER.unpack(file.read(_FOOTER.size))
    if magic != _MAGIC:
        raise _damaged(path, "it is cut off, or no checkpoint of safeloader: its end is missing")
    if payload_length + manifest_length + _FOOTER.size != size:
        raise _damaged(path, f"it should have {payload_length + manifest_length + _FOOTER.size:,} bytes, not {size:,}")
    file.seek(payload_length)
    text = file.read(manifest_length)
    found = _digest()
    found.update(text)
    found.update(struct.pack("<QQ", payload_length, manifest_length) + payload_digest)
    if found.digest() != seal:
        raise _damaged(path, "its manifest is not what was written (the digest differs)")
    try:
        manifest: Any = json.loads(text)
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict):
        raise _damaged(path, "its manifest is none")
    return manifest, payload_length, payload_digest


def _hashed(file: IO[bytes], length: int) -> bytes:
    digest = _digest()
    file.seek(0)
    while length > 0:
        data = file.read(min(_CHUNK, length))
        if not data:
            break
        digest.update(data)
        length -= len(data)
    hashed: bytes = digest.digest()
    return hashed


def _damaged(path: Path, how: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint is damaged: {how}", path=str(path), hint="store.latest_good() passes it over"
    )
