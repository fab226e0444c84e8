"""Photographs as a ``.beton`` file and as JPEG bytes, and the pipelines over them."""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from benchmarks.demo.photographs import find

if TYPE_CHECKING:
    from pathlib import Path

MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


class Photographs:
    """Crops of 64 to 256 pixels of real pictures: ``(pixels, label)``.

    Args:
        count: How many.
    """

    def __init__(self, count: int = 2000) -> None:
        self.count = count
        self._pictures = [Image.open(path).convert("RGB") for path in find()]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray[Any, Any], int]:
        places = random.Random(index)
        label = index % len(self._pictures)
        picture = self._pictures[label]
        width, height = (min(places.randint(64, 256), side) for side in picture.size)
        x, y = places.randint(0, picture.width - width), places.randint(0, picture.height - height)
        return np.asarray(picture.crop((x, y, x + width, y + height))), label


class Jpegs(torch.utils.data.Dataset[Any]):
    """The same photographs, decoded with Pillow: random resized crop, flip, normalize, as FFCV's pipeline does.

    Args:
        photographs: Where they come from.
        size: Pixels.
    """

    def __init__(self, photographs: Photographs, size: int) -> None:
        self.size = size
        self.files: list[tuple[bytes, int]] = []
        for index in range(len(photographs)):
            pixels, label = photographs[index]
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=90)
            self.files.append((file.getvalue(), label))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        data, label = self.files[index]
        image = Image.open(io.BytesIO(data)).convert("RGB")
        area = image.width * image.height * random.uniform(0.08, 1.0)
        aspect = float(np.exp(random.uniform(np.log(0.75), np.log(4 / 3))))
        width = min(max(round((area * aspect) ** 0.5), 1), image.width)
        height = min(max(round((area / aspect) ** 0.5), 1), image.height)
        x, y = random.randint(0, image.width - width), random.randint(0, image.height - height)
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, (x, y, x + width, y + height))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = (np.asarray(image, np.float32) - MEAN.astype(np.float32)) / STD.astype(np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1), label


def prepare(folder: Path) -> Path:
    """The ``.beton`` file, written once."""
    from ffcv.fields import IntField, RGBImageField

    from safeloader.ffcv import write

    path = folder / "photographs.beton"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(path, Photographs(), {"image": RGBImageField("jpg"), "label": IntField()}, num_workers=0)
    return path


def pipelines(size: int) -> dict[str, Any]:
    """A recipe's: random resized crop, flip, normalize."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    image = [RandomResizedCropRGBImageDecoder((size, size)), RandomHorizontalFlip()]
    normalize = NormalizeImage(MEAN, STD, np.float32)
    return {"image": [*image, normalize, ToTensor(), ToTorchImage()], "label": [IntDecoder(), ToTensor(), Squeeze()]}
