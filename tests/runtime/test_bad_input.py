"""Bad input ends in one clear error that says what and where, in bounded time; every other batch still comes."""

from __future__ import annotations

import sys
import textwrap
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from safeloader import DataLoader, Policy
from safeloader.errors import (
    ConcurrentUseError,
    LoaderClosedError,
    NotCarriableError,
    SafeLoaderError,
    SettingsError,
    StartError,
)
from tests.fixtures_data import (
    BareClass,
    Draws,
    OddError,
    Orders,
    hostile_import,
    jit_collate,
    locked_batch,
)
from tests.runtime.harness import COUNT, digest, make, persistent_epochs, processes_of, program, run_script


class Holds(Draws):
    """A dataset that holds something."""

    def __init__(self, thing: object) -> None:
        super().__init__(COUNT)
        self.inside = {"thing": thing}


def _through(loader: DataLoader[Any]) -> tuple[list[int], dict[int, Exception]]:
    """First indices of the batches that came, and the errors by the number of their batch."""
    came: list[int] = []
    errors: dict[int, Exception] = {}
    stream, number = iter(loader), 0
    while True:
        try:
            batch = next(stream)
            came.append(int((batch if isinstance(batch, torch.Tensor) else batch[0])[0, 0]))
        except StopIteration:
            return came, errors
        except Exception as error:
            errors[number] = error
        number += 1


# ---------------------------------------------------------------- what cannot be sent


def iterator() -> Generator[int, Any, None]:
    """Python keeps where it stands in a frame, which cannot be copied."""
    yield from range(3)


def test_a_dataset_that_cannot_be_sent_is_refused_with_the_path_to_the_offender() -> None:
    with pytest.raises(NotCarriableError) as caught:
        iter(make(Holds(iterator())))
    assert caught.value.path == "dataset.inside['thing']"


def test_a_collate_function_that_cannot_be_sent_is_refused_by_name() -> None:
    held = iterator()

    def collate(samples: list[Any]) -> Any:
        return [*samples, *held]

    with pytest.raises(NotCarriableError) as caught:
        iter(make(Draws(COUNT), collate_fn=collate))
    assert caught.value.path.startswith("collate_fn")


def test_a_worker_init_fn_that_cannot_be_sent_is_refused_by_name() -> None:
    with pytest.raises(NotCarriableError) as caught:
        iter(make(Draws(COUNT), worker_init_fn=iterator().send))
    assert caught.value.path.startswith("worker_init_fn")


@pytest.mark.usefixtures("forked")
def test_a_loader_that_was_refused_can_be_mended_and_used() -> None:
    dataset = Holds(iterator())
    loader = make(dataset, policy=Policy(max_processes=0))
    with pytest.raises(NotCarriableError):
        iter(loader)
    dataset.inside.clear()
    assert len(list(loader)) == 12


