"""An error of a sample says where it was, in a note (PEP 678), in every way of running; its type and message are torch's."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from safeloader import DataLoader, Policy, WorkerPool
from tests.runtime.harness import TORCHS

forked = pytest.mark.usefixtures("forked")


class Raises(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 21:
            raise KeyError("no label")
        return torch.tensor(float(index))


class RaisesAtOnce(Raises):
    def __getitems__(self, indices: Sequence[int]) -> list[torch.Tensor]:
        return [self[index] for index in indices]


class RaisesInAStream(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from torch.arange(21.0)
        raise KeyError("no label")


class Stops(Raises):
    def __getitem__(self, index: int) -> torch.Tensor:
        return next(iter([])) if index == 21 else torch.tensor(float(index))


def refuse(samples: list[torch.Tensor]) -> list[torch.Tensor]:
    if any(float(sample) == 21 for sample in samples):
        raise KeyError("no label")
    return samples


def _error(loader: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the class is compared with torch's
        for _ in loader:
            pass
    return caught.value


WAYS: dict[str, dict[str, Any]] = {
    "num_workers=0": {"num_workers": 0},
    "spawn": {"num_workers": 2, "policy": Policy(start_method="spawn")},
    "forkserver": {"num_workers": 2, "policy": Policy(start_method="forkserver")},
    "one process": {"num_workers": 2, "policy": Policy(start_method="forkserver", max_processes=1)},
    "no process": {"num_workers": 2, "policy": Policy(max_processes=0)},
    "standby": {"num_workers": 2, "policy": Policy(start_method="forkserver", standby=1)},
    "out of order": {"num_workers": 1, "in_order": False, "policy": Policy(start_method="forkserver")},
}


@forked
@pytest.mark.parametrize("way", WAYS)
def test_an_error_carries_a_note_of_its_sample_in_every_way_of_running(way: str) -> None:
    options = WAYS[way]
    worker = "" if way == "num_workers=0" else ", worker 0" if way == "out of order" else ", worker 1"
    error = _error(DataLoader(Raises(), batch_size=4, **options))
    assert error.__notes__ == [f"dataset[21], batch 5, epoch 0{worker}"]  # type: ignore[attr-defined]
    assert type(error) is KeyError
    if sys.version_info >= (3, 11):
        import traceback

        assert f"dataset[21], batch 5, epoch 0{worker}" in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("processes", [0, 1])
@pytest.mark.parametrize(
    ("dataset", "options", "expected"),
    [
        (RaisesAtOnce(), {"batch_size": 4}, "samples 20, 21, 22, 23, batch 5, epoch 0"),
        (Raises(), {"batch_size": None}, "dataset[21], batch 21, epoch 0"),
        (Raises(), {"batch_size": 4, "drop_last": True}, "dataset[21], batch 5, epoch 0"),
        (RaisesInAStream(), {"batch_size": 4, "drop_last": True}, "sample at position 1, batch 5, epoch 0"),
        (RaisesInAStream(), {"batch_size": None}, "sample at position 0, batch 21, epoch 0"),
        (TensorDataset(torch.arange(40.0)), {"batch_size": 4, "collate_fn": None}, ""),
        (Stops(), {"batch_size": 4}, "dataset[21], batch 5, epoch 0"),
    ],
    ids=["getitems", "single", "drop_last", "stream", "single stream", "no error", "StopIteration"],
)
@forked
def test_the_note_says_what_is_known(dataset: Any, options: dict[str, Any], expected: str, processes: int) -> None:
    loader = DataLoader(dataset, num_workers=processes, **options)
    if not expected:
        assert len(list(loader)) == 10
        return
    error = _error(loader)
    assert error.__notes__ == [expected + (", worker 0" if processes else "")]  # type: ignore[attr-defined]


@forked
@pytest.mark.parametrize("processes", [0, 2])
def test_neither_type_nor_message_of_an_error_changes(processes: int) -> None:
    iterator = iter(
        TorchLoader(Raises(), 4, num_workers=processes, multiprocessing_context=TORCHS if processes else None)
    )
    torchs = _error(iterator)
    list(iterator)  # torch's workers take five seconds each to end where something is left
    ours = _error(DataLoader(Raises(), 4, num_workers=processes))
    assert type(ours) is type(torchs)
    kept = [re.sub(r"  File .*\n.*\n(    [~^]+\n)?", "", str(error)) for error in (torchs, ours)]
    assert kept[0].splitlines()[0] == kept[1].splitlines()[0]
    assert "dataset[21]" not in str(ours)


@forked
def test_a_collate_functions_error_names_the_samples() -> None:
    error = _error(DataLoader(TensorDatasetOfScalars(), 4, num_workers=2, collate_fn=refuse))
    assert error.__notes__ == ["samples 20, 21, 22, 23, batch 5, epoch 0, worker 1"]  # type: ignore[attr-defined]


class TensorDatasetOfScalars(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(float(index))


@forked
def test_a_pools_loader_notes_it_too() -> None:
    with WorkerPool(1) as pool:
        error = _error(DataLoader(Raises(), 4, num_workers=2, policy=Policy(pool=pool)))
    assert error.__notes__ == ["dataset[21], batch 5, epoch 0, worker 1"]  # type: ignore[attr-defined]


@forked
def test_the_line_about_it_says_type_message_and_sample_and_streams_have_no_indices(
    caplog: pytest.LogCaptureFixture,
) -> None:
    _error(DataLoader(Raises(), 4, num_workers=1, name="train"))
    assert "raised KeyError: 'no label' while loading batch 5 of epoch 0 (sample 21)" in caplog.text
    _error(DataLoader(RaisesInAStream(), 4, num_workers=1, name="train"))
    assert "None" not in caplog.text


def test_python_3_10_keeps_the_note_as_well() -> None:
    from safeloader import notes

    class Without:
        """An exception of Python 3.10, as far as notes see it."""

    error: Any = Without()
    notes.add_note(error, "dataset[20]")
    notes.add_note(error, "dataset[20]")
    assert error.__notes__ == ["dataset[20]"]
