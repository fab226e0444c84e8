"""FFCV's pipelines that end on a CUDA device: those of ffcv-imagenet, through safeloader and bare."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safeloader import Policy
from tests.ffcv.conftest import beton, compiled_code, ffcv_is_here

__all__ = ["beton", "compiled_code", "ffcv_is_here"]

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # bare FFCV waits for ever where a warning is an error in its thread
]
SIZE = 32
DEVICE = torch.device("cuda:0")


@pytest.fixture(autouse=True)
def needs_ffcv(compiled_code: Path) -> None:
    """FFCV, a folder for compiled code, and what its kernel for normalising needs."""
    pytest.importorskip("cupy")
    pytest.importorskip("pytorch_pfn_extras")


def pipelines(*, augment: bool, dtype: Any = np.float16) -> dict[str, Any]:
    """ffcv-imagenet's: normalised on the device."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToDevice, ToTensor, ToTorchImage

    mean, std = np.array([123.7, 116.3, 103.5]), np.array([58.4, 57.1, 57.4])
    decoder = (
        RandomResizedCropRGBImageDecoder((SIZE, SIZE)) if augment else CenterCropRGBImageDecoder((SIZE, SIZE), 0.9)
    )
    flip = [RandomHorizontalFlip()] if augment else []
    end = [ToDevice(DEVICE, non_blocking=True), ToTorchImage(), NormalizeImage(mean, std, dtype)]
    return {
        "image": [decoder, *flip, ToTensor(), *end],
        "label": [IntDecoder(), ToTensor(), Squeeze(), ToDevice(DEVICE, non_blocking=True)],
        "value": None,
        "array": None,
    }


def ours(path: Path, *, augment: bool = False, **options: Any) -> Any:
    from safeloader.ffcv import Loader

    rules = {"batch_timeout": 60.0, **options.pop("rules", {})}
    return Loader(
        path, 10, num_workers=1, order="RANDOM", seed=3, pipelines=pipelines(augment=augment), policy=Policy(**rules),
        **options,
    )  # fmt: skip


def bare(path: Path) -> Any:
    from ffcv.loader import Loader, OrderOption

    return Loader(str(path), 10, num_workers=1, order=OrderOption.RANDOM, seed=3, pipelines=pipelines(augment=False))


def held(batches: Any) -> list[tuple[torch.Tensor, ...]]:
    """Batches as they are when all have come, on the host."""
    kept = [tuple(batch) for batch in batches]
    torch.cuda.synchronize()
    return [tuple(tensor.cpu() for tensor in batch) for batch in kept]


def assert_same(given: list[Any], expected: list[Any]) -> None:
    assert len(given) == len(expected) > 0
    for mine, theirs in zip(given, expected, strict=True):
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(mine, theirs, strict=True))


def test_batches_are_bare_ffcvs_and_stay_as_they_are(beton: Path) -> None:
    """Batches that are kept are not overwritten, as FFCV's own are."""
    expected = [tuple(tensor.cpu().clone() for tensor in batch) for batch in bare(beton)]
    loader = ours(beton)
    kept = list(loader)
    assert all(tensor.device == DEVICE for batch in kept for tensor in batch)
    assert kept[0][0].dtype == torch.float16 and kept[0][0].shape == (10, 3, SIZE, SIZE)
    assert_same(held(kept), expected)
    assert "trainer" in str(loader.report()) or loader.report().batches == 12
    loader.close()


def test_a_consumer_that_is_behind_on_the_device_gets_right_numbers(beton: Path) -> None:
    """The device still works on a batch when the next ones are asked for."""
    expected = held(ours(beton))
    sums = []
    loader = ours(beton)
    for images, labels in loader:
        torch.cuda._sleep(50_000_000)
        sums.append((images.float().sum(), labels.sum()))
    loader.close()
    torch.cuda.synchronize()
    for (pixels, labels), (images, numbers) in zip(sums, expected, strict=True):
        assert int(labels) == int(numbers.sum())
        assert torch.allclose(pixels.cpu(), images.float().sum(), rtol=1e-4, atol=0.5)


def test_augmented_epochs_are_repeatable_and_resumed_within(beton: Path) -> None:
    whole = [held(loader) for loader in [ours(beton, augment=True)] for _ in range(2)]
    assert not torch.equal(whole[0][0][0], whole[1][0][0])
    first = ours(beton, augment=True)
    assert_same(held(first), whole[0])
    batches = iter(first)
    begun = held(itertools.islice(batches, 5))
    state = first.state_dict()
    first.close()
    assert_same(begun, whole[1][:5])
    second = ours(beton, augment=True)
    second.load_state_dict(state)
    assert_same(held(second), whole[1][5:])
    second.close()


def test_its_size_changes_with_the_epoch(beton: Path) -> None:
    from safeloader.ffcv import ProgressiveResize

    loader = ours(beton, augment=True, resize=ProgressiveResize([(0, 32), (1, 48)]))
    for size in (32, 48):
        images = next(iter(loader))[0]
        assert images.shape[-2:] == (size, size) and images.device == DEVICE
        for _ in loader:
            pass
    loader.close()
