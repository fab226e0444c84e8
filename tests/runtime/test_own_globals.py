"""Globals, class attributes and functions of the user's modules: each worker has its own, as in a process of its own."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader

from safeloader import DataLoader, Policy, WorkerPool
from safeloader.runtime.child.own_globals import OwnGlobals
from tests import changing_data
from tests.changing_data import Outside, set_up
from tests.fixtures_data import Orders
from tests.runtime.harness import TORCHS, processes_of, program, run_script, seed


def _rows(loader: Any) -> list[Any]:
    seed()
    return [batch.tolist() for batch in loader]


@pytest.fixture(scope="session")
def torchs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("outside")
    loader = TorchLoader(Outside(folder), 4, num_workers=2, worker_init_fn=set_up, multiprocessing_context=TORCHS)
    return _rows(loader)


def _loader(folder: Path, orders: Orders | None = None, **policy: Any) -> DataLoader[Any]:
    return DataLoader(Outside(folder, orders=orders), 4, num_workers=2, worker_init_fn=set_up, policy=Policy(**policy))


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_workers_that_share_a_process_have_globals_of_their_own(
    forked: None, tmp_path: Path, torchs: list[Any], processes: int
) -> None:
    before = _globals()
    with _loader(tmp_path, max_processes=processes) as loader:
        assert _rows(loader) == torchs
    assert _globals() == before


def _globals() -> Any:
    data = changing_data
    named = data._worker, list(data._table), data._count, dict(data._known), data.OfClass.seen, vars(data._counting)
    return *named, vars(data).get("unnamed"), vars(sys).get("samples")


@pytest.mark.parametrize("restarts", [0, 1000])
def test_they_keep_them_when_processes_are_lost(
    forked: None, tmp_path: Path, orders: Orders, torchs: list[Any], restarts: int
) -> None:
    for index in (13, 42):
        orders.give("sample", index, "SIGKILL")
    with _loader(tmp_path, orders, max_restarts=restarts) as loader:
        assert _rows(loader) == torchs
        assert len(loader.report().faults) == 2


def test_a_neighbour_that_takes_a_worker_in_keeps_its_own(forked: None, tmp_path: Path, torchs: list[Any]) -> None:
    with _loader(tmp_path, shadow=False) as loader:
        rows = []
        seed()
        for number, batch in enumerate(loader):
            if number == 0:
                processes_of(loader)[1].kill()
            rows.append([row[:4] for row in batch.tolist()])
        # Without a copy of the process what was counted is lost, and said to be; what was set up is not.
        assert rows == [[row[:4] for row in batch] for batch in torchs]


def test_the_loaders_of_a_pool_have_their_own(forked: None, tmp_path: Path, torchs: list[Any]) -> None:
    with WorkerPool(2) as pool:
        loaders = [_loader(tmp_path, pool=pool) for _ in range(2)]
        iterators = []
        for loader in loaders:
            seed()
            iterators.append(iter(loader))
        rows: list[list[Any]] = [[], []]
        for pair in zip(*iterators, strict=True):
            for mine, batch in zip(rows, pair, strict=True):
                mine.append(batch.tolist())
        for mine in rows:
            assert mine == torchs
        for loader in loaders:
            loader.close()


SCRIPT = """
    import os, sys
    import torch
    from safeloader import DataLoader, Policy
    from torch.utils.data import Dataset, DataLoader as TorchLoader

    WHO, COUNT, SEEN = -1, 0, []

    class Base:
        hits = 0

    def note(index):
        SEEN.append(index)
        return len(SEEN)

    class Data(Dataset):
        count = 0
        def __len__(self):
            return 32
        def __getitem__(self, index):
            global COUNT
            COUNT += 1
            type(self).count += 2
            Base.hits += 3
            return torch.tensor([index, WHO, COUNT, self.count, Base.hits, note(index)])

    def collate(samples):
        return torch.stack(samples), COUNT, WHO

    def set_up(worker):
        global WHO
        WHO = worker * 100

    def rows(cls, **more):
        loader = cls(Data(), 4, num_workers=2, worker_init_fn=set_up, collate_fn=collate, **more)
        return [(batch.tolist(), *rest) for batch, *rest in loader]

    if __name__ == "__main__":
        expected = rows(TorchLoader, multiprocessing_context="fork")
        for processes in (2, 1, 0):
            assert rows(DataLoader, policy=Policy(max_processes=processes)) == expected, processes
        assert (WHO, COUNT, SEEN, Data.count, Base.hits) == (-1, 0, [], 0, 0)
        print("equal")
