"""What JPEG images a dataset opens with Pillow, and how long these take with other decoders, measured."""

from __future__ import annotations

import importlib
import importlib.util
import io
import sys
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["DRAFT", "FFCV", "ImagesSeen", "Trial", "trials"]

DRAFT = "Pillow with draft"
FFCV = "FFCV"
_MOST = 8
_ROUNDS = 3


class Trial(NamedTuple):
    """What a decoder makes of the images.

    Attributes:
        decoder: its name.
        seconds: that it takes for one, resizing included where the dataset resizes.
    """

    decoder: str
    seconds: float


class ImagesSeen:
    """The JPEG images that profiled samples opened.

    Attributes:
        returned: what a `StageClock` calls when a function of Pillow's returns.
        size: of the image that was opened last; None if none was.
        target: the least size that a whole image was resized to, if it is at most half of its own.
    """

    def __init__(self) -> None:
        self.returned: dict[Any, Callable[[FrameType, Any], None]] = {}
        self.size: tuple[int, int] | None = None
        self.target: tuple[int, int] | None = None
        self._sources: list[str | bytes] = []

    def attend(self) -> None:
        """Listen to Pillow, if the dataset has imported it by now."""
        pillow: Any = sys.modules.get("PIL.Image")
        if pillow is not None and not self.returned:
            self.returned[pillow.open.__code__] = self._opened
            self.returned[pillow.Image.resize.__code__] = self._resized

    def contents(self) -> list[bytes]:
        """Some of the images, encoded."""
        found: list[bytes] = []
        for source in self._sources:
            with suppress(OSError):
                found.append(source if isinstance(source, bytes) else Path(source).read_bytes())
        return found

    def _opened(self, _: FrameType, image: Any) -> None:
        self.size = None
        if getattr(image, "format", None) != "JPEG":
            return
        self.size = image.size
        if len(self._sources) < _MOST:
            file, name = getattr(image, "fp", None), getattr(image, "filename", "")
            if name:
                self._sources.append(str(name))
            elif isinstance(file, io.BytesIO):
                self._sources.append(file.getvalue())

    def _resized(self, frame: FrameType, result: Any) -> None:
        before, after = getattr(frame.f_locals.get("self"), "size", None), getattr(result, "size", None)
        if before is None or after is None or before != self.size:
            return  # a part of an image, or one that was decoded smaller
        if 2 * after[0] <= before[0] and 2 * after[1] <= before[1]:
            self.target = after if self.target is None else min(self.target, after)


def trials(contents: list[bytes], target: tuple[int, int] | None) -> list[Trial]:
    """Decode images with Pillow, and with what else is installed; Pillow is the first.

    Args:
        contents: the images, encoded.
        target: the size that each is resized to; None: they are only decoded.
    """
    found: list[Trial] = []
    for name, decode in _decoders(target):
        try:
            rounds = [_time(decode, contents) for _ in range(_ROUNDS)]
        except Exception:  # it is broken here, or one of the images is nothing for it
            if not found:
                return []
            continue
        found.append(Trial(name, min(rounds) / len(contents)))
    return found


def _time(decode: Callable[[bytes], Any], contents: list[bytes]) -> float:
    begun = perf_counter()
    for content in contents:
        decode(content)
    return perf_counter() - begun


def _decoders(target: tuple[int, int] | None) -> list[tuple[str, Callable[[bytes], Any]]]:
    pillow = importlib.import_module("PIL.Image")
    found: list[tuple[str, Callable[[bytes], Any]]] = []

    def plain(content: bytes, draft: bool = False) -> Any:
        image = pillow.open(io.BytesIO(content))
        if draft:
            image.draft("RGB", target)
        image = image.convert("RGB")
        return image if target is None else image.resize(target)

    found.append(("Pillow", plain))
    if target is not None:
        found.append((DRAFT, lambda content: plain(content, draft=True)))
    if importlib.util.find_spec("cv2") is not None:
        found.append(("OpenCV", _opencv(target)))
    if importlib.util.find_spec("torchvision") is not None:
        found.append(("torchvision.io", _torchvision(target)))
    return found


def _opencv(target: tuple[int, int] | None) -> Callable[[bytes], Any]:
    numpy, cv2 = importlib.import_module("numpy"), importlib.import_module("cv2")

    def decode(content: bytes) -> Any:
        image = cv2.cvtColor(cv2.imdecode(numpy.frombuffer(content, "uint8"), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return image if target is None else cv2.resize(image, target, interpolation=cv2.INTER_AREA)

    return decode


def _torchvision(target: tuple[int, int] | None) -> Callable[[bytes], Any]:
    torch, io_ = importlib.import_module("torch"), importlib.import_module("torchvision.io")

    def decode(content: bytes) -> Any:
        image = io_.decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=io_.ImageReadMode.RGB)
        if target is None:
            return image
        return torch.nn.functional.interpolate(image[None], target[::-1], mode="bilinear", antialias=True)

    return decode
