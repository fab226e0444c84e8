"""Operations whose attributes change: by the user between epochs, or by running. Importable, for child processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.operation import Operation


class Times(Operation):
    """Labels times a factor, compiled: the factor is baked into the code."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def generate_code(self) -> Any:
        factor = self.factor

        def times(labels, destination):  # type: ignore[no-untyped-def]
            for i in range(labels.shape[0]):
                destination[i] = labels[i] * factor
            return destination[: labels.shape[0]]

        return times

    def declare_state_and_memory(self, previous_state: Any) -> Any:
        return replace(previous_state, jit_mode=True), AllocationQuery(previous_state.shape, previous_state.dtype)


class Looked(Times):
    """The same by a table, which is changed in place."""

    def __init__(self, table: Any) -> None:
        super().__init__(1)
        self.table = table

    def generate_code(self) -> Any:
        table = self.table

        def looked(labels, destination):  # type: ignore[no-untyped-def]
            for i in range(labels.shape[0]):
                destination[i] = labels[i] * table[0]
            return destination[: labels.shape[0]]

        return looked


class Python(Operation):
    """In Python: labels plus a nested setting."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = {"offset": [0]}

    def generate_code(self) -> Any:
        def plus(labels: torch.Tensor, _: Any) -> torch.Tensor:
            return labels + self.settings["offset"][0]

        return plus

    def declare_state_and_memory(self, previous_state: Any) -> Any:
        return replace(previous_state, jit_mode=False), None


class Baked(Python):
    """In Python, with the setting baked into the code."""

    def generate_code(self) -> Any:
        offset = self.settings["offset"][0]
        return lambda labels, _: labels + offset


class Counts(Python):
    """Counts its batches, keeps what it saw, and shows the count in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0
        self.seen: list[int] = []
        self.told: dict[str, Any] = {}

    def generate_code(self) -> Any:
        def counts(labels: torch.Tensor, _: Any) -> torch.Tensor:
            self.batches += 1
            self.seen.extend(labels.flatten().tolist())
            self.told["last"] = int(labels.flatten()[-1])
            return labels * 1000 + self.batches

        return counts


class Slotted(Python):
    """Its setting lies in a slot."""

    __slots__ = ("offset",)

    def __init__(self) -> None:
        super().__init__()
        self.offset = 0

    def generate_code(self) -> Any:
        return lambda labels, _: labels + self.offset


class Shift(torch.nn.Module):
    """A module with a buffer that running it changes."""

    offset: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(1, dtype=torch.int64))

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        self.offset += 1
        return labels + self.offset


class NaNAt(Python):
    """Labels as floats; one is NaN."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def generate_code(self) -> Any:
        return lambda labels, _: torch.where(labels == self.label, float("nan"), labels.float())
