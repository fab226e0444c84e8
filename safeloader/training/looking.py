"""What a checkpoint is, whoever wrote it: complete, finite, of which epoch, with which metric. Nothing is executed."""

from __future__ import annotations

import importlib
import json
import math
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from safeloader.errors import CheckpointError
from safeloader.training import atomic_file
from safeloader.training.scan import not_finite
from safeloader.training.unpickling import Stub, read_torch

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Looked", "content_of", "found_in", "look_at"]

_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".bin")
_STEPS = ("global_step", "step", "iteration", "iter", "steps")
_METRICS = ("metric", "best_fitness", "best_metric", "best_acc1", "best_acc", "best_score", "best", "val_loss", "loss")
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass
class Looked:
    """A checkpoint, looked at.

    Attributes:
        path: Its file or folder.
        kind: ``"safeloader"``, ``"torch"``, ``"lightning"``, ``"safetensors"`` or ``"dcp"``.
        size: Bytes.
        age: Seconds since it was written.
        epoch: Its epoch, if it says one.
        step: Its step, if it says one.
        metric: Its metric, if it says one.
        finite: Whether all of it is; None: not looked at.
        problem: Why it is not good; "" if it is.
    """

    path: Path
    kind: str = "?"
    size: int = 0
    age: float = 0.0
    epoch: Any = None
    step: Any = None
    metric: Any = None
    finite: bool | None = None
    problem: str = ""
    tensors: dict[str, Any] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "path": str(self.path), "kind": self.kind, "size": self.size, "age": round(self.age, 1),
            "epoch": self.epoch, "step": self.step, "metric": self.metric, "finite": self.finite,
            "problem": self.problem,
        }  # fmt: skip


def found_in(path: Path) -> Iterator[Path]:
    """The checkpoints at a path: itself, or what lies in the folder and below it."""
    if not path.is_dir() or (path / ".metadata").is_file():
        yield path
        return
    for one in sorted(path.iterdir()):
        if one.is_dir() or (one.suffix in _SUFFIXES and one.is_file() and not one.name.startswith(".")):
            yield from found_in(one)


def look_at(path: Path, deep: bool = True, may_be_infinite: tuple[str, ...] = ()) -> Looked:
    """Look at a checkpoint.

    Args:
        path: A file, or a folder of torch.distributed.checkpoint.
        deep: Read all of it, and look for NaN and infinity.
        may_be_infinite: Patterns of tensors in which infinities are meant.
    """
    looked = Looked(path)
    try:
        looked.size = sum(p.stat().st_size for p in path.iterdir()) if path.is_dir() else path.stat().st_size
        looked.age = time.time() - path.stat().st_mtime
        if not path.is_dir() and not path.is_file():
            raise CheckpointError("it is no file")
        content = content_of(looked, deep)
        if deep:
            bad = not_finite(content, may_be_infinite)
            looked.finite = not bad
            if bad:
                shown = "; ".join(map(str, bad[:3]))
                looked.problem = f"not finite: {shown}" + (f"; and {len(bad) - 3} more" if len(bad) > 3 else "")
    except CheckpointError as error:
        looked.problem = error.what
    except OSError as error:
        looked.problem = str(error.strerror or error)
    return looked


def content_of(looked: Looked, deep: bool = True) -> Any:
    """What a checkpoint holds; what it says of itself is noted.

    Raises:
        CheckpointError: It is damaged, or none.
    """
    path = looked.path
    if path.is_dir():
        return _dcp(looked, deep)
    if path.suffix == ".safetensors":
        return _safetensors(looked, deep)
    try:
        manifest = atomic_file.read_manifest(path)
    except CheckpointError:
        return _torch(looked)
    looked.kind = "safeloader"
    looked.step, looked.metric = manifest.get("step"), manifest.get("metric")
    if not deep:
        return {}
    content = atomic_file.read(path)[1]
    extra = content.get("extra") if isinstance(content, dict) else None
    looked.epoch = extra.get("epoch") if isinstance(extra, dict) else None
    return content


def _torch(looked: Looked) -> Any:
    content = read_torch(looked.path)
    looked.kind = "torch"
    if isinstance(content, Stub):
        return {content.name: content}
    if not isinstance(content, Mapping):
        return content
    if "pytorch-lightning_version" in content:
        looked.kind = "lightning"
    looked.epoch = _number(content.get("epoch"))
    looked.step = next((n for key in _STEPS if (n := _number(content.get(key))) is not None), None)
    looked.metric = next((n for key in _METRICS if (n := _number(content.get(key))) is not None), None)
    callbacks = content.get("callbacks")
    for name, state in callbacks.items() if isinstance(callbacks, Mapping) else ():
        if "ModelCheckpoint" in str(name) and isinstance(state, Mapping):
            looked.metric = _number(state.get("current_score", state.get("best_model_score")))
    return content


def _number(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _safetensors(looked: Looked, deep: bool) -> Any:
    looked.kind = "safetensors"
    with open(looked.path, "rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 0 < length <= looked.size - 8:
            raise CheckpointError("it is cut off in its header, or no safetensors file")
        try:
            table = json.loads(file.read(length))
            about = table.pop("__metadata__", None) or {}
            ends = [int(row["data_offsets"][1]) for row in table.values()]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as reason:
            raise CheckpointError(f"its header cannot be read: {reason!r}") from reason
        if max(ends, default=0) != looked.size - 8 - length:
            raise CheckpointError(f"it should have {max(ends, default=0) + 8 + length:,} bytes, not {looked.size:,}")
        looked.epoch, looked.step = about.get("epoch"), about.get("step")
        return {name: _slice(file, 8 + length, row) for name, row in table.items()} if deep else {}


def _slice(file: Any, start: int, row: Any) -> Any:
    dtype = _DTYPES.get(row["dtype"])
    begin, end = row["data_offsets"]
    if dtype is None or end <= begin:
        return None
    file.seek(start + begin)
    flat = torch.frombuffer(bytearray(file.read(end - begin)), dtype=dtype)
    shape = row.get("shape")
    return flat.reshape(shape) if isinstance(shape, list) and math.prod(shape) == flat.numel() else flat


def _dcp(looked: Looked, deep: bool) -> Any:
    looked.kind = "dcp"
    if not (looked.path / ".metadata").is_file():
        raise CheckpointError("its .metadata is missing: it was never finished, or is no folder of checkpoints")
    dcp: Any = importlib.import_module("torch.distributed.checkpoint")
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        metadata = dcp.FileSystemReader(looked.path).read_metadata()
        files = {info.relative_path: info.offset + info.length for info in metadata.storage_data.values()}
        for name in files:
            if not (looked.path / name).is_file():
                raise CheckpointError(f"its file {name} is missing")
        for info in metadata.storage_data.values():
            if (looked.path / info.relative_path).stat().st_size < info.offset + info.length:
                raise CheckpointError(f"its file {info.relative_path} is cut off")
        if not deep:
            return {}
        state = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        dcp.load(state, checkpoint_id=looked.path, no_dist=True)
    except CheckpointError:
        raise
    except Exception as reason:
        raise CheckpointError(f"it cannot be read: {reason!r}") from reason
    return state


def age_of(seconds: float) -> str:
    """In the largest unit that fits."""
    for name, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{math.floor(seconds / length)} {name}"
    return f"{seconds:.0f} s"
