"""What datasets and collate functions return comes out as through torch's own loader: value, type, strides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from safeloader import DataLoader, Policy
from tests.api.parity import values
from tests.api.parity.describe import describe
from tests.api.parity.reference import Job

pytestmark = [
    pytest.mark.usefixtures("forked"),
    pytest.mark.timeout(600),  # the first to come waits for all references
    pytest.mark.filterwarnings("ignore"),  # torch warns about most of the stranger kinds of tensors
]

NAMES = [name for name in values.VALUES if name not in values.WRONG_IN_TORCH]
NO_COLLATE_IN_TORCH = {f"tensor of {name}" for name in ("bits8", "bits16", "bits1x8", "bits2x4", "bits4x2")}
"""torch's workers cannot collate these dtypes (their storage has no type); safeloader's can, as torch can elsewhere."""


@pytest.fixture(autouse=True)
def _errors_are_expected(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "safeloader")


@pytest.mark.parametrize("max_processes", [None, 0], ids=["process", "inline"])
@pytest.mark.parametrize(
    "mode",
    [pytest.param(mode, marks=pytest.mark.needs_reference(Job("values", mode))) for mode in values.MODES],
)
def test_every_value_comes_out_as_through_torch(
    mode: str, max_processes: int | None, reference: Callable[[Job], Any]
) -> None:
    expected = dict(reference(Job("values", mode)))
    if mode == "collated":
        for name in NO_COLLATE_IN_TORCH & expected.keys():
            assert expected[name][0] == "error"
            expected[name] = describe(torch.stack([values.VALUES[name]()] * 2))
    seen = values.deliver(mode, NAMES, DataLoader, policy=Policy(max_processes=max_processes))
    assert {name: seen[name] for name in NAMES if seen[name] != expected[name]} == {}, "differ from torch's"


@pytest.mark.parametrize("max_processes", [None, 0], ids=["process", "inline"])
def test_what_torch_delivers_wrongly_comes_out_as_it_went_in(max_processes: int | None) -> None:
    seen = values.deliver("as it is", [*values.WRONG_IN_TORCH], DataLoader, policy=Policy(max_processes=max_processes))
    assert seen == {name: describe(values.VALUES[name]()) for name in values.WRONG_IN_TORCH}


class _Indices(torch.utils.data.Sampler[Any]):
    """Gives values, made anew."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Any]:
        for name in self.names:
            yield values.VALUES[name]()


class _Described(torch.utils.data.Dataset[Any]):
    """A sample is all that can be seen of its index."""

    def __getitem__(self, index: Any) -> Any:
        return describe(index)


@pytest.mark.parametrize("max_processes", [None, 0], ids=["process", "inline"])
@pytest.mark.needs_reference(Job("values", "as it is"))
def test_a_tensor_that_is_an_index_is_what_torch_makes_of_one_in_a_batch(
    max_processes: int | None, reference: Callable[[Job], Any]
) -> None:
    """Both go by the pickler of `torch.multiprocessing`; strides, and what is no view, are the dataset's to see."""
    expected = {k: v for k, v in dict(reference(Job("values", "as it is"))).items() if k.startswith("tensor")}
    loader = DataLoader(
        _Described(),
        None,
        sampler=_Indices([*expected]),
        num_workers=1,
        collate_fn=values.as_it_is,
        policy=Policy(max_processes=max_processes),
    )
    seen = dict(zip(expected, loader, strict=True))
    assert {name: seen[name] for name in expected if seen[name] != expected[name]} == {}, "differ from torch's"


# ---------------------------------------------------------------- what a description does not show


