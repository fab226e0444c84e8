"""Real photographs as ``.beton`` files: crops of pictures that are shipped inside installed packages.

A crop's label is the picture it was cut from. Crops for training come from one side of a picture, those for validation
from the other, so that they share no pixel.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.demo.photographs import TRAIN_SHARE, find

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = 16
SIDE = 96
"""Pixels of a crop."""
TRAIN, VAL = 60, 24
"""Crops of each picture."""
_MEAN, _STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


class Crops:
    """``(pixels, label)`` of crops that are all different.

    Args:
        part: ``"train"`` or ``"val"``.
    """

    def __init__(self, part: str) -> None:
        self.part = part
        self.each = TRAIN if part == "train" else VAL
        self._pictures = [_upright(Image.open(path).convert("RGB")) for path in find()]

    def __len__(self) -> int:
        return self.each * len(self._pictures)

    def __getitem__(self, index: int) -> tuple[np.ndarray[Any, Any], int]:
        label = index % len(self._pictures)
        picture, places = self._pictures[label], random.Random(f"{self.part} {index}")
        border = int(picture.width * TRAIN_SHARE)
        left, right = (0, border) if self.part == "train" else (border, picture.width)
        x, y = places.randint(left, right - SIDE), places.randint(0, picture.height - SIDE)
        return np.asarray(picture.crop((x, y, x + SIDE, y + SIDE))), label


def _upright(picture: Image.Image) -> Image.Image:
    """Its longer side from left to right."""
    return picture.transpose(Image.Transpose.ROTATE_90) if picture.width < picture.height else picture


def prepare(folder: Path) -> tuple[Path, Path]:
    """The files for training and validation, written once."""
    from ffcv.fields import IntField, RGBImageField

    from safeloader.ffcv import write

    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.beton", folder / "val.beton"
    for path in paths:
        if not path.exists():
            write(path, Crops(path.stem), {"image": RGBImageField("jpg"), "label": IntField()}, num_workers=0)
    return paths


def training(size: int) -> dict[str, Any]:
    """Random resized crop, flip, normalize."""
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.transforms import RandomHorizontalFlip

    return _pipelines([RandomResizedCropRGBImageDecoder((size, size), scale=(0.35, 1.0)), RandomHorizontalFlip()])


def validation(size: int) -> dict[str, Any]:
    """Resize, normalize: without chance."""
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder

    return _pipelines([CenterCropRGBImageDecoder((size, size), 1.0)])


def _pipelines(decoding: list[Any]) -> dict[str, Any]:
    from ffcv.fields.basics import IntDecoder
    from ffcv.transforms import NormalizeImage, Squeeze, ToTensor, ToTorchImage

    image = [*decoding, NormalizeImage(_MEAN, _STD, np.float32), ToTensor(), ToTorchImage()]
    return {"image": image, "label": [IntDecoder(), ToTensor(), Squeeze()]}
