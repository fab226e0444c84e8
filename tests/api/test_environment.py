"""What the environment decides reaches the loader, and what a worker's environment holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import torch.multiprocessing
import torch.utils.data as tud

from safeloader import DataLoader, ForkRefusedError, Policy, SettingsError
from tests.api.parity import data

Env = pytest.MonkeyPatch


def test_disable_gives_torchs_own_loading(monkeypatch: Env) -> None:
    monkeypatch.setenv("SAFELOADER_DISABLE", "1")
    for num_workers, kind in ((0, "_SingleProcessDataLoaderIter"), (1, "_MultiProcessingDataLoaderIter")):
        loader = DataLoader(data.Items(3), 2, num_workers=num_workers, name="train")
        iterator = iter(loader)
        assert type(iterator) is getattr(tud.dataloader, kind)
        assert [batch["index"].tolist() for batch in iterator] == [[0, 1], [2]]


def test_disable_leaves_fork_to_torch(monkeypatch: Env) -> None:
    monkeypatch.setenv("SAFELOADER_DISABLE", "yes")
    loader = DataLoader(data.Items(3), num_workers=1, multiprocessing_context="fork")
    assert loader.multiprocessing_context.get_start_method() == "fork"


def test_the_number_of_processes_can_be_limited(monkeypatch: Env) -> None:
    monkeypatch.setenv("SAFELOADER_MAX_PROCESSES", "0")
    before = psutil.Process().children()
    with DataLoader(data.Items(4, shows_worker=True), 2, num_workers=2) as loader:
        assert [batch["worker"][0].tolist() for batch in loader] == [[0, 0], [1, 1]]
        assert psutil.Process().children() == before
        assert loader.report().rung == 0


def test_what_to_do_about_bad_samples_can_be_said(monkeypatch: Env) -> None:
    monkeypatch.setenv("SAFELOADER_ON_BAD_SAMPLE", "skip")
    monkeypatch.setenv("SAFELOADER_MAX_PROCESSES", "0")
    with DataLoader(data.Items(4, bad=1), 2, num_workers=1) as loader:
        assert [batch["index"].tolist() for batch in loader] == [[0], [2, 3]]
        assert loader.report().skipped == [(0, 0, 1)]


def test_an_argument_goes_before_the_environment(monkeypatch: Env) -> None:
    monkeypatch.setenv("SAFELOADER_MAX_PROCESSES", "0")
    monkeypatch.setenv("SAFELOADER_BATCH_TIMEOUT", "77")
    loader = DataLoader(data.Items(4), num_workers=2, timeout=5, policy=Policy(max_processes=1))
    settings = loader._safe.settings
    assert (settings.max_processes, settings.batch_timeout) == (1, 5.0)
    assert DataLoader(data.Items(4))._safe.settings.batch_timeout == 77.0
    assert DataLoader(data.Items(4), timeout=5, policy=Policy(batch_timeout=6))._safe.settings.batch_timeout == 6.0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SAFELOADER_BATCH_TIMEUOT", "5", "SAFELOADER_BATCH_TIMEOUT"),
        ("SAFELOADER_BATCH_TIMEOUT", "soon", "number of seconds"),
        ("SAFELOADER_MAX_PROCESSES", "-1", "at least 0"),
    ],
)
def test_a_misspelt_variable_is_an_error_as_soon_as_a_loader_is_made(
    monkeypatch: Env, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said) as caught:
        DataLoader(data.Items(3))
    assert name in str(caught.value)


# ---------------------------------------------------------------- strict


@pytest.fixture
def _started_by_fork() -> Iterator[None]:
    before = torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method("fork", force=True)
    yield
    torch.multiprocessing.set_start_method(before, force=True)


def test_strict_makes_an_error_of_a_fork_context(monkeypatch: Env) -> None:
    monkeypatch.setenv("SAFELOADER_STRICT", "1")
    for context in ("fork", torch.multiprocessing.get_context("fork")):
        with pytest.raises(ForkRefusedError, match="multiprocessing_context asks for fork"):
            DataLoader(data.Items(3), num_workers=1, multiprocessing_context=context)


@pytest.mark.usefixtures("_started_by_fork")
def test_strict_makes_an_error_of_the_programs_start_method(monkeypatch: Env) -> None:
    monkeypatch.setenv("SAFELOADER_STRICT", "1")
    DataLoader(data.Items(3))
    DataLoader(data.Items(3), num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(ForkRefusedError, match="start method asks for fork"):
        DataLoader(data.Items(3), num_workers=1)


@pytest.mark.usefixtures("_started_by_fork")
def test_a_start_method_set_after_the_loader_was_made_is_noticed() -> None:
    torch.multiprocessing.set_start_method("spawn", force=True)
    loader = DataLoader(data.Items(3), num_workers=1, policy=Policy(max_processes=0))
    torch.multiprocessing.set_start_method("fork", force=True)
    with pytest.warns(UserWarning, match="start method asks for fork"):
        iterator = iter(loader)
    assert len(list(iterator)) == 3
    loader.close()


# ---------------------------------------------------------------- inside a worker


def test_a_worker_imports_nothing_that_only_the_trainer_needs() -> None:
    with DataLoader(data.Modules(), None, num_workers=1, collate_fn=data.collate_identity) as loader:
        modules: Any = next(iter(loader))
    assert {"safeloader.runtime.child.loop", "tests.api.parity.data"} <= set(modules)
    trainers = ("loader", "observe", "config", "setting_types", "core", "runtime.trainer")
    found = [name for name in modules if name.startswith(tuple(f"safeloader.{part}" for part in trainers))]
    assert found == []
    assert [name for name in ("hypothesis", "pytest", "psutil", "cloudpickle", "PIL") if name in modules] == []
