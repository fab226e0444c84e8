"""Image decoders that look at what TurboJPEG says, and whose random crops depend on the sample alone.

FFCV throws the decoder's verdict away: a corrupt JPEG gives the pixels of an older image under the right label. And it
seeds no generator of its threads. Here each sample has one byte for the verdict and one key for its crop, in memory
that FFCV allocates beside the images::

    memory of the decoder = (images, [scratch,] verdicts, keys)

``guarded`` puts these on top of any decoder of FFCV whose generated code is FFCV's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ffcv.fields.rgb_image import IMAGE_MODES, ResizedCropRGBImageDecoder, SimpleRGBImageDecoder
from ffcv.libffcv import imdecode, memcpy, resize_crop
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.transforms import RandomHorizontalFlip
from numpy.random import rand

from safeloader.ffcv.operations import view

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["VERDICTS", "guarded"]

VERDICTS = ("", "its JPEG data is corrupt", "its JPEG has another size than its record", "its pixels are not all there")
_VERDICT, _KEY = AllocationQuery((1,), np.dtype("u1")), AllocationQuery((1,), np.dtype("u8"))


def jpeg_differs(data, height, width):  # type: ignore[no-untyped-def]  # compiled
    """Whether the frame header of a JPEG names another size; not whether there is one."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return False
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker == 0x01 or (marker >= 0xD0 and marker <= 0xD8):
            at += 2
        elif marker >= 0xC0 and marker <= 0xCF and marker != 0xC4 and marker != 0xC8 and marker != 0xCC:
            high = np.uint32(data[at + 5]) * np.uint32(256) + np.uint32(data[at + 6])
            wide = np.uint32(data[at + 7]) * np.uint32(256) + np.uint32(data[at + 8])
            return high != np.uint32(height) or wide != np.uint32(width)
        else:
            at += 2 + np.int64(data[at + 2]) * 256 + np.int64(data[at + 3])
    return False


class _Cropping:
    """On top of a ResizedCropRGBImageDecoder."""

    verdicts_at, keys_at = 2, 3

    def declare_state_and_memory(self, previous_state: Any) -> Any:
        state, (images, scratch) = super().declare_state_and_memory(previous_state)  # type: ignore[misc]
        return state, (images, scratch, _VERDICT, _KEY)

    def generate_code(self: Any) -> Callable[..., Any]:
        jpg, mem_read, my_range = IMAGE_MODES["jpg"], self.memory_read, Compiler.get_iterator()
        imdecode_c, resize_crop_c = Compiler.compile(imdecode), Compiler.compile(resize_crop)
        get_crop_c, differs_c = Compiler.compile(self.get_crop_generator), Compiler.compile(jpeg_differs)
        scale = np.array(self.scale) if isinstance(self.scale, tuple) else self.scale
        ratio = np.array(self.ratio) if isinstance(self.ratio, tuple) else self.ratio

        def decode_guarded(batch_indices, my_storage, metadata, storage_state):  # type: ignore[no-untyped-def]
            destination, scratch, verdicts, keys = my_storage
            for dst_ix in my_range(len(batch_indices)):
                field = metadata[batch_indices[dst_ix]]
                image_data = mem_read(field["data_ptr"], storage_state)
                height, width = np.uint32(field["height"]), np.uint32(field["width"])
                verdict = 0
                pixels = scratch[dst_ix].reshape(-1)[: 3 * height * width].reshape(height, width, 3)
                if field["mode"] == jpg:
                    if differs_c(image_data, height, width):
                        verdict = 2
                    elif imdecode_c(
                        image_data, scratch[dst_ix], height, width, height, width, 0, 0, 1, 1, False, False
                    ):
                        verdict = 1
                elif image_data.size == 3 * np.int64(height) * np.int64(width):
                    pixels = image_data.reshape(height, width, 3)
                else:
                    verdict = 3
                verdicts[dst_ix, 0] = verdict
                np.random.seed(keys[dst_ix, 0])
                i, j, h, w = get_crop_c(height, width, scale, ratio)
                resize_crop_c(pixels, i, i + h, j, j + w, destination[dst_ix])
            return destination[: len(batch_indices)]

        decode_guarded.is_parallel = True  # type: ignore[attr-defined]
        return decode_guarded


class _Simple:
    """On top of a SimpleRGBImageDecoder."""

    verdicts_at, keys_at = 1, None

    def declare_state_and_memory(self, previous_state: Any) -> Any:
        state, images = super().declare_state_and_memory(previous_state)  # type: ignore[misc]
        return state, (images, _VERDICT)

    def generate_code(self: Any) -> Callable[..., Any]:
        jpg, mem_read, my_range = IMAGE_MODES["jpg"], self.memory_read, Compiler.get_iterator()
        imdecode_c, memcpy_c = Compiler.compile(imdecode), Compiler.compile(memcpy)
        differs_c = Compiler.compile(jpeg_differs)

        def decode_guarded(batch_indices, my_storage, metadata, storage_state):  # type: ignore[no-untyped-def]
            destination, verdicts = my_storage
            for dst_ix in my_range(len(batch_indices)):
                field = metadata[batch_indices[dst_ix]]
                image_data = mem_read(field["data_ptr"], storage_state)
                height, width = np.uint32(field["height"]), np.uint32(field["width"])
                verdict = 0
                if field["mode"] == jpg:
                    if differs_c(image_data, height, width):
                        verdict = 2
                    elif imdecode_c(
                        image_data, destination[dst_ix], height, width, height, width, 0, 0, 1, 1, False, False
                    ):
                        verdict = 1
                elif image_data.size == 3 * np.int64(height) * np.int64(width):
                    memcpy_c(image_data, destination[dst_ix])
                else:
                    verdict = 3
                verdicts[dst_ix, 0] = verdict
            return destination[: len(batch_indices)]

        decode_guarded.is_parallel = True  # type: ignore[attr-defined]
        return decode_guarded


class _Flip:
    """On top of RandomHorizontalFlip: whether to flip depends on the sample's key."""

    verdicts_at, keys_at = None, 1

    def declare_state_and_memory(self, previous_state: Any) -> Any:
        state, images = super().declare_state_and_memory(previous_state)  # type: ignore[misc]
        return state, (images, _KEY)

    def generate_code(self: Any) -> Callable[..., Any]:
        my_range, flip_prob = Compiler.get_iterator(), self.flip_prob

        def flip_keyed(images, memory):  # type: ignore[no-untyped-def]
            destination, keys = memory
            for i in my_range(images.shape[0]):
                np.random.seed(keys[i, 0])
                if rand() < flip_prob:
                    destination[i] = images[i, :, ::-1]
                else:
                    destination[i] = images[i]
            return destination

        flip_keyed.is_parallel = True  # type: ignore[attr-defined]
        return flip_keyed


_TOPS: tuple[tuple[type, type, tuple[str, ...]], ...] = (
    (ResizedCropRGBImageDecoder, _Cropping, ("generate_code", "declare_state_and_memory")),
    (SimpleRGBImageDecoder, _Simple, ("generate_code", "declare_state_and_memory")),
    (RandomHorizontalFlip, _Flip, ("generate_code", "declare_state_and_memory")),
)


def guarded(operation: Any, sized: bool) -> Any:
    """A view of an operation, guarded where FFCV's own code would run.

    Args:
        operation: The user's.
        sized: A schedule sets its size.
    """
    cls = type(operation)
    for base, top, methods in _TOPS:
        if isinstance(operation, base):
            if all(getattr(cls, name) is getattr(base, name) for name in methods):
                return view(operation, sized, top)
            break
    return view(operation, sized)