class _Once(torch.utils.data.Dataset[Any]):
    """One value, made in the worker."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return self.make()


def _load(make: Callable[[], Any], max_processes: int | None) -> Any:
    loader = DataLoader(
        _Once(make), None, num_workers=1, collate_fn=values.as_it_is, policy=Policy(max_processes=max_processes)
    )
    with loader:
        return next(iter(loader))


def _make_everything() -> dict[str, Any]:
    base = torch.arange(12.0).reshape(3, 4)
    cycle: list[Any] = [torch.ones(2)]
    cycle.append(cycle)
    array = np.arange(3)
    return {
        "tensor": [base, base],
        "array": [array, array],
        "cycle": cycle,
        "big": (torch.arange(70 << 20, dtype=torch.int32) % 251).to(torch.uint8),
        "held": np.arange(6.0).reshape(2, 3),
        "frozen": (torch.zeros(2), b"x" * 100_000, "y" * 100_000),
    }


@pytest.mark.parametrize("max_processes", [None, 0], ids=["process", "inline"])
def test_a_batch_keeps_its_identities_is_writable_and_outlives_its_loader(max_processes: int | None) -> None:
    batch = _load(_make_everything, max_processes)
    assert batch["tensor"][0] is batch["tensor"][1]
    assert batch["array"][0] is batch["array"][1]
    assert batch["cycle"][1] is batch["cycle"]
    big = batch["big"]
    assert big.numel() > 64 << 20
    assert torch.equal(big[-300:], (torch.arange((70 << 20) - 300, 70 << 20) % 251).to(torch.uint8))
    big.add_(1)
    assert int(big[5]) == 6
    batch["held"] += 1.0
    assert batch["held"].sum() == 21.0
    leaf = batch["tensor"][0].requires_grad_()
    (leaf * 2).sum().backward()
    assert torch.equal(leaf.grad, torch.full((3, 4), 2.0))
    assert batch["frozen"][0].detach_().add_(1).tolist() == [1.0, 1.0]
    assert (len(batch["frozen"][1]), len(batch["frozen"][2])) == (100_000, 100_000)


def _one_memory() -> dict[str, Any]:
    grid, part = torch.zeros(3, 4), torch.zeros(4, dtype=torch.int32)
    array = np.zeros(4)
    return {
        "row before its tensor": [grid[1], grid, grid.T],
        "columns": [*torch.zeros(2, 2).unbind(1)],
        "parts of others": [part[1:3], part[2:], part.view(torch.uint8)[7:12]],
        "with a storage": [(memory := torch.zeros(2)), memory.untyped_storage()],
        "apart": [*torch.zeros(4).split(2)],
        "arrays": [array, array[1:], torch.from_numpy(array)],
    }


def _collate_with_arrays(samples: list[torch.Tensor]) -> list[Any]:
    together = torch.utils.data.default_collate(samples)
    return [together, together[1:], together.numpy(), together.numpy()]


@pytest.mark.parametrize("max_processes", [None, 0], ids=["process", "inline"])
def test_tensors_over_one_memory_still_are_and_arrays_are_not_as_with_torch(max_processes: int | None) -> None:
    batch = _load(_one_memory, max_processes)
    row, grid, turned = batch["row before its tensor"]
    turned[2, 1] = 5
    assert (row.tolist(), grid[1, 2]) == ([0, 0, 5, 0], 5)
    first, second = batch["columns"]
    first.fill_(1)
    assert (first.tolist(), second.tolist(), first.stride()) == ([1, 1], [0, 0], (2,))
    early, late, octets = batch["parts of others"]
    late[0] = 0x01020304
    assert (early.tolist(), octets.tolist()) == ([0, 0x01020304], [0, 4, 3, 2, 1])
    memory, storage = batch["with a storage"]
    memory[1] = 1
    assert storage.tolist() == [0, 0, 0, 0, 0, 0, 0x80, 0x3F]
    left, right = batch["apart"]
    left.fill_(1)
    assert right.tolist() == [0, 0]
    for number, one in enumerate(batch["arrays"]):
        one[...] = number
    assert [one.tolist() for one in batch["arrays"]] == [[0] * 4, [1] * 3, [2] * 4]


@pytest.mark.parametrize("max_processes", [None, 0], ids=["process", "inline"])
def test_arrays_of_a_tensor_that_default_collation_made_are_copies_as_with_torch(max_processes: int | None) -> None:
    samples = [torch.full((2,), float(number)) for number in range(2)]
    options = {"collate_fn": _collate_with_arrays, "policy": Policy(max_processes=max_processes)}
    with DataLoader(samples, 2, num_workers=1, **options) as loader:  # type: ignore[arg-type]
        tensor, view, array, other = next(iter(loader))
    array += 5
    view += 1
    other[0] = 9
    assert tensor.tolist() == [[0, 0], [2, 2]]
    assert (array.tolist(), other.tolist()) == ([[5, 5], [6, 6]], [[9, 9], [1, 1]])
