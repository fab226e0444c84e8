"""JPEGs without FFCV: OpenCV where it is there, else Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

__all__ = ["decode_jpeg", "resized"]


def decode_jpeg(data: bytes) -> np.ndarray[Any, Any]:
    """Pixels as (height, width, 3) uint8.

    Raises:
        ValueError: It does not decode.
    """
    try:
        import cv2
    except ImportError:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data)) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError) as reason:
            raise ValueError(f"its JPEG data does not decode: {reason}") from reason
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError("its JPEG data does not decode")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def resized(pixels: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Pixels at (height, width), by area."""
    try:
        import cv2
    except ImportError:
        from PIL import Image

        return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BOX))
    return np.asarray(cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_AREA))