def test_a_dataset_whose_module_cannot_be_imported_in_the_process_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
        import sys
        if "safeloader.runtime.child.process_main" in sys.modules:
            raise ImportError("libpicture.so.3: no such file")
        from tests.fixtures_data import Draws
        class Local(Draws):
            pass
    """
    tmp_path.joinpath("only_in_the_trainer.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "safeloader.runtime.child.process_main", raising=False)
    import only_in_the_trainer  # type: ignore[import-not-found]

    loader = make(only_in_the_trainer.Local(COUNT))
    with pytest.raises(StartError, match=r"libpicture\.so\.3") as caught:
        next(iter(loader))
    assert "Traceback" in caught.value.hint
    assert processes_of(loader) == []
    del sys.modules["only_in_the_trainer"]


# ---------------------------------------------------------------- what is raised in a worker


@pytest.mark.usefixtures("forked")
def test_what_a_sample_raises_is_raised_at_its_batchs_turn_and_the_other_batches_come(orders: Orders) -> None:
    deeds = {4: "ValueError", 9: "OddError", 14: "local error", 19: "MemoryError", 24: "StopIteration", 29: "import"}
    for index, deed in deeds.items():
        orders.give("sample", index, deed)
    loader = make(Draws(COUNT, orders), shuffle=False)
    came, errors = _through(loader)
    assert came == [at for at in range(0, COUNT, 4) if at // 4 not in {index // 4 for index in deeds}]
    by_deed = {deed: errors[index // 4] for index, deed in deeds.items()}

    plain = by_deed["ValueError"]
    assert type(plain) is ValueError
    assert str(plain).startswith("Caught ValueError in DataLoader worker process 1.\nOriginal Traceback (most recent")
    assert "in __getitem__" in str(plain)
    assert "a bad picture" in str(plain)

    odd = by_deed["OddError"]  # torch raises RuntimeError where the class cannot be made of a text alone
    assert isinstance(odd, (OddError, RuntimeError))
    assert "7: odd" in str(odd)
    assert "from inside a function" in str(by_deed["local error"])
    assert isinstance(by_deed["MemoryError"], (MemoryError, RuntimeError))
    assert "allocate" in str(by_deed["MemoryError"])
    assert isinstance(by_deed["import"], ModuleNotFoundError)
    assert "a_module_that_is_nowhere" in str(by_deed["import"])

    assert not isinstance(by_deed["StopIteration"], StopIteration)
    assert "StopIteration for sample 24" in str(by_deed["StopIteration"])

    rows = {fault.sample: fault for fault in loader.report().faults}
    assert rows.keys() == deeds.keys()
    assert {fault.cause for fault in rows.values()} == {"raised"}
    assert rows[4].worker == 1


@pytest.mark.usefixtures("forked")
def test_what_cannot_be_carried_out_of_a_worker_is_an_error_that_names_it(orders: Orders) -> None:
    """A batch with a lock in it, one with a gradient, and one whose class only the worker can import."""
    loader = make(Draws(COUNT), shuffle=False, collate_fn=locked_batch)
    came, errors = _through(loader)
    assert came == [at for at in range(0, COUNT, 4) if at not in (8, 20)]
    assert errors.keys() == {2, 5}
    assert "lock" in str(errors[2])
    assert ".detach()" in str(errors[5])
    assert {(fault.cause, fault.batch) for fault in loader.report().faults} == {("unpicklable", 2), ("unpicklable", 5)}


@pytest.mark.usefixtures("forked")
def test_a_batch_whose_class_only_the_worker_can_import_is_one_clear_error(tmp_path: Path) -> None:
    text = "class Batch:\n    def __init__(self, data): self.data = data\n"
    tmp_path.joinpath("only_in_the_worker.py").write_text(text)
    dataset = Holds(str(tmp_path))
    loader = make(dataset, shuffle=False, collate_fn=jit_collate, worker_init_fn=hostile_import, num_workers=1)
    stream = iter(loader)
    with pytest.raises(SafeLoaderError, match="only_in_the_worker") as caught:
        next(stream)
    assert "importable in the main process" in caught.value.hint
    with pytest.raises(SafeLoaderError):  # the next batch has the same fault; nothing is stuck
        next(stream)


class InitRaises:
    def __call__(self, worker: int) -> None:
        raise PermissionError(f"worker {worker} may not read the disk")


@pytest.mark.usefixtures("forked")
def test_what_worker_init_fn_raises_is_raised_as_torch_does() -> None:
    with pytest.raises(PermissionError, match="may not read the disk") as caught:
        next(iter(make(Draws(COUNT), worker_init_fn=InitRaises(), num_workers=1)))
    assert "Caught PermissionError in DataLoader worker process 0" in str(caught.value)


class BadSampler:
    """A batch sampler that fails half way."""

    def __iter__(self) -> Any:
        yield [0, 1]
        yield [2, 3]
        raise KeyError("the list of files is gone")

    def __len__(self) -> int:
        return 9


@pytest.mark.usefixtures("forked")
def test_what_the_sampler_raises_comes_after_the_batches_that_were_planned() -> None:
    sampler: Any = BadSampler()
    loader: DataLoader[Any] = DataLoader(
        Draws(COUNT), batch_sampler=sampler, num_workers=1, policy=Policy(max_processes=0)
    )
    stream = iter(loader)
    assert [next(stream)[:, 0].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(KeyError, match="the list of files is gone"):
        next(stream)


def test_where_no_process_can_be_started_the_trainer_loads_all_itself(tmp_path: Path) -> None:
    """The program has used up its descriptors: every start fails, the ladder leads down to the trainer."""
    script = program(
        tmp_path,
        """
        import os, resource
        from tests.runtime.harness import *
        loader = make(Draws(COUNT))
        seed()
        iter(loader)  # all modules are there, and what is opened once
        gc.collect()
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        hoard = []
        try:
            while True:
                hoard.append(os.dup(2))
        except OSError:
            pass
        for descriptor in hoard[:4]:  # enough for the loader's own, and not for a process
            os.close(descriptor)
        played = run_epoch(loader)
        report = loader.report()
        causes = {(fault.cause, "Too many open files" in fault.detail) for fault in report.faults}
        print(digest(played), report.rung, causes)
        """,
    )
    assert run_script(script).strip() == f"{digest(persistent_epochs()[0])} 0 {{('failed_start', True)}}"


# ---------------------------------------------------------------- wrong use


@pytest.mark.usefixtures("forked")
def test_an_iterator_used_from_two_threads_is_an_error_and_the_first_is_not_disturbed(orders: Orders) -> None:
    orders.give("sample", 1, "wait here")
    loader = make(Draws(COUNT, orders), shuffle=False)
    stream = iter(loader)
    got: list[Any] = []
    first = threading.Thread(target=lambda: got.append(next(stream)))
    first.start()
    orders.await_arrival("here")
    with pytest.raises(ConcurrentUseError, match="two threads"):
        next(stream)
    orders.release("here")
    first.join()
    assert got[0][:, 0].tolist() == [0, 1, 2, 3]
    assert len(list(stream)) == 11


@pytest.mark.usefixtures("forked")
def test_a_closed_loader_says_so(orders: Orders) -> None:
    loader = make(Draws(COUNT, orders))
    stream = iter(loader)
    next(stream)
    loader.close()
    with pytest.raises(LoaderClosedError):
        next(stream)
    with pytest.raises(LoaderClosedError, match="train was closed"):
        iter(loader)
    loader.close()


def test_wrong_policies_are_refused_before_anything_starts() -> None:
    with pytest.raises(SettingsError):
        make(Draws(COUNT), policy=Policy(batch_timeout=-1))
    with pytest.raises(TypeError, match="Policy"):
        make(Draws(COUNT), policy={"batch_timeout": 3})  # type: ignore[arg-type]


class Odd(Dataset[Any]):
    """Samples of a class of attributes."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> BareClass:
        return BareClass(index=index, picture=torch.full((3, 4), index), empty=torch.empty(0, 5))


@pytest.mark.usefixtures("forked")
def test_samples_of_any_class_travel_whole() -> None:
    loader: DataLoader[Any] = DataLoader(Odd(), batch_size=None, num_workers=1)
    (sample, *rest) = loader
    assert type(sample) is BareClass
    assert torch.equal(vars(sample)["picture"], torch.zeros(3, 4, dtype=torch.long))
    assert vars(sample)["empty"].shape == (0, 5)
    assert len(rest) == 3
