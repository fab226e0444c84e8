"""Values of a state as plain JSON and back: arrays, tensors, tuples, bytes, and the states of generators.

What is none of these is left as it is: a state then is as serialisable as the user's own objects in it.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy
import torch

from safeloader.runtime.child.states import States, in_full

__all__ = ["decode", "encode", "pack", "states_of", "states_to", "unpack"]

_TAG = "~"


def pack(data: bytes) -> str:
    """Bytes as text."""
    return base64.b85encode(zlib.compress(data, 1)).decode()


def unpack(text: str) -> bytes:
    """What `pack` packed.

    Raises:
        ValueError: the text is damaged.
    """
    try:
        return zlib.decompress(base64.b85decode(text))
    except zlib.error as error:
        raise ValueError(str(error)) from None


def encode(value: Any) -> Any:
    """A value in plain words."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return value[:] if all(type(item) is int for item in value) else [encode(item) for item in value]
    if kind is tuple:
        return {_TAG: "tuple", "of": [encode(item) for item in value]}
    if kind is dict and all(type(name) is str for name in value) and _TAG not in value:
        return {name: encode(item) for name, item in value.items()}
    return _tagged(value)


def _tagged(value: Any) -> Any:
    if type(value) is bytes:
        return {_TAG: "bytes", "data": pack(value)}
    if isinstance(value, numpy.generic) and value.dtype.kind in "biuf":
        return {_TAG: "scalar", "dtype": value.dtype.str, "value": value.item()}
    if type(value) is numpy.ndarray and value.dtype.kind in "biuf":
        return {_TAG: "array", **_array(value)}
    if type(value) is torch.Tensor and not value.requires_grad and value.device.type == "cpu":
        try:
            return {_TAG: "tensor", **_array(value.numpy())}
        except (TypeError, RuntimeError):  # a type that numpy does not have
            return value
    return value


def _array(array: Any) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": pack(array.tobytes())}


def decode(value: Any) -> Any:
    """The value that `encode` put into words."""
    if type(value) is list:
        return [decode(item) for item in value]
    if type(value) is not dict:
        return value
    kind = value.get(_TAG)
    if kind is None:
        return {name: decode(item) for name, item in value.items()}
    if kind == "tuple":
        return tuple(decode(item) for item in value["of"])
    if kind == "bytes":
        return unpack(value["data"])
    if kind == "scalar":
        return numpy.dtype(value["dtype"]).type(value["value"])
    if kind in ("array", "tensor"):
        array = numpy.frombuffer(unpack(value["data"]), dtype=value["dtype"]).reshape(value["shape"]).copy()
        return array if kind == "array" else torch.from_numpy(array)
    raise ValueError(f"nothing is known of {kind!r}")


def states_of(told: Any) -> Any:
    """The states of a worker's three generators, or None."""
    states = in_full(told)
    if states is None:
        return None
    version, words, gauss = states.python
    python = {"version": version, "words": pack(numpy.array(words, dtype="<u4").tobytes()), "gauss": gauss}
    found = {"torch": pack(states.torch), "python": python, "numpy": encode(states.numpy)}
    return found if states.own is None else {**found, "own": encode(states.own)}


def states_to(told: Any) -> States | None:
    """What `states_of` told."""
    if told is None:
        return None
    python = told["python"]
    words = tuple(numpy.frombuffer(unpack(python["words"]), dtype="<u4").tolist())
    own = decode(told.get("own"))
    return States(unpack(told["torch"]), (python["version"], words, python["gauss"]), decode(told["numpy"]), own)