"""


def test_those_of_the_main_script_too(forked: None, tmp_path: Path) -> None:
    assert run_script(program(tmp_path, SCRIPT)).strip() == "equal"


# ---------------------------------------------------------------- without any process


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A module of the user's."""
    made: Any = types.ModuleType("of_the_user")
    made.__file__ = str(tmp_path / "of_the_user.py")
    monkeypatch.setitem(sys.modules, "of_the_user", made)
    exec(
        "import numpy as np, torch, itertools, collections\n"
        "class Thing:\n    shared = []\n    def __init__(self): self.values = [1]\n"
        "class Ends(Thing):\n    def __del__(self): pass\n"
        "def get(): return number, names, table, thing, other, ends, pair, array, tensor, count, Thing, late\n",
        vars(made),
    )
    made.number, made.names, made.table = 1, ["a"], {"a": [1]}
    made.thing = made.other = made.Thing()
    made.ends = made.Ends()
    made.pair, made.array, made.tensor = ([1], 2), np.zeros(3), torch.zeros(3)
    made.count, made.queue = itertools.count(), collections.deque([1])
    return made


def _changes(module: Any) -> None:
    module.number += 1
    module.names.append("b")
    module.table["a"].append(2)
    module.thing.values.append(2)
    module.pair[0].append(2)
    module.array[0] = module.tensor[0] = 5
    next(module.count)
    module.Thing.shared.append(1)
    module.get.calls = getattr(module.get, "calls", 0) + 1
    module.late = getattr(module, "late", 0) + 1


def _seen(module: Any) -> Any:
    thing = module.thing
    return (
        module.number, list(module.names), module.table["a"][:], thing.values[:], module.pair[0][:],
        module.array.tolist(), module.tensor.tolist(), repr(module.count), module.Thing.shared[:],
        getattr(module.get, "calls", None), getattr(module, "late", None), thing is module.other,
    )  # fmt: skip


@pytest.mark.parametrize("first", [True, False])
def test_each_changes_its_own_and_finds_it_again(module: Any, first: bool) -> None:
    before = _seen(module)
    workers = [OwnGlobals([module.get], first=first)]
    workers[0].enter()
    _changes(module)
    after_one = _seen(module)
    workers[0].leave()
    assert _seen(module) == before
    workers.append(OwnGlobals([module.get], first=False))
    for worker, times in ((1, 2), (0, 1), (1, 1)):
        workers[worker].enter()
        for _ in range(times):
            _changes(module)
        workers[worker].leave()
    assert _seen(module) == before
    workers[1].enter()
    assert module.number == 4
    assert module.late == 3
    workers[1].leave()
    workers[0].enter()
    assert module.number == 3
    assert _seen(module)[-1], "two names of one object stay so"
    assert _seen(module) != after_one
    workers[0].leave()


def test_the_first_ones_objects_stay_the_very_same(module: Any) -> None:
    names, thing = module.names, module.thing
    worker = OwnGlobals([module.get], first=True)
    assert module.names is names
    worker.leave()
    assert module.names is not names
    worker.enter()
    assert (module.names is names, module.thing is thing) == (True, True)


def test_what_does_something_when_it_ends_is_not_copied(module: Any) -> None:
    ends, thing = module.ends, module.thing
    worker = OwnGlobals([module.get], first=False)
    worker.enter()
    assert (module.ends is ends, module.thing is thing) == (True, False)
    worker.leave()
    assert module.thing is thing


@pytest.mark.parametrize("where", ["enter", "leave"])
def test_an_exchange_that_is_broken_off_is_ended_later(
    module: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _seen(module)
    worker = OwnGlobals([module.get], first=False)
    worker.enter()
    _changes(module)
    changed = _seen(module)
    if where == "enter":
        worker.leave()
    put, left = worker._namespaces[-1].put, [KeyboardInterrupt]

    def broken(values: dict[str, Any]) -> None:
        if left:
            raise left.pop()
        put(values)

    monkeypatch.setattr(worker._namespaces[-1], "put", broken)
    with pytest.raises(KeyboardInterrupt):
        getattr(worker, where)()
    worker.leave()
    assert _seen(module) == before
    worker.enter()
    assert _seen(module) == changed
    worker.leave()


def _counting() -> Any:
    seen = 0

    def count() -> int:
        nonlocal seen
        seen += 1
        return seen

    return count


def test_variables_that_functions_of_a_module_share_are_too(module: Any) -> None:
    module.counting = _counting()
    exec("def get(): return counting()", vars(module))
    workers = [OwnGlobals([module.get], first=first) for first in (True, False)]
    workers[0].leave()
    seen = []
    for worker in (0, 1, 1, 0):
        workers[worker].enter()
        seen.append(module.get())
        workers[worker].leave()
    assert seen == [1, 1, 2, 2]
    assert module.get() == 1


def test_what_a_package_keeps_itself_stays_the_same(module: Any) -> None:
    module.thing = missing = dataclasses.MISSING
    worker = OwnGlobals([module.get], first=False)
    worker.enter()
    assert module.thing is missing
    worker.leave()
