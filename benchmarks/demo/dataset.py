"""The dataset: decodes JPEG files with Pillow and augments them with all three of a worker's generators."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

VIEW = 128  # pixels of the square that the network sees


class Photographs(Dataset["tuple[Tensor, int]"]):
    """Crops of photographs with their labels.

    Args:
        folder: Holds files called ``<label>-<anything>.jpg``.
        augment: Whether samples are cropped, flipped, lit and blurred by noise at random.
        notes: A folder in which each worker process signs in with its process id, and in which a file called
            ``hang`` makes the next sample that is loaded hang for ever, once.
    """

    def __init__(self, folder: Path, augment: bool, notes: Path) -> None:
        self.files = sorted(folder.glob("*.jpg"))
        self.augment = augment
        self.notes = notes
        self._signed_in = 0

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self._sign_in()
        self._maybe_hang()
        path = self.files[index]
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB")).astype(np.float32) / np.float32(255)
        view = self._vary(pixels) if self.augment else _square(pixels, *(n // 2 for n in _room(pixels)))
        return torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1))), int(path.name.split("-")[0])

    def _vary(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        high, wide = _room(pixels)
        view = _square(pixels, random.randint(0, high), random.randint(0, wide))
        if torch.rand(()) < 0.5:
            view = view[:, ::-1]
        light = np.float32(np.random.uniform(0.8, 1.2))
        noise = np.random.normal(0, 0.02, view.shape).astype(np.float32)
        varied: NDArray[np.float32] = np.clip(view * light + noise, 0, 1)
        return varied

    def _sign_in(self) -> None:
        if self._signed_in != os.getpid():
            self._signed_in = os.getpid()
            (self.notes / f"pid-{self._signed_in}").touch()

    def _maybe_hang(self) -> None:
        try:
            (self.notes / "hang").unlink()
        except FileNotFoundError:
            return
        while True:
            time.sleep(3600)


def _room(pixels: NDArray[np.float32]) -> tuple[int, int]:
    return pixels.shape[0] - VIEW, pixels.shape[1] - VIEW


def _square(pixels: NDArray[np.float32], top: int, left: int) -> NDArray[np.float32]:
    return pixels[top : top + VIEW, left : left + VIEW]
