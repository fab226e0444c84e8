"""What ``safeloader.training`` shows, and what it costs to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import safeloader.training


def test_the_public_names_are_these() -> None:
    assert safeloader.training.__all__ == [
        "Average", "Checkpoint", "CheckpointError", "CheckpointStore", "FiniteGuard", "Finding", "MetricWatch",
        "NonFiniteError", "PassedOver", "RateWatch", "Resumed", "Saved", "SettingsCheck", "Trouble", "disagreement",
        "fingerprint", "linear_scaling", "resume", "settings_check",
    ]  # fmt: skip


@pytest.mark.parametrize("name", safeloader.training.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(safeloader.training, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'FinitGuard'"):
        safeloader.training.FinitGuard  # type: ignore[attr-defined]  # noqa: B018


def test_neither_torch_nor_lightning_nor_accelerate_is_imported_before_it_is_used() -> None:
    code = "import sys, safeloader.training; print(sorted({'torch', 'lightning', 'accelerate'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "[]"
    code = "import sys, safeloader.training.guard; print(sorted({'lightning', 'accelerate'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "library", "hint"),
    [
        ("lightning", ["lightning", "pytorch_lightning"], "pip install lightning"),
        ("accelerate", ["accelerate"], "pip install accelerate"),
    ],
)
def test_without_the_library_the_import_error_names_it(module: str, library: list[str], hint: str) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({library!r})); import safeloader.training.{module}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 1 and hint in said.stderr
