"""An exception that arrives at any instruction of ``next()`` loses nothing, repeats nothing, and is itself."""

from __future__ import annotations

import contextlib
import gc
import linecache
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import torch.utils.data
from torch.utils.data import Dataset, IterableDataset

import safeloader
from safeloader import DataLoader, Policy, WorkerPool
from safeloader.runtime.trainer import watchdog
from tests.instructions import each_instruction
from tests.runtime import broken_off
from tests.until import until

pytestmark = [pytest.mark.usefixtures("forked"), pytest.mark.timeout(300)]

_OURS = os.path.dirname(safeloader.__file__) + os.sep
_TORCHS = os.path.dirname(torch.utils.data.__file__) + os.sep


class Bell(Exception):
    """What a time-out of the program raises."""


class Interrupt:
    """Raises at the n-th line (or instruction) of this thread that is safeloader's, or torch's data loading."""

    def __init__(
        self, kind: type[BaseException] = Bell, opcodes: bool = False, within: tuple[str, ...] = (_OURS, _TORCHS)
    ) -> None:
        self.kind, self.opcodes, self.within = kind, opcodes, within
        self.left = 0
        self.places: set[tuple[str, int]] = set()

    def at(self, number: int) -> Interrupt:
        self.left = number
        return self

    def __enter__(self) -> None:
        if self.opcodes:
            self._hooked = each_instruction(self.within, self._step)
            self._hooked.__enter__()
        else:
            sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        if self.opcodes:
            self._hooked.__exit__(None, None, None)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._local if frame.f_code.co_filename.startswith(self.within) else None

    def _local(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self._step(frame)
        return self._local

    def _step(self, frame: FrameType) -> None:
        if frame.f_lineno is None:
            return  # the compiler's own, around a with block
        if self.opcodes and "nothing can come between" in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            return  # CPython looks for signals at calls and jumps, not between a store and the return behind it
        if self.left > 0:
            self.left -= 1
            if self.left == 0:
                self.places.add((os.path.basename(frame.f_code.co_filename), frame.f_lineno))
                raise self.kind


class Numbers(Dataset[torch.Tensor]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(2) + index


class Stream(IterableDataset[torch.Tensor]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = torch.utils.data.get_worker_info()
        for number in range(info.id, self.count, info.num_workers) if info else range(self.count):
            yield torch.rand(2) + number


class Breaks(Numbers):
    def __getitem__(self, index: int) -> torch.Tensor:
        if index % 20 == 3:
            raise ValueError(f"sample {index}")
        return super().__getitem__(index)


def undisturbed(loader: Any) -> list[torch.Tensor]:
    torch.manual_seed(5)
    return [batch.clone() for batch in loader]


def interrupted(loader: Any, interrupt: Interrupt, step: int = 1) -> tuple[list[torch.Tensor], int]:
    """All batches of an epoch in which every other ``next()`` is interrupted, each time a bit later; and how often."""
    torch.manual_seed(5)
    iterator, got, number, bells = iter(loader), [], 1, 0
    while True:
        batch = None
        try:
            with interrupt.at(number):
                batch = next(iterator)
            number = 1  # it was not that long
        except interrupt.kind:
            bells += 1
            number += step
            assert batch is None
            try:
                batch = next(iterator)
            except StopIteration:
                return got, bells
        except StopIteration:
            return got, bells
        got.append(batch.clone())


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """An exception that was raised by a tracer refers to itself."""
    yield
    gc.collect()


def same(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return len(got) == len(wanted) and all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def _pooled() -> dict[str, Any]:
    return {"num_workers": 2, "policy": Policy(pool=WorkerPool(processes=2))}


WAYS: dict[str, Callable[[], dict[str, Any]]] = {
    "processes": lambda: {"num_workers": 2},
    "out of order": lambda: {"num_workers": 1, "in_order": False},
    "one by one": lambda: {"num_workers": 1, "batch_size": None},
    "pool": _pooled,
    "in the trainer": lambda: {"num_workers": 2, "policy": Policy(max_processes=0)},
}


@contextlib.contextmanager
def made(dataset: Any, way: str, **more: Any) -> Iterator[DataLoader[Any]]:
    given = {"batch_size": 2} | more | WAYS[way]()
    loader = DataLoader(dataset, **given)
    try:
        yield loader
    finally:
        loader.close()
        if loader.policy is not None and loader.policy.pool is not None:
            loader.policy.pool.close()


def _files_of(names: set[str]) -> list[Path]:
    return [file for folder in (_OURS, _TORCHS) for file in Path(folder).rglob("*.py") if file.name in names]


PARTS = {"driver.py", "loop.py", "process_handle.py", "planner.py", "executor.py", "journal.py", "channel.py", "inbox.py",
         "codec.py", "supervisor.py", "sampler.py"}  # fmt: skip


@pytest.mark.parametrize(
    ("way", "kind"),
    [("processes", Bell), pytest.param("processes", KeyboardInterrupt, marks=pytest.mark.slow), ("pool", Bell), ("out of order", Bell), ("one by one", Bell),
     ("in the trainer", KeyboardInterrupt)],
)  # fmt: skip
def test_an_exception_at_any_line_loses_nothing(way: str, kind: type[BaseException]) -> None:
    count = 400 if way == "one by one" else 800
    with made(Numbers(count), way, shuffle=True) as loader:
        wanted = undisturbed(loader)
    with made(Numbers(count), way, shuffle=True) as loader:
        interrupt, missed = Interrupt(kind), PARTS - {"sampler.py"} if way == "processes" else set()
        for epoch in range(6):
            got, bells = interrupted(loader, interrupt)
            assert same(got, wanted), (len(got), len(wanted))
            assert loader.report().faults == []
            assert bells > 300 or epoch
            missed = missed - {file for file, _ in interrupt.places}
            if not missed:
                break
            interrupt.within = tuple(map(str, _files_of(missed)))  # which lines come depends on when messages do
    assert not missed


def test_an_exception_at_any_instruction_loses_nothing() -> None:
    with made(Numbers(1600), "processes", shuffle=True) as loader:
        wanted = undisturbed(loader)
    with made(Numbers(1600), "processes", shuffle=True) as loader:
        got, bells = interrupted(loader, Interrupt(opcodes=True), step=3)
        assert same(got, wanted), (len(got), len(wanted))
    assert bells > 700


def test_an_exception_at_any_line_of_a_stream_loses_nothing() -> None:
    with made(Stream(800), "processes") as loader:
        wanted = undisturbed(loader)
    with made(Stream(800), "processes") as loader:
        got, _ = interrupted(loader, Interrupt())
        assert same(got, wanted), (len(got), len(wanted))


def test_the_sampler_of_the_program_is_where_it_was_and_so_are_its_generators() -> None:
    """An exception inside the sampler's generator ends that generator: another one goes on in its place."""
    within = (os.path.join(_TORCHS, "sampler.py"),)
    with made(Numbers(400), "processes", shuffle=True) as loader:
        wanted = undisturbed(loader)
        after = torch.get_rng_state()
    with made(Numbers(400), "processes", shuffle=True) as loader:
        interrupt = Interrupt(within=within)
        got, bells = interrupted(loader, interrupt)
        assert same(got, wanted), (len(got), len(wanted))
        assert torch.equal(torch.get_rng_state(), after)
    assert bells > 20


def test_a_samplers_own_error_is_raised_at_its_turn() -> None:
    class Breaks:
        def __iter__(self) -> Iterator[list[int]]:
            yield [0]
            yield [1]
            raise Bell("the sampler's own")

    loader = DataLoader(Numbers(8), batch_sampler=Breaks(), num_workers=1)  # type: ignore[arg-type]
    got = []
    with pytest.raises(Bell, match="own"):
        got.extend(iter(loader))
    iterator = iter(loader)
    assert len([next(iterator), next(iterator)]) == 2
    with pytest.raises(Bell, match="own"):
        next(iterator)
    loader.close()


def test_an_exception_at_any_line_of_the_state_leaves_it_as_it_was() -> None:
    with made(Numbers(400), "processes", shuffle=True) as loader:
        wanted = undisturbed(loader)
    with made(Numbers(400), "processes", shuffle=True) as loader:
        torch.manual_seed(5)
        iterator, interrupt, got, number = iter(loader), Interrupt(), [], 1
        for _ in range(150):
            got.append(next(iterator).clone())
            try:
                with interrupt.at(number):
                    told = loader.state_dict()
                number = 1
            except Bell:
                number += 1
                told = loader.state_dict()
            assert told["batch"] == len(got)
        got += [batch.clone() for batch in iterator]
        assert same(got, wanted)


def test_an_epoch_that_is_interrupted_while_it_begins_begins_anew() -> None:
    with made(Numbers(40), "processes", shuffle=True, persistent_workers=True) as loader:
        list(loader)
        interrupt, number = Interrupt(), 1
        while number < 400:
            try:
                with interrupt.at(number):
                    iter(loader)
                break
            except Bell:
                number += 7
            assert len(list(loader)) == 20
        assert loader.report().faults == []
        assert len(list(loader)) == 20


def test_an_exception_while_it_is_closed_leaves_nothing_behind() -> None:
    for number in range(1, 60, 4):
        loader = DataLoader(Numbers(40), batch_size=2, num_workers=1)
        iterator = iter(loader)
        next(iterator)
        try:
            with Interrupt().at(number):
                loader.close()
        except Bell:
            loader.close()


def test_an_error_of_a_sample_is_raised_once_though_next_is_interrupted() -> None:
    with made(Breaks(400), "processes") as loader:
        iterator, interrupt, got, errors, number = iter(loader), Interrupt(), 0, 0, 1
        while True:
            batch = None  # the last one dies here: whatever is raised while an object dies is lost
            try:
                with interrupt.at(number):
                    batch = next(iterator)
                assert batch is not None
                got += 1
                number = 1
            except Bell:
                number += 1
            except StopIteration:
                break
            except ValueError:
                errors += 1
        assert (got, errors) == (180, 20)


# ---------------------------------------------------------------- in the dataset, where the trainer loads


def in_the_dataset() -> Interrupt:
    return Interrupt(KeyboardInterrupt, within=(broken_off.__file__,))


def test_a_batch_that_is_broken_off_in_the_trainer_is_loaded_again_with_the_generators_of_its_beginning() -> None:
    with made(broken_off.DrawsOfAllKinds(), "in the trainer", shuffle=True) as loader:
        wanted = undisturbed(loader)
    with made(broken_off.DrawsOfAllKinds(), "in the trainer", shuffle=True) as loader:
        got, bells = interrupted(loader, in_the_dataset())
        assert same(got, wanted), (len(got), len(wanted))
        assert loader.report().faults == []
    assert bells > 40


def test_a_stream_that_is_broken_off_in_the_trainer_is_read_again_in_a_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with made(broken_off.Stream(), "in the trainer") as loader:
        wanted = undisturbed(loader)
    with made(broken_off.Stream(), "in the trainer") as loader:
        got, bells = interrupted(loader, in_the_dataset())
        assert same(got, wanted), (len(got), len(wanted))
        assert loader.report().faults == []
    assert bells >= 2
    assert "broke off the iterator of the dataset" in caplog.text


def test_a_dataset_that_changes_itself_is_named_when_a_batch_of_it_is_broken_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for dataset, said in ((broken_off.Counts(), 2), (broken_off.DrawsOfAllKinds(), 0)):  # a line a worker
        caplog.clear()
        with made(dataset, "in the trainer") as loader:
            interrupted(loader, in_the_dataset())
        assert caplog.text.count("loaded again and may come out differently") == said


def test_what_was_left_behind_by_an_interrupt_interrupts_nothing_later() -> None:
    """The limit of a batch that was broken off is over when that batch is."""
    with made(Numbers(40), "in the trainer") as loader:
        wanted = undisturbed(loader)
    policy = Policy(max_processes=0, batch_timeout=1.0)
    with DataLoader(Numbers(40), batch_size=2, num_workers=2, policy=policy) as loader:
        got, _ = interrupted(loader, Interrupt(KeyboardInterrupt))
        assert same(got, wanted)
        for _ in range(12):  # as long as a limit that stayed would take
            threading.Event().wait(0.1)
            undisturbed(loader)
        assert loader.report().faults == []


def test_a_limit_that_an_interrupt_left_behind_is_over_with_its_block() -> None:
    watchdog._watchdog.set(0.0)
    until(lambda: watchdog._watchdog.limit is None)  # the signal came, and raised nothing


# ---------------------------------------------------------------- in the sampler


SAMPLERS: dict[str, Callable[[], dict[str, Any]]] = {
    "shuffled, the loader's generator": lambda: {"shuffle": True, "generator": torch.Generator().manual_seed(4)},
    "with replacement": lambda: {
        "sampler": torch.utils.data.RandomSampler(
            range(100), replacement=True, num_samples=16, generator=torch.Generator().manual_seed(4)
        )
    },
    "the program's generator": lambda: {"sampler": broken_off.FromThePrograms()},
    "a generator of its own": lambda: {"sampler": broken_off.FromItsOwn()},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_draw_that_is_broken_off_takes_its_numbers_once(sampler: str) -> None:
    """At any instruction of the sampler, the last draw included, which ends it: then the next epoch shows it."""
    within = (_TORCHS + "sampler.py", broken_off.__file__)

    def epochs(at: int) -> tuple[list[torch.Tensor], bool]:
        random.seed(9)
        torch.manual_seed(9)
        interrupt = Interrupt(KeyboardInterrupt, opcodes=True, within=within)
        got: list[torch.Tensor] = []
        count = 16 if "shuffle" in (given := SAMPLERS[sampler]()) else 100
        with DataLoader(
            Numbers(count),
            batch_size=4,
            num_workers=2,
            persistent_workers=True,
            policy=Policy(max_processes=0),
            **given,
        ) as loader:
            for epoch in range(3):
                iterator = iter(loader)
                try:
                    with interrupt.at(at if epoch == 1 else 0):
                        batch = next(iterator)
                except KeyboardInterrupt:
                    batch = next(iterator)
                got += [batch, *iterator]
        return got, bool(interrupt.places)

    wanted, _ = epochs(0)
    for at in range(1, 4000):
        got, hit = epochs(at)
        assert same(got, wanted), at
        if not hit:
            break
    assert at > 12
