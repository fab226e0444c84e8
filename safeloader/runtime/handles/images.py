"""Pillow's images of which no pixel is read yet: they stay so. Others are carried with their pixels."""

from __future__ import annotations

from typing import Any

from safeloader.runtime.handles.places import NotOpenableError

Pickler = Any


def reduce_image(_: Pickler, image: Any) -> Any:
    file = getattr(image, "fp", None)
    if getattr(image, "_im", None) is not None or file is None or not image.tile or not image.format:
        return NotImplemented
    looks = image.mode, image.size
    return open_image, (file, image.format, image.tell(), looks, image.filename, image._exclusive_fp), {
        "info": dict(image.info)
    }, None, None, fill_image  # fmt: skip


def open_image(file: Any, kind: str, frame: int, looks: Any, name: Any, own_file: bool) -> Any:
    from PIL import Image

    made: Any = Image.open(file, formats=[kind])
    if frame:
        made.seek(frame)
    if (made.mode, made.size) != looks:
        made.draft(*looks)
    if (made.mode, made.size) != looks:
        raise NotOpenableError("it was changed after it was opened, before its pixels were read")
    made.filename, made._exclusive_fp = name, own_file
    return made


def fill_image(image: Any, state: dict[str, Any]) -> None:
    image.info.update(state["info"])
