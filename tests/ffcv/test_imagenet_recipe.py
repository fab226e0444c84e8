"""ffcv-imagenet's way of training, unchanged: the same sizes and order with either import, and with kills."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest


@pytest.mark.ffcv
def test_the_schedule_is_that_of_progressive_resize() -> None:
    from benchmarks.ffcv.imagenet import get_resolution
    from safeloader.ffcv import ProgressiveResize

    asked = Namespace(min_res=160, max_res=192, start_ramp=65, end_ramp=76)
    ours = ProgressiveResize.ramp(160, 192, start=65, end=76)
    assert [get_resolution(epoch, asked) for epoch in range(88)] == [ours.size_at(epoch) for epoch in range(88)]


@pytest.mark.ffcv
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_same_program_with_either_import(tmp_path: Path) -> None:
    from benchmarks.ffcv.imagenet import compare

    assert compare(tmp_path, seeds=1)
