"""A batch of usual parts, whose structure was pickled before, comes out as pickle itself would bring it."""

from __future__ import annotations

import pickle
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from safeloader.runtime.memory import codec
from safeloader.runtime.memory.arena import Arena
from safeloader.runtime.memory.skeletons import Skeletons
from safeloader.runtime.memory.slot_writer import SlotWriter

Pair = namedtuple("Pair", "one two")  # noqa: PYI024 - as users write them


class Text(str):
    """Not a plain one."""


class Channel:
    """From a process to the trainer, in one process."""

    def __init__(self) -> None:
        self.arena = Arena()
        self.writer = SlotWriter(self.arena)
        self.skeletons = Skeletons()
        self.plain, self.quick = codec.Encoder(self.writer), codec.Encoder(self.writer, skeletons=self.skeletons)
        self.leaves: list[Any] = []

    def send(self, batch: Any, encoder: codec.Encoder | None = None) -> Any:
        self.writer.open(0)
        stream, self.leaves = pickle.loads(pickle.dumps((encoder or self.quick).encode(batch)))
        memory = self.arena.map(0, max(self.writer.used, 1)).view()
        self.writer.close()
        return codec.decode(stream, self.leaves, memory)

    def in_lease(self, *shape: int) -> torch.Tensor:
        tensor: torch.Tensor = self.writer.tensor(torch.float32, torch.Size(shape).numel())[0]
        return tensor.view(shape)


@pytest.fixture
def channel() -> Iterator[Channel]:
    channel = Channel()
    yield channel
    channel.arena.close()


def shown(thing: Any) -> Any:
    """All that a user can tell of it."""
    if isinstance(thing, torch.Tensor):
        facts = thing.dtype, tuple(thing.shape), thing.stride(), thing.requires_grad, thing.is_leaf, thing.tolist()
        return type(thing), facts, thing.storage_offset(), thing.untyped_storage().nbytes(), thing._base
    if isinstance(thing, dict):
        return type(thing), [(shown(key), shown(value)) for key, value in thing.items()]
    if isinstance(thing, (list, tuple)):
        return type(thing), [shown(part) for part in thing]
    return type(thing), repr(thing)


def usual() -> list[Any]:
    base = torch.arange(24.0)
    return [
        torch.arange(6).view(2, 3),
        torch.tensor(5),
        {"a": torch.zeros(2, 1), "b": [torch.ones(1, 3), torch.ones(1)], "c": ("x", 5, None, True, 2.5)},
        {"ids": torch.arange(6), "mask": torch.arange(6) > 2, "text": ["a", "ä", "\ud800", ""], "none": [None, 1, "x"]},
        [base[:6], base[3:9], base.view(4, 6)],  # of one memory
        [{"deep": ({"er": [(torch.ones(2),)]},)}, [], {}, ()],
        {"n": -0.0, "nan": float("nan"), "large": 1 << 70},
        *[torch.ones(3).to(kind) for kind in (torch.bfloat16, torch.float16, torch.bool, torch.complex64, torch.int8)],
    ]


def unusual() -> list[Any]:
    twice, both = torch.ones(3), [torch.ones(2)]
    return [
        [twice, twice],
        {"one": both, "two": both},
        OrderedDict(a=torch.ones(2)),
        Pair(torch.ones(2), 3),
        {1: torch.ones(2), 2: "x"},
        {Text("key"): torch.ones(2)},
        [torch.ones(2), Text("value")],
        torch.nn.Parameter(torch.ones(2)),
        torch.ones(2, requires_grad=True),
        torch.ones(4, 6).t(),
        torch.ones(2, 3).as_strided((1, 3), (7, 1)),
        torch.empty(0, 3),
        [torch.ones(2), torch.ones(2).numpy()],
        {"text": ["x" * 5000], "ids": torch.ones(2)},
        [torch.ones(1), *range(300)],
        {"bytes": b"x", "ids": torch.ones(1)},
        torch.ones(3, dtype=torch.complex64).conj(),
    ]


@pytest.mark.parametrize("batch", [*usual(), *unusual()], ids=lambda batch: type(batch).__name__)
def test_a_batch_comes_out_as_without_skeletons(batch: Any, channel: Channel) -> None:
    expected = shown(channel.send(batch, channel.plain))
    assert shown(channel.send(batch)) == expected
    assert shown(channel.send(batch)) == expected  # by the skeleton that is known now


@pytest.mark.parametrize("batch", usual(), ids=lambda batch: type(batch).__name__)
def test_what_is_usual_has_a_skeleton(batch: Any, channel: Channel) -> None:
    channel.writer.open(0)
    stream, leaves = channel.quick.encode(batch)
    again, _ = channel.quick.encode(batch)
    channel.writer.close()
    assert leaves and again is stream, "it was pickled again"


def test_the_same_tensor_or_container_twice_is_so_for_the_consumer(channel: Channel) -> None:
    tensor, both = torch.ones(3), [torch.ones(2)]
    got = channel.send([tensor, both, {"again": tensor, "both": both}])
    assert got[0] is got[2]["again"] and got[1] is got[2]["both"]


def test_tensors_of_one_memory_are_so_for_the_consumer(channel: Channel) -> None:
    base = torch.arange(8.0)
    whole, part = channel.send([base, base[2:4]])
    part[0] = 100
    assert whole[2] == 100


def test_what_was_collated_in_place_is_not_copied(channel: Channel) -> None:
    channel.writer.open(0)
    batch = {"a": channel.in_lease(2, 3).fill_(1), "b": channel.in_lease(4).fill_(2)}
    used = channel.writer.used
    channel.quick.encode(batch)
    assert channel.writer.used == used
    del batch
    channel.writer.close()


def test_a_consumers_list_is_its_own(channel: Channel) -> None:
    got = channel.send({"text": ["a", "b"], "ids": torch.ones(1)})
    got["text"].append("c")
    assert channel.leaves[0] == ["a", "b"]


def test_a_tensor_can_be_detached_in_place_and_has_not_been_changed_yet(channel: Channel) -> None:
    got = channel.send(torch.ones(2, 3))
    assert got._version == 0 and got.detach_() is got


def test_structures_that_are_many_are_not_all_kept(channel: Channel) -> None:
    for number in range(200):
        channel.send({f"field {number}": torch.ones(1)})
    assert len(channel.skeletons._known) <= 64
