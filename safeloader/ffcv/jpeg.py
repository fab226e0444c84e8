"""JPEG: its size from its header, and whether it decodes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

__all__ = ["decodes", "jpeg_size"]

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset(range(0xD0, 0xD9)) | {0x01}


def jpeg_size(data: Any) -> tuple[int, int] | None:
    """(height, width) as the frame header says, None if there is no proper one (ITU T.81, annex B)."""
    head = bytes(data[:65536])
    if head[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            return None
        marker = head[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker in _FRAMES:
            return int.from_bytes(head[at + 5 : at + 7], "big"), int.from_bytes(head[at + 7 : at + 9], "big")
        else:
            at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
            if at > len(head) and len(data) > len(head):
                head = bytes(data)
    return None


def decodes(data: Any, height: int, width: int) -> bool:
    """Whether an image decodes without complaint: by TurboJPEG as FFCV calls it, else by Pillow, which hears less."""
    try:
        from ffcv.libffcv import imdecode
    except ImportError:
        return _pillow_decodes(data)
    pixels = np.empty((height, width, 3), np.uint8)
    source = np.ascontiguousarray(data)
    return bool(imdecode(source, pixels, height, width, height, width) == 0)


def _pillow_decodes(data: Any) -> bool:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(bytes(data))) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True
