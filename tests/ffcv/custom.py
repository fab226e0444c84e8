"""A field of the user's own: a pair of small numbers, one byte each. Importable, for child processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from ffcv.fields.base import ARG_TYPE, Field
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.operation import Operation

from tests.ffcv.operations import Python


class PairDecoder(Operation):
    """As int64 of shape (2,)."""

    def generate_code(self) -> Any:
        def decode(indices, destination, metadata, storage_state):  # type: ignore[no-untyped-def]
            for n in range(indices.shape[0]):
                row = metadata[indices[n]]
                destination[n, 0] = row["a"]
                destination[n, 1] = row["b"]
            return destination[: indices.shape[0]]

        return decode

    def declare_state_and_memory(self, previous_state: Any) -> Any:
        kind = np.dtype("int64")
        return replace(previous_state, jit_mode=True, shape=(2,), dtype=kind), AllocationQuery((2,), kind)


class PairField(Field):
    """Two numbers below 256."""

    @property
    def metadata_type(self) -> Any:
        return np.dtype([("a", "<u1"), ("b", "<u1")])

    @staticmethod
    def from_binary(binary: Any) -> Any:
        return PairField()

    def to_binary(self) -> Any:
        return np.zeros(1, dtype=ARG_TYPE)[0]

    def encode(self, destination: Any, field: Any, malloc: Any) -> None:
        destination["a"], destination["b"] = field

    def get_decoder_class(self) -> Any:
        return PairDecoder


class Pairs:
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return (index, index + 100), index


class HoldsAGenerator(Python):
    """Holds what cannot be sent to a process."""

    def __init__(self) -> None:
        super().__init__()
        self.held = (number for number in range(3))

    def generate_code(self) -> Any:
        def plus(labels: Any, _: Any) -> Any:
            return labels + 1 if self.held is not None else labels

        return plus
