"""What samplers give reaches the dataset as it was when it was drawn, and alone."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, Dataset, Sampler, SubsetRandomSampler
from torch.utils.data import DataLoader as TorchLoader

from safeloader import DataLoader, Policy
from safeloader.runtime.channel import Frames, frame
from safeloader.runtime.protocol import Unshadowed
from safeloader.runtime.trainer.indices import own_copy, pack
from tests.api.parity import describe as parity
from tests.api.parity import values

MANY = 1_000_000


@dataclass
class Place:
    """An index of the user's own."""

    at: Any


class Given(Dataset[Any]):
    """A sample tells what index it was asked for: its type, its value, the type of its elements."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: Any) -> str:
        return describe(index)

    def __getitems__(self, indices: Any) -> list[str]:
        return [type(indices).__name__, *(self[index] for index in indices)]


class OneByOne(Given):
    __getitems__ = None  # type: ignore[assignment]


def describe(index: Any) -> str:
    if isinstance(index, (list, tuple)):
        return f"{type(index).__name__}({', '.join(map(describe, index))})"
    if isinstance(index, dict):
        return f"dict({', '.join(f'{key}: {describe(value)}' for key, value in index.items())})"
    if isinstance(index, Place):
        return f"Place({describe(index.at)})"
    shape = getattr(index, "shape", None)
    return f"{type(index).__name__} {getattr(index, 'dtype', '')} {None if shape is None else tuple(shape)} {index}"


def together(batch: Any) -> Any:
    return batch


def _tensors() -> Any:
    return torch.arange(MANY)


class Reusing(Sampler[Any]):
    """One object, with other contents each time."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[Any]:
        holds: Any = {
            "list": [0, 0], "array": np.zeros(2, dtype=np.int32), "tensor": torch.zeros(2, dtype=torch.int64),
            "nested": [[0], [0]], "dict": [{"at": 0}, {"at": 0}], "place": [Place(0), Place(0)],
            "tensors": [torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)],
        }[self.kind]  # fmt: skip
        for number in range(6):
            for position in (0, 1):
                value = 2 * number + position
                if self.kind == "nested":
                    holds[position][0] = value
                elif self.kind == "dict":
                    holds[position]["at"] = value
                elif self.kind == "place":
                    holds[position].at = value
                elif self.kind == "tensors":
                    holds[position].fill_(value)
                else:
                    holds[position] = value
            yield holds


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("processes", [None, 0])
@pytest.mark.parametrize("kind", ["list", "array", "tensor", "nested", "dict", "place", "tensors"])
def test_a_sampler_may_give_one_object_again_and_again(kind: str, processes: int | None) -> None:
    """Without workers torch loads each batch before the next is drawn: that is what was meant."""
    dataset: Any = OneByOne() if kind in ("place", "dict", "nested") else Given()
    expected = list(TorchLoader(dataset, batch_sampler=Reusing(kind), collate_fn=together))
    loader = DataLoader(
        dataset, batch_sampler=Reusing(kind), collate_fn=together, num_workers=2, policy=Policy(max_processes=processes)
    )
    assert list(loader) == expected


SAMPLERS: dict[str, Any] = {
    "a subset of a permutation": lambda: SubsetRandomSampler(torch.randperm(24)),  # type: ignore[arg-type]
    "elements of a large tensor": lambda: list(_tensors()[5:17]),
    "elements of a large array": lambda: list(np.arange(MANY)[5:17]),
    "other types": lambda: list(torch.arange(12, dtype=torch.int16)) + list(torch.arange(12) > 3),
    "pairs of them": lambda: [(one, {"of": one}) for one in _tensors()[5:17]],
    "objects with them": lambda: [Place(one) for one in _tensors()[5:17]],
}


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("processes", [None, 0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_indices_that_are_views_reach_the_dataset_as_with_torch(name: str, processes: int | None) -> None:
    dataset, policy = OneByOne(), Policy(max_processes=processes)
    torch.manual_seed(3)
    expected = list(TorchLoader(dataset, batch_size=4, sampler=SAMPLERS[name](), collate_fn=together, num_workers=0))
    torch.manual_seed(3)
    loader = DataLoader(
        dataset, batch_size=4, sampler=SAMPLERS[name](), collate_fn=together, num_workers=2, policy=policy
    )
    assert list(loader) == expected


@pytest.mark.usefixtures("forked")
def test_batches_of_indices_may_be_rows_of_a_large_tensor() -> None:
    rows = _tensors().reshape(-1, 4)[:6]
    options: Any = {"batch_sampler": rows, "collate_fn": together}
    expected = list(TorchLoader(Given(), num_workers=0, **options))
    assert list(DataLoader(Given(), num_workers=2, **options)) == expected


@pytest.mark.parametrize("indices", [
    list(torch.arange(MANY)[5:69]),
    torch.arange(MANY)[5:69],
    torch.arange(MANY).reshape(-1, 2)[5:69, 1],
    np.arange(MANY)[5:69],
    {"rows": [torch.arange(MANY)[7], (np.arange(MANY)[:3],)]},
    [Place(torch.arange(MANY)[7])],
    [torch.tensor([]), torch.arange(MANY)[3:3]],
    next(iter(BatchSampler(SubsetRandomSampler(torch.randperm(MANY)), 64, drop_last=False))),  # type: ignore[arg-type]
])  # fmt: skip
def test_a_message_carries_what_is_meant_and_no_more(indices: Any) -> None:
    data = pack(own_copy(indices))
    assert len(data) < 4096
    assert len(pack(indices)) < 4096
    for copy in (own_copy(indices), pickle.loads(data)):
        assert describe(copy) == describe(indices)


KINDS = [name for name in values.VALUES if name.startswith(("array", "registered"))]


class Indices(Sampler[Any]):
    """Gives values of all kinds."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Any]:
        for name in self.names:
            yield values.VALUES[name]()


class Described(Given):
    """A sample is all that can be seen of the index."""

    def __getitem__(self, index: Any) -> Any:
        return parity.describe(index)


@pytest.mark.usefixtures("forked")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("processes", [None, 0])
def test_an_object_that_is_an_index_reaches_the_dataset_as_from_torch(processes: int | None) -> None:
    """torch's loader sends indices by the pickler of `multiprocessing`: byte order, strides, who may write, and what is
    registered there.
    """
    options: Any = {"batch_size": None, "sampler": Indices(KINDS), "collate_fn": together}
    expected = [parity.describe(pickle.loads(ForkingPickler.dumps(index))) for index in Indices(KINDS)]
    loader = DataLoader(Described(), num_workers=2, policy=Policy(max_processes=processes), **options)
    assert list(loader) == expected


def test_what_cannot_be_copied_is_itself() -> None:
    lock = sys.stdout
    assert own_copy(lock) is lock


def test_a_frame_may_be_longer_than_four_bytes_can_tell() -> None:
    """Only its head is made: five gigabytes are announced, and nothing is taken for a message."""
    frames = Frames()
    head = (5 << 30).to_bytes(8, "little")
    assert frames.feed(head + b"x" * 1000) == []
    assert frames.feed(b"x" * 1000) == []
    whole = frame(Unshadowed("a"))
    assert whole[:8] == len(whole[8:]).to_bytes(8, "little")
