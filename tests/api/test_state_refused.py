"""A state that does not fit is refused with words, and nothing has changed then."""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from safeloader import DataLoader, Policy, SafeLoaderError, StateError
from tests.api import state_data as data
from tests.fixtures_data import Draws, Orders, Stream
from tests.runtime.harness import TORCHS, _bytes, _generators, seed

pytestmark = pytest.mark.usefixtures("forked")


def make(length: int = 12, **options: Any) -> DataLoader[Any]:
    policy = options.pop("policy", Policy(max_processes=0))
    return DataLoader(Draws(length), policy=policy, **{"batch_size": 2, "num_workers": 2, "shuffle": True, **options})


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    with make() as loader:
        next(iter(loader))
        return loader.state_dict()


OTHERS: dict[str, tuple[Any, str]] = {
    "length": (lambda: make(13), "dataset's length was 12 and is 13"),
    "batch size": (lambda: make(batch_size=3), "batch_size was 2 and is 3"),
    "workers": (lambda: make(num_workers=1), "num_workers was 2 and is 1"),
    "no workers": (lambda: make(num_workers=0, policy=None), "num_workers was 2 and is 0"),
    "order": (lambda: make(shuffle=False), "kinds of samplers"),
    "drop_last": (lambda: make(drop_last=True), "drop_last was False and is True"),
    "persistent": (lambda: make(persistent_workers=True), "persistent_workers was False and is True"),
    "generator": (lambda: make(generator=torch.Generator()), "generator of its own was False and is True"),
    "sample_rng": (lambda: make(policy=Policy(sample_rng=True)), r"Policy\(sample_rng\) was False and is True"),
    "style": (lambda: DataLoader(Stream(12), 2, num_workers=2), "style was 'map' and is 'iterable'"),
    "stateful": (lambda: DataLoader(data.Growing(12), 2, num_workers=2, shuffle=True), "whether the dataset has state_dict"),
}  # fmt: skip


@pytest.mark.parametrize("other", OTHERS)
def test_the_state_of_another_loader_is_refused_and_nothing_has_changed(other: str, state: dict[str, Any]) -> None:
    make_other, words = OTHERS[other]
    with make_other() as loader:
        before, generators = loader._safe.keeper.pending, _generators()
        with pytest.raises(StateError, match=words):
            loader.load_state_dict(state)
        assert loader._safe.keeper.pending is before
        assert _generators() == generators


def test_a_living_epoch_is_not_hurt_by_a_refusal() -> None:
    seed()
    with make(persistent_workers=True) as loader:
        whole = [_bytes(batch) for batch in loader]
    seed()
    with make(persistent_workers=True) as loader:
        iterator = iter(loader)
        got = [_bytes(next(iterator))]
        with pytest.raises(StateError):
            loader.load_state_dict({"safeloader": 1})
        got += [_bytes(batch) for batch in iterator]
    assert got == whole


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ([], "a state is a dict, not list"),
        ({"model": 1}, r"no state of a safeloader.DataLoader: it has the keys \['model'\]"),
        ({"_snapshot": {}, "_steps_since_snapshot": 0}, "one of torchdata's StatefulDataLoader"),
        ({"safeloader": 99}, "format 99, and this version of safeloader reads 1 and 2"),
    ],
)
def test_what_is_no_state_is_told_so(broken: Any, words: str) -> None:
    with make() as loader, pytest.raises(StateError, match=words):
        loader.load_state_dict(broken)


def test_a_state_that_is_not_whole_or_damaged_is_refused(state: dict[str, Any]) -> None:
    with make() as loader:
        for key in state:
            with pytest.raises(StateError):
                loader.load_state_dict({k: v for k, v in state.items() if k != key})
        for key, value in (
            ("now", {"program": None, "own": {}}),
            ("planned", [[1]]),
            ("workers", []),
            ("batch", "x"),
            ("drawn", -1),
        ):
            damaged = {**copy.deepcopy(state), key: value}
            with pytest.raises(StateError, match="damaged"):
                loader.load_state_dict(damaged)
        text = copy.deepcopy(state)
        text["now"]["program"]["torch"] = text["now"]["program"]["torch"][:-9]
        with pytest.raises(StateError, match="damaged"):
            loader.load_state_dict(text)


