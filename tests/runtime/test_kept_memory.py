"""Memory of large batches that the trainer makes itself is used again, and never while anybody can see it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset

from safeloader import DataLoader, Policy, torch_private
from safeloader.runtime.memory.kept_memory import KeptMemory, keeping

SIZE = 2500
LOADERS: dict[str, Callable[..., Any]] = {
    "num_workers=0": lambda dataset, **more: DataLoader(dataset, 4, **more),
    "rung 0": lambda dataset, **more: DataLoader(dataset, 4, num_workers=1, policy=Policy(max_processes=0), **more),
}
ALIASES: dict[str, Callable[[torch.Tensor], Any]] = {
    "the tensor": lambda batch: batch,
    "a view": lambda batch: batch[1:],
    "a view of a view": lambda batch: batch.view(-1)[3:].view(torch.uint8)[1:],
    "detached": lambda batch: batch.detach(),
    "its storage": lambda batch: batch.untyped_storage(),
    "an array": lambda batch: batch.numpy(),
    "a part of an array": lambda batch: batch.numpy()[1:, ::2].T,
    "a memoryview": lambda batch: memoryview(batch.numpy()),
    "a part of a memoryview": lambda batch: memoryview(batch.numpy())[1:],
    "bytes of ctypes": lambda batch: (ctypes.c_char * 8).from_buffer(batch.numpy()),
    "a capsule": lambda batch: batch.__dlpack__(),
    "an array by DLPack": lambda batch: np.from_dlpack(batch),
    "a tensor by DLPack": lambda batch: torch.from_dlpack(batch.__dlpack__()),
    "what autograd saved": lambda batch: (torch.ones(1, requires_grad=True) * batch).grad_fn,
    "a leaf with gradients": lambda batch: batch.detach().requires_grad_(),
}


class Rows(Dataset[Any]):
    """Row i has the number i everywhere."""

    def __init__(self, length: int = 48, make: Callable[[int], Any] | None = None) -> None:
        self.length, self.make = length, make

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return torch.full((SIZE,), float(index)) if self.make is None else self.make(index)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeptMemory, "least", 4 * SIZE)


@pytest.fixture(params=LOADERS.values(), ids=LOADERS.keys())
def load(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param  # type: ignore[no-any-return]


def _content(address: int) -> bytes:
    return ctypes.string_at(address, 4 * 4 * SIZE)


@pytest.mark.parametrize("alias", ALIASES.values(), ids=ALIASES.keys())
def test_whoever_refers_to_a_batch_keeps_its_memory(load: Callable[..., Any], alias: Callable[[Any], Any]) -> None:
    held, seen = [], {}
    with load(Rows()) as loader:
        for batch in loader:
            held.append(alias(batch))
            assert batch.data_ptr() not in seen
            seen[batch.data_ptr()] = _content(batch.data_ptr())
        assert all(_content(address) == content for address, content in seen.items())
        assert load is LOADERS["rung 0"] or torch.equal(next(iter(loader)), torch.stack([Rows()[i] for i in range(4)]))
        assert all(_content(address) == content for address, content in seen.items())


def test_memory_that_nobody_refers_to_is_used_again(load: Callable[..., Any]) -> None:
    with load(Rows()) as loader:
        iterator = iter(loader)
        places = [next(iterator).data_ptr() for _ in range(12)]
        assert len(set(places[3:])) <= 3


def test_few_pieces_are_kept_and_none_beyond_the_epoch(load: Callable[..., Any]) -> None:
    made: list[Any] = []
    original = KeptMemory.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeptMemory, "__init__", lambda self: (original(self), made.append(self))[0])
        with load(Rows()) as loader:
            batches = [*loader]
            del batches
            gc.collect()
            assert made
            assert all(len(kept._free) <= 4 and not kept._lent for kept in made)


def _mixed(index: int) -> Any:
    return {
        "f": torch.full((SIZE,), float(index)),
        "i": (torch.full((SIZE, 2), index), np.full(SIZE, index, dtype="float64")),
        "n": index,
        "t": str(index),
    }


MADE: dict[str, Callable[[int], Any]] = {
    "mixed": _mixed,
    "transposed": lambda index: torch.arange(2 * SIZE).view(2, SIZE).T + index,
    "channels last": lambda index: (torch.arange(4 * SIZE).view(1, 4, 50, 50) + index).contiguous(
        memory_format=torch.channels_last
    )[0],
    "other dtypes": lambda index: torch.full((SIZE,), index, dtype=torch.float64 if index % 2 else torch.float32),
    "bfloat16": lambda index: torch.full((2 * SIZE,), index, dtype=torch.bfloat16),
    "bool": lambda index: torch.full((4 * SIZE,), bool(index % 2)),
    "complex": lambda index: torch.full((SIZE,), index * 1j).conj(),
    "expanded": lambda index: torch.tensor(float(index)).expand(SIZE),
    "a parameter": lambda index: torch.nn.Parameter(torch.full((SIZE,), float(index)), requires_grad=False),
}


def _told(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {key: _told(value) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch), [_told(value) for value in batch]
    if not isinstance(batch, torch.Tensor):
        return batch
    facts = batch.shape, batch.stride(), batch.dtype, batch.is_conj(), batch.requires_grad, batch._base is None
    return facts, batch.untyped_storage().nbytes(), batch.resolve_conj().to(torch.complex128).numpy().tobytes()


@pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())
def test_batches_are_torchs(make: Callable[[int], Any]) -> None:
    dataset = Rows(22, make)
    assert [*map(_told, DataLoader(dataset, 4))] == [*map(_told, TorchLoader(dataset, 4))]


def test_gradients_flow_as_in_torchs_loader() -> None:
    weight = torch.ones(SIZE, requires_grad=True)
    for loader in (DataLoader, TorchLoader):
        weight.grad = None
        sum(batch.sum() for batch in loader(Rows(16, lambda index: weight * index), 4)).backward()
        assert weight.grad is not None
        assert torch.equal(weight.grad, torch.full((SIZE,), float(sum(range(16)))))


def test_rows_that_do_not_fit_raise_what_torch_raises() -> None:
    dataset = Rows(20, lambda index: torch.zeros(SIZE + (index == 15)))
    errors = []
    for loader in (DataLoader, TorchLoader):
        with pytest.raises(RuntimeError) as caught:
            [*loader(dataset, 4)]
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_a_collate_function_of_the_programs_own_is_left_alone() -> None:
    table = torch_private.default_collate_fn_map
    before = table[torch.Tensor]

    def mine(batch: Any, *, collate_fn_map: Any = None) -> Any:
        return "mine"

    table[torch.Tensor] = mine
    try:
        with keeping(KeptMemory()):
            assert table[torch.Tensor] is mine
    finally:
        table[torch.Tensor] = before
    assert {*DataLoader(Rows(8, lambda index: torch.zeros(9)), 4, collate_fn=lambda rows: "own")} == {"own"}
    with keeping(KeptMemory()), keeping(KeptMemory()):
        assert table[torch.Tensor] is not before
    assert table[torch.Tensor] is before


def test_an_error_of_a_sample_leaves_torchs_collate_in_its_place() -> None:
    def make(index: int) -> Any:
        if index == 30:
            raise ValueError("thirty")
        return torch.zeros(SIZE)

    def until() -> Iterator[Any]:
        yield from DataLoader(Rows(48, make), 4)

    with pytest.raises(ValueError, match="thirty"):
        [*until()]
    assert torch_private.default_collate_fn_map[torch.Tensor] is torch_private.torch_collate_tensor
