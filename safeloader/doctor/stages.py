"""Where the time of a sample goes: reading, decoding, transforming, or the dataset's own code.

A profile function (``sys.setprofile``) sees each call, of Python and of C, and the time counts for the call that is
under way. A call within another keeps the other's stage, unless its own goes deeper: reading within decoding is
reading, a copy within decoding is decoding. Profiled samples take longer, so only their shares count.
"""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["STAGES", "StageClock", "stage_of_function", "stage_of_module"]

STAGES = ("own code", "transform", "decode", "read")
"""From the shallowest to the deepest."""
_OWN, _TRANSFORM, _DECODE, _READ = range(4)

_MODULES = {
    "PIL.Image": _TRANSFORM, "PIL.ImageOps": _TRANSFORM, "PIL.ImageEnhance": _TRANSFORM, "PIL.ImageFilter": _TRANSFORM,
    "PIL": _DECODE, "torchvision.io": _DECODE, "torchvision.transforms": _TRANSFORM, "albumentations": _TRANSFORM,
    "kornia": _TRANSFORM, "imgaug": _TRANSFORM, "monai.transforms": _TRANSFORM, "scipy": _TRANSFORM,
    "skimage.io": _DECODE, "skimage": _TRANSFORM, "imageio": _DECODE, "tifffile": _DECODE, "simplejpeg": _DECODE,
    "turbojpeg": _DECODE, "pydicom": _DECODE, "nibabel": _DECODE, "av": _DECODE, "decord": _DECODE,
    "torchcodec": _DECODE, "soundfile": _DECODE, "torchaudio.transforms": _TRANSFORM, "torchaudio": _DECODE,
    "librosa.core.audio": _DECODE, "librosa": _TRANSFORM, "json": _DECODE, "pickle": _DECODE, "_pickle": _DECODE,
    "zlib": _DECODE, "gzip": _DECODE, "bz2": _DECODE, "lzma": _DECODE, "zstandard": _DECODE, "lz4": _DECODE,
    "torch.serialization": _DECODE, "h5py": _READ, "lmdb": _READ, "sqlite3": _READ, "zipfile": _READ, "tarfile": _READ,
    "numpy.lib": _READ, "fsspec": _READ, "s3fs": _READ, "botocore": _READ, "requests": _READ, "urllib3": _READ,
    "pyarrow": _READ, "transformers": _TRANSFORM, "tokenizers": _TRANSFORM, "torch": _TRANSFORM, "numpy": _TRANSFORM,
    "cv2": _TRANSFORM,
}  # fmt: skip
"""The stage of what a module's functions do; the longest name that fits counts."""
_FUNCTIONS = {
    ("PIL.Image", "open"): _DECODE, ("PIL._imaging", "jpeg_decoder"): _DECODE, ("_io", "open"): _READ,
    ("io", "open"): _READ, ("posix", "open"): _READ, ("posix", "read"): _READ, ("posix", "pread"): _READ,
    ("posix", "stat"): _READ,
    ("cv2", "imread"): _DECODE, ("cv2", "imdecode"): _DECODE,
}  # fmt: skip
_TYPES = {
    "FileIO": _READ, "BufferedReader": _READ, "BufferedRandom": _READ, "TextIOWrapper": _READ,
    "ImagingDecoder": _DECODE, "ImagingCore": _TRANSFORM, "Tensor": _TRANSFORM, "ndarray": _TRANSFORM,
}  # fmt: skip


def stage_of_module(name: str) -> int:
    """The stage of what the functions of a module do."""
    while name:
        if (known := _MODULES.get(name)) is not None:
            return known
        name = name.rpartition(".")[0]
    return _OWN


def stage_of_function(function: Any) -> int:
    """The stage of a function that is written in C."""
    owner = getattr(function, "__self__", None)
    kind = _TYPES.get(type(owner).__name__)
    if kind is not None:
        return kind
    module, name = getattr(function, "__module__", None) or "", function.__name__
    if not module and getattr(sys.modules.get("cv2"), name, None) is function:
        module = "cv2"
    known = _FUNCTIONS.get((module, name))
    return stage_of_module(module or type(owner).__module__) if known is None else known


class StageClock:
    """Counts the time of what is done within it: ``with clock: dataset[5]``.

    Attributes:
        seconds: of each of `STAGES`.
        samples: how often something was done within it.

    Args:
        returned: for code objects of functions, what is called with the frame and the result when one returns.
    """

    def __init__(self, returned: dict[Any, Callable[[FrameType, Any], None]] | None = None) -> None:
        self.seconds = [0.0] * len(STAGES)
        self.samples = 0
        self._returned = {} if returned is None else returned
        self._known: dict[Any, int] = {}
        self._stack: list[int] = []
        self._now = _OWN
        self._since = 0.0

    def shares(self) -> dict[str, float]:
        """The share of each stage; nothing if nothing was done."""
        total = sum(self.seconds)
        return {stage: seconds / total for stage, seconds in zip(STAGES, self.seconds, strict=True)} if total else {}

    def __enter__(self) -> None:
        self._stack.clear()
        self._now = _OWN
        self._since = perf_counter()
        sys.setprofile(self._event)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self.seconds[self._now] += perf_counter() - self._since
        self.samples += 1

    def _event(self, frame: FrameType, event: str, argument: Any) -> None:
        self.seconds[self._now] += perf_counter() - self._since
        if event in ("call", "c_call"):
            self._stack.append(self._now)
            self._now = max(self._now, self._stage(frame, argument if event == "c_call" else None))
        elif self._stack:
            self._now = self._stack.pop()
            if event == "return" and (then := self._returned.get(frame.f_code)) is not None:
                then(frame, argument)
        self._since = perf_counter()

    def _stage(self, frame: FrameType, function: Any) -> int:
        if function is None:
            key: Any = frame.f_globals.get("__name__"), frame.f_code.co_name
        else:
            key = type(getattr(function, "__self__", None)), function.__name__, getattr(function, "__module__", None)
        stage = self._known.get(key)
        if stage is None:
            stage = self._known[key] = _of_python(*key) if function is None else stage_of_function(function)
        return stage


def _of_python(module: Any, name: str) -> int:
    known = _FUNCTIONS.get((module, name))
    return stage_of_module(str(module)) if known is None else known
