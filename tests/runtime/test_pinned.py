"""Pinned slots where there is no device: the reason is told once, and batches are copied as ever."""

from __future__ import annotations

import functools
import mmap
import os
from pathlib import Path

import pytest
import torch

from safeloader.runtime.memory import pinned
from safeloader.runtime.memory.cuda_driver import CudaDriver, NotPossible
from safeloader.runtime.memory.mapping import Mapping


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_log_says_why_batches_are_copied(caplog: pytest.LogCaptureFixture) -> None:
    assert pinned.made_for("train", None) is None
    assert [record.code for record in caplog.records] == ["SL157"]  # type: ignore[attr-defined]
    assert "train: batches are copied into pinned memory" in caplog.text and "no CUDA device" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_driver_it_is_named() -> None:
    with pytest.raises(NotPossible, match=r"libcuda|cuDriverGetVersion|cuDeviceGetCount|cuDevicePrimaryCtxRetain"):
        CudaDriver(0)


@pytest.mark.parametrize("answers", [[0, 0], [0, 5], [5, 0]])
def test_memory_is_unmapped_after_all_that_comes_before_has_succeeded(answers: list[int]) -> None:
    """What a device may still refer to stays mapped."""
    file = os.memfd_create(f"pinned-{answers}")
    os.ftruncate(file, mmap.PAGESIZE)
    mapping = Mapping(file, mmap.PAGESIZE, 0)
    asked: list[int] = []
    for number, answer in enumerate(answers):
        mapping.before_unmap.append(functools.partial(_answer, asked, number, answer))
    view = mapping.view()
    del mapping
    assert not asked and _is_mapped(answers)
    del view
    assert asked == ([0] if answers[0] else [0, 1])
    assert _is_mapped(answers) == any(answers)
    os.close(file)


def _answer(asked: list[int], number: int, answer: int) -> int:
    asked.append(number)
    return answer


def _is_mapped(answers: list[int]) -> bool:
    return f"pinned-{answers}" in Path("/proc/self/maps").read_text(encoding="utf-8")
