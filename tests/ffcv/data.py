"""Images, pipelines, and operations that fail in each known way. Importable, so that child processes find it."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ffcv.fields import FloatField, IntField, NDArrayField, RGBImageField
from ffcv.fields.basics import FloatDecoder, IntDecoder
from ffcv.fields.ndarray import NDArrayDecoder
from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder
from ffcv.pipeline.operation import Operation
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
from ffcv.traversal_order.base import TraversalOrder

MEAN, STD = np.array([123.0, 117.0, 104.0]), np.array([58.0, 57.0, 57.0])


class Photographs:
    """Smooth images of different sizes: ``(image, index, index / 8, array)``."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int, float, Any]:
        draw = np.random.RandomState(index)
        height, width = draw.randint(40, 72, 2)
        y, x = np.mgrid[0:height, 0:width]
        image = np.stack([x * 255 // width, y * 255 // height, (x + y + index) % 256], -1)
        image = np.clip(image + draw.randint(-9, 9, image.shape), 0, 255).astype(np.uint8)
        return image, index, index / 8, np.full((2, 3), index, np.float32)


def fields(mode: str = "jpg") -> dict[str, Any]:
    return {
        "image": RGBImageField(write_mode=mode),
        "label": IntField(),
        "value": FloatField(),
        "array": NDArrayField(np.dtype("float32"), (2, 3)),
    }


def write_file(path: Path, dataset: Any, mode: str = "jpg", **options: Any) -> None:
    from safeloader.ffcv import write

    write(path, dataset, fields(mode), **{"num_workers": 0, **options})


def pipelines(size: int = 32, *more: Any, labels: tuple[Any, ...] = (), flip: bool = True) -> dict[str, Any]:
    """A recipe's usual pipelines; `labels` run on the labels after they are tensors."""
    flips = [RandomHorizontalFlip()] if flip else []
    normalize = NormalizeImage(MEAN, STD, np.float32)
    return {
        "image": [RandomResizedCropRGBImageDecoder((size, size)), *flips, *more, normalize, ToTensor(), ToTorchImage()],
        "label": [IntDecoder(), ToTensor(), Squeeze(), *labels],
        "value": [FloatDecoder(), ToTensor()],
        "array": [NDArrayDecoder(), ToTensor()],
    }


def centered(size: int = 32) -> dict[str, Any]:
    """Without chance: for comparisons."""
    return {
        "image": [CenterCropRGBImageDecoder((size, size), 1.0), ToTensor(), ToTorchImage()],
        "label": [IntDecoder(), ToTensor(), Squeeze()],
        "value": None,
        "array": None,
    }


class OnLabels(Operation):
    """Does something, in Python, when it meets a label.

    Args:
        label: Which.
        orders: A file; while it exists, the thing is done.
    """

    def __init__(self, label: int, orders: Path | None = None) -> None:
        super().__init__()
        self.label, self.orders = label, orders

    def act(self) -> None:
        raise ValueError(f"label {self.label} is not liked")

    def generate_code(self) -> Any:
        def on_labels(labels: torch.Tensor, _: Any) -> torch.Tensor:
            if (labels == self.label).any() and (self.orders is None or self.orders.exists()):
                self.act()
            return labels

        return on_labels

    def declare_state_and_memory(self, previous_state: Any) -> Any:
        return replace(previous_state, jit_mode=False), None


class Stops(OnLabels):
    """A bare ``next()`` of an iterator that is used up."""

    def act(self) -> None:
        next(iter(()))


class Hangs(OnLabels):
    """Once, if it finds its order."""

    def act(self) -> None:
        if self.orders is not None:
            self.orders.unlink(missing_ok=True)
        time.sleep(3600)


class Dies(OnLabels):
    """By a signal; once, if it finds its order."""

    def __init__(self, label: int, orders: Path | None = None, by: int = signal.SIGKILL) -> None:
        super().__init__(label, orders)
        self.by = by

    def act(self) -> None:
        if self.orders is not None:
            self.orders.unlink(missing_ok=True)
        os.kill(os.getpid(), self.by)
        time.sleep(60)


class DiesInThreads(OnLabels):
    """By SIGKILL, wherever FFCV's own thread runs it: no process can load this batch, but the plain way can."""

    def act(self) -> None:
        if threading.current_thread().name == "safeloader-ffcv":
            os.kill(os.getpid(), signal.SIGKILL)


class Compiled(Operation):
    """Compiled, and raises at a label."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def generate_code(self) -> Any:
        label = self.label

        def raises(labels, destination):  # type: ignore[no-untyped-def]
            for i in range(labels.shape[0]):
                if labels[i, 0] == label:
                    raise ValueError("compiled code does not like this label")
                destination[i] = labels[i]
            return destination[: labels.shape[0]]

        return raises

    def declare_state_and_memory(self, previous_state: Any) -> Any:
        from ffcv.pipeline.allocation_query import AllocationQuery

        return replace(previous_state, jit_mode=True), AllocationQuery(previous_state.shape, previous_state.dtype)


class Untypable(Compiled):
    """numba cannot compile it."""

    def generate_code(self) -> Any:
        def untypable(labels, destination):  # type: ignore[no-untyped-def]
            return labels.no_such_method()

        return untypable


def labels_of(batches: Any) -> list[int]:
    return [int(label) for batch in batches for label in batch[1]]


class Backwards(TraversalOrder):
    """The last hundred samples, backwards."""

    def sample_order(self, epoch: int) -> Any:
        return self.indices[::-1][:100].copy()
