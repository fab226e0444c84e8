"""Readers of videos by path: OpenCV, PyAV, decord. Of those that do not tell it, the open file that looks like them is
taken."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from safeloader.runtime.handles.places import (
    NotOpenableError,
    Place,
    identical,
    open_regular_files,
    path_for,
    place_at,
    place_of,
    refuse,
    refuse_writing,
    target,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Pickler = Any

_OPENING = (
    "keep the path, and open it in the first __getitem__ of each process; or safeloader.carry.register() the class"
)
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_BEGINNINGS = (
    *(b"RIFF", b"\x1aE\xdf\xa3", b"OggS", b"FLV", b"GIF8", b"\x30\x26\xb2\x75"),
    *(b"G", b"\0\0\x01", b"\0\0\0\x01", b"\xff\xd8"),
)
_OF_CAPTURE = ("FRAME_WIDTH", "FRAME_HEIGHT", "FRAME_COUNT", "FPS", "FOURCC")
_SET_CAPTURE = ("CONVERT_RGB", "ORIENTATION_AUTO")


def _found(pickler: Pickler, alike: Callable[[str], bool]) -> Place:
    """The one open file of which a second reader tells the same."""
    found = []
    for number in open_regular_files():
        path = target(number)
        try:
            if path and _begins_like_a_video(number) and alike(path):
                found.append(number)
        except Exception:  # no video
            continue
    if not found or not identical(found):
        refuse(f"it does not tell its path, and {len(found)} of the open files look like it", _OPENING)
    return place_of(pickler, found[0])


def _begins_like_a_video(number: int) -> bool:
    """So that no library complains of files that are none."""
    head = os.pread(number, 12, 0)
    return head[4:8] in _BOXES or head.startswith(_BEGINNINGS)


def reduce_capture(pickler: Pickler, capture: Any) -> Any:
    if not capture.isOpened():
        return released, (type(capture),)
    facts = _facts(capture)
    if facts[2] <= 0:
        refuse("it is a camera or a stream, which belongs to one process", _OPENING)

    def alike(path: str) -> bool:
        other = type(capture)(path, _backend(capture))
        try:
            return bool(other.isOpened()) and _facts(other) == facts
        finally:
            other.release()

    place, frame = _found(pickler, alike), _get(capture, "POS_FRAMES")
    settings = {name: _get(capture, name) for name in _SET_CAPTURE}
    words = f"{place.path}, at frame {frame:.0f}"
    return pickler.reopened(capture, words, open_capture, type(capture), place, _backend(capture), frame, settings)


def _get(capture: Any, name: str) -> float:
    import cv2

    return capture.get(getattr(cv2, f"CAP_PROP_{name}"))  # type: ignore[no-any-return]


def _facts(capture: Any) -> list[float]:
    return [_get(capture, name) for name in _OF_CAPTURE]


def _backend(capture: Any) -> int:
    return int(_get(capture, "BACKEND"))


def open_capture(cls: Any, place: Place, backend: int, frame: float, settings: dict[str, float]) -> Any:
    import cv2

    made = cls(path_for(place), backend)
    if not made.isOpened():
        raise NotOpenableError(f"OpenCV cannot read {place.path}")
    for name, value in settings.items():
        made.set(getattr(cv2, f"CAP_PROP_{name}"), value)
    if frame:
        made.set(cv2.CAP_PROP_POS_FRAMES, frame)
        if made.get(cv2.CAP_PROP_POS_FRAMES) != frame:
            raise NotOpenableError(f"OpenCV cannot go to frame {frame:.0f} of {place.path}")
    return made


def released(cls: Any) -> Any:
    return cls()


def reduce_container(pickler: Pickler, container: Any) -> Any:
    """At its beginning: how far it was read cannot be told."""
    if container.file is not None:
        refuse("it reads from an object of Python's", _OPENING)
    place = place_at(container.name)
    how = {
        "options": dict(container.options),
        "container_options": dict(container.container_options),
        "stream_options": [dict(found) for found in container.stream_options],
        "metadata_encoding": container.metadata_encoding,
        "metadata_errors": container.metadata_errors,
    }
    threads = [_threads(stream) for stream in container.streams]
    return pickler.reopened(container, f"{place.path}, from its beginning", open_container, place, how, threads)


def _threads(stream: Any) -> Any:
    codec = getattr(stream, "codec_context", None)
    if codec is None or not hasattr(codec, "thread_count"):
        return None
    return getattr(codec.thread_type, "value", codec.thread_type), codec.thread_count, str(codec.skip_frame)


def open_container(place: Place, how: dict[str, Any], threads: list[Any]) -> Any:
    import av

    made = av.open(path_for(place), **how)
    for stream, given in zip(made.streams, threads, strict=True):
        if given is not None and given != _threads(stream):
            stream.codec_context.thread_type = type(stream.codec_context.thread_type)(given[0])
            stream.codec_context.thread_count = given[1]
            stream.codec_context.skip_frame = given[2]
    return made


def reduce_stream(_: Pickler, stream: Any) -> Any:
    return stream_of, (stream.container, stream.index)


def stream_of(container: Any, index: int) -> Any:
    return container.streams[index]


def refuse_output(_: Pickler, container: Any) -> Any:
    return refuse_writing(f"the file {container.name!r}")


def reduce_decord(pickler: Pickler, reader: Any) -> Any:
    facts = _of_decord(reader)

    def alike(path: str) -> bool:
        return bool(_of_decord(type(reader)(path)) == facts)

    place = _found(pickler, alike)
    return pickler.reopened(reader, place.path, open_decord, type(reader), place, facts)


def _of_decord(reader: Any) -> Any:
    return len(reader), reader.get_avg_fps(), [int(key) for key in reader.get_key_indices()]


def open_decord(cls: Any, place: Place, facts: Any) -> Any:
    made = cls(path_for(place))
    if _of_decord(made) != facts:
        raise NotOpenableError(f"{place.path} is another video now")
    return made
