"""Typed use of the public names. Nobody runs this: ``test_typing.py`` has mypy read it, with ``strict``."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils.data
from torch.utils.data import Dataset, IterableDataset, TensorDataset
from typing_extensions import assert_type

import safeloader
from safeloader import (
    BadSampleError,
    DataLoader,
    Fault,
    NotCarriableError,
    Policy,
    Report,
    SafeLoaderError,
    Settings,
    SettingsError,
    settings,
)


def a_loader_takes_its_type_from_the_dataset(
    tensors: TensorDataset, words: Dataset[str], stream: IterableDataset[int]
) -> None:
    assert_type(DataLoader(tensors, batch_size=4, shuffle=True), DataLoader[tuple[torch.Tensor, ...]])
    assert_type(DataLoader(words), DataLoader[str])
    assert_type(DataLoader(stream, None), DataLoader[int])


def a_loader_is_torchs(words: Dataset[str]) -> torch.utils.data.DataLoader[str]:
    return DataLoader(words, sampler=[0, 1], policy=Policy(batch_timeout="auto", max_processes=2), name="train")


def its_parts_are_typed(words: Dataset[str]) -> None:
    with DataLoader(words, batch_sampler=[[0], [1, 2]], num_workers=2) as loader:
        assert_type(loader, DataLoader[str])
        for batch in loader:
            assert_type(batch, Any)
        assert_type(len(loader), int)
        assert_type(loader.policy, Policy | None)
        assert_type(loader.name, str | None)
        assert_type(loader.report(), Report)
        assert_type(loader.report().faults, list[Fault])
        assert_type(loader.close(), None)


class Own(DataLoader[str]):
    def own(self) -> int:
        return 1


def a_subclass_stays_itself_in_a_with_statement(words: Dataset[str]) -> int:
    with Own(words) as loader:
        return loader.own()


def settings_and_errors_are_typed(error: SafeLoaderError, bad: BadSampleError, part: NotCarriableError) -> None:
    assert_type(settings(), Settings)
    assert_type(settings().sources, dict[str, str])
    assert_type(error.story, list[str])
    assert_type(error.report, Report | None)
    assert_type(part.path, str)
    assert_type(bad.cause, str)
    wrong: ValueError = SettingsError("what")
    slow: TimeoutError = safeloader.BatchTimeoutError("what")
    print(wrong, slow)


def mistakes_are_found(words: Dataset[str]) -> None:
    DataLoader(words, polciy=Policy())  # type: ignore[call-arg]
    DataLoader(words, policy={"batch_timeout": 3})  # type: ignore[arg-type]
    Policy(batch_timeout=[3])  # type: ignore[arg-type]
    Policy(timeout=3)  # type: ignore[call-arg]