def _numbers(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the numbers and texts of a state are."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _numbers(item, (*path, key))]
    if isinstance(value, list):
        return [found for number, item in enumerate(value) for found in _numbers(item, (*path, number))]
    return [path]


def _changed(state: Any, path: tuple[Any, ...]) -> Any:
    """The same with one value changed a little."""
    changed = inner = copy.deepcopy(state)
    for key in path[:-1]:
        inner = inner[key]
    value = inner[path[-1]]
    if isinstance(value, bool) or value is None:
        inner[path[-1]] = not value
    elif isinstance(value, str):
        inner[path[-1]] = value[:-1] + ("a" if value[-1:] != "a" else "b")
    else:
        inner[path[-1]] = value + 1
    return changed


def test_a_state_with_one_value_changed_is_refused_wherever_that_is(state: dict[str, Any]) -> None:
    told = json.loads(json.dumps(state))
    with make() as loader:
        loader.load_state_dict(told)
        before, generators, epochs = loader._safe.keeper.pending, _generators(), loader._safe.epochs
        paths = _numbers(told)
        assert len(paths) > 40
        for path in paths:
            if path == ("safeloader",):
                continue
            with pytest.raises(StateError, match="damaged"):
                loader.load_state_dict(_changed(told, path))
            assert loader._safe.keeper.pending is before
        assert (_generators(), loader._safe.epochs) == (generators, epochs)


class Remembering(IterableDataset[int]):
    """Its state holds what JSON and others change: tuples, numbers as keys, arrays, tensors, itself."""

    def __init__(self) -> None:
        self.at = 0
        self.seen: list[int] = []

    def __iter__(self) -> Any:
        while self.at < 12:
            self.at += 1
            self.seen.append(self.at)
            yield self.at

    def state_dict(self) -> dict[Any, Any]:
        return {
            "at": self.at,
            "seen": self.seen,
            7: (1, 2.5),
            "deep": {"x": [None, True, {3: "three"}]},
            "nan": float("nan"),
        }

    def load_state_dict(self, state: dict[Any, Any]) -> None:
        self.at, self.seen = state["at"], list(state["seen"])


class WithArrays(Remembering):
    def state_dict(self) -> dict[Any, Any]:
        more = {
            "array": np.arange(3),
            "tensor": torch.arange(4.0),
            "scalar": np.int64(4),
            "set": {"b", "a"},
            "object": Orders(),
        }
        return {**super().state_dict(), **more}


def _by_torch(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "keep", [lambda s: s, lambda s: json.loads(json.dumps(s)), _by_torch, lambda s: pickle.loads(pickle.dumps(s))]
)
@pytest.mark.parametrize(("kind", "workers"), [(Remembering, 0), (Remembering, 2), (WithArrays, 0), (WithArrays, 2)])
def test_a_seal_fits_however_the_state_was_kept(kind: type[Remembering], workers: int, keep: Any) -> None:
    def again() -> DataLoader[Any]:
        return DataLoader(kind(), 2, num_workers=workers, policy=Policy(max_processes=0), snapshot_every_n_steps=1)

    with again() as loader:
        iterator = iter(loader)
        next(iterator)
        state = loader.state_dict()
        rest = [batch.tolist() for batch in iterator]  # the dataset goes on with the objects that it told
    try:
        kept = keep(state)
    except TypeError:  # arrays are nothing for JSON
        assert kind is WithArrays
        return
    with again() as loader:
        loader.load_state_dict(kept)
        assert [batch.tolist() for batch in loader] == rest


def test_a_state_without_a_seal_is_read_with_a_warning(state: dict[str, Any]) -> None:
    """Older versions made no seals."""
    old = {**{key: value for key, value in state.items() if key != "seal"}, "safeloader": 1}
    with make() as loader:
        with pytest.warns(UserWarning, match="without a seal"):
            loader.load_state_dict(old)
        assert len(list(loader)) == 5
        with pytest.raises(StateError, match="has no seal"):
            loader.load_state_dict({**old, "safeloader": 2})


def test_a_sampler_that_cannot_be_repeated_is_found_out() -> None:
    def again() -> DataLoader[Any]:
        return DataLoader(Draws(12), 2, sampler=data.InPlaceSampler(12), num_workers=2, policy=Policy(max_processes=0))

    with again() as loader:
        list(loader)
        iterator = iter(loader)
        next(iterator)
        state = loader.state_dict()
    with again() as loader:
        loader.load_state_dict(state)
        with pytest.raises(StateError, match="the sampler gives other samples than before the state was taken: batch"):
            next(iter(loader))
        loader.load_state_dict({})
        assert len(list(loader)) == 6, "an empty state begins anew"


def test_a_sampler_of_another_length_is_found_out() -> None:
    class Endless(data.Sampler[int]):
        def __init__(self, count: int) -> None:
            self.count = count

        def __iter__(self) -> Any:
            return iter([0] * self.count)

    with DataLoader(Draws(12), 2, sampler=Endless(12)) as loader:
        for _ in zip(range(4), loader, strict=False):
            pass
        state = loader.state_dict()
    with DataLoader(Draws(12), 2, sampler=Endless(4)) as loader:
        loader.load_state_dict(state)
        with pytest.raises(StateError, match=r"has 2 batches, and [45] were drawn"):
            next(iter(loader))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_that_fails_to_tell_its_state_is_an_error_of_state_dict_alone(workers: int) -> None:
    loader = DataLoader(
        data.FailsToTell(8), 2, num_workers=workers, policy=Policy(max_processes=0), snapshot_every_n_steps=1
    )
    with loader:
        iterator = iter(loader)
        next(iterator)
        next(iterator)
        with pytest.raises(StateError, match="state_dict failed: RuntimeError: the buffer is locked"):
            loader.state_dict()
        assert len(list(iterator)) == 2


def test_an_iterable_dataset_that_became_shorter_is_an_error() -> None:
    class Numbers(IterableDataset[int]):
        def __init__(self, count: int) -> None:
            self.count = count

        def __iter__(self) -> Any:
            return iter(range(self.count))

    long = DataLoader(Numbers(12), 2)
    for _ in zip(range(4), long, strict=False):
        pass
    short = DataLoader(Numbers(4), 2)
    short.load_state_dict(long.state_dict())
    with pytest.raises(StateError, match="the dataset ends before"):
        iter(short)


def test_plain_torch_has_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELOADER_DISABLE", "1")
    loader = make()
    for call in (lambda: loader.state_dict(), lambda: loader.load_state_dict({})):
        with pytest.raises(SafeLoaderError, match="SAFELOADER_DISABLE"):
            call()


@runtime_checkable
class HasState(Protocol):
    """As frameworks look for a state, Lightning and torch.distributed.checkpoint among them."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class Counting(DataLoader[Any]):
    """A program's own words for its own state."""

    def state_dict(self) -> dict[str, Any]:
        return {"mine": 1}


def test_a_framework_finds_no_state_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = make()
    assert isinstance(kept, HasState)
    monkeypatch.setenv("SAFELOADER_DISABLE", "1")
    loader = make(multiprocessing_context=TORCHS)
    again = type(loader)(loader.dataset)
    for one in (loader, again, copy.copy(loader), pickle.loads(pickle.dumps(loader))):
        assert isinstance(one, DataLoader)
        assert (type(one).__name__, type(one).__module__) == ("DataLoader", "safeloader.loader")
        assert not hasattr(one, "state_dict")
        assert getattr(one, "load_state_dict", None) is None
        assert not isinstance(one, HasState)
        assert [len(batch) for batch in one] != []
    mine = Counting(loader.dataset)
    assert mine.state_dict() == {"mine": 1}
    assert not hasattr(mine, "load_state_dict")
    kept_words = pickle.dumps(loader)
    monkeypatch.delenv("SAFELOADER_DISABLE")
    assert isinstance(pickle.loads(kept_words), HasState)
    assert type(pickle.loads(kept_words)) is DataLoader


@pytest.mark.parametrize("steps", [-1, True])
def test_nonsense_for_snapshot_every_n_steps_is_refused(steps: Any) -> None:
    with pytest.raises(ValueError, match="snapshot_every_n_steps"):
        DataLoader([1], snapshot_every_n_steps=steps)  # type: ignore[arg-type]
    random.random()
