"""Arrays in memory files: one memory, and in all else like any array of a dataset."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from safeloader import DataLoader, Policy, carry
from safeloader.runtime import by_value, system
from safeloader.runtime.by_value import Packed, memory_files

ARRAYS: dict[str, Any] = {
    "floats": np.arange(3000, dtype=np.float64).reshape(30, 100), "in Fortran's order": np.asfortranarray(np.eye(99)),
    "a part": np.arange(9000).reshape(30, 300)[:, ::2], "bools": np.arange(4000) % 3 == 0,
    "records": np.zeros(900, [("a", "i4"), ("b", "f8")]), "dates": np.arange(900).astype("M8[s]"),
    "a tensor": torch.arange(5000.0).reshape(50, 100), "a transposed one": torch.arange(5000).reshape(50, 100).T,
    "halves": torch.ones(4000, dtype=torch.bfloat16), "flags": torch.arange(4000) % 2 == 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _none_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert memory_files._files == {}


def as_bytes(array: Any) -> tuple[Any, ...]:
    if isinstance(array, torch.Tensor):
        return array.dtype, tuple(array.shape), array.contiguous().view(torch.uint8).numpy().tobytes()
    return array.dtype, array.shape, array.flags.f_contiguous, array.tobytes()


def sent(thing: Any) -> tuple[Packed, int]:
    """What goes to workers, and the file."""
    packed = by_value.pack(thing)
    file = system.memory_file("test")
    by_value.write(packed, file)
    return packed, file


def read(file: int, packed: Packed) -> Any:
    import mmap

    return by_value.read(mmap.mmap(file, 0, access=mmap.ACCESS_COPY), descriptors=packed.fds)[0]


@pytest.mark.parametrize("name", ARRAYS)
def test_it_is_the_same_array_here_and_there(name: str) -> None:
    made = carry.to_memory_file(ARRAYS[name])
    assert type(made) is type(ARRAYS[name])
    if name != "a part":  # which is whole now
        assert as_bytes(made) == as_bytes(ARRAYS[name])
    assert made.tolist() == ARRAYS[name].tolist()
    packed, file = sent([made, made[1:]])
    first, rest = read(file, packed)
    assert (first.tolist(), rest.tolist()) == (made.tolist(), made[1:].tolist())
    os.close(file)
    packed.close()


def test_it_is_sent_without_a_copy_until_it_was_written_to() -> None:
    made = carry.to_memory_file(np.zeros(1 << 20))
    packed, file = sent(made)
    assert packed.size < 10_000
    other = read(file, packed)
    other[5] = 1
    assert made[5] == 0
    assert read(file, packed)[5] == 0
    made[7] = 2
    assert read(file, packed)[7] == 0
    os.close(file)
    packed.close()
    packed, file = sent(made)
    assert packed.size > 8 << 20
    assert read(file, packed)[7] == 2
    os.close(file)
    packed.close()


@pytest.mark.parametrize(
    "thing", [np.array([object()]), np.zeros(3).view(np.recarray), [1], torch.ones(2, requires_grad=True), "text"]
)
def test_what_is_no_plain_array_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match="only plain arrays"):
        carry.to_memory_file(thing)


class Held(Dataset[Any]):
    """An array, which each worker changes."""

    def __init__(self, array: Any, tensor: Any) -> None:
        self.array, self.tensor = array, tensor
        self.filling = [str(number) for number in range(200_000)]

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        self.array[index] += 1
        self.tensor += 1
        return torch.tensor([float(self.array.sum()), float(self.tensor.sum())])


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_each_worker_has_its_own(method: Any) -> None:
    def batches(*held: Any) -> list[Any]:
        policy = Policy(start_method=method)
        with DataLoader(Held(*held), batch_size=2, num_workers=2, policy=policy) as loader:
            return [batch.tolist() for batch in loader]

    array, tensor = np.arange(1 << 18).astype(float), torch.arange(1 << 18).float()
    placed = carry.to_memory_file(array), carry.to_memory_file(tensor)
    assert batches(*placed) == batches(array, tensor)
    assert placed[0].tolist() == array.tolist()
    assert torch.equal(placed[1], tensor)
