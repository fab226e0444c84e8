"""The simulation runs, and what docs/scaling.md promises of it holds."""

from __future__ import annotations

import pytest

from benchmarks.scaling import sampler, traffic


def test_a_sampler_of_a_billion_holds_no_permutation() -> None:
    cost = sampler.measure(10**9, 10_000)
    assert cost.peak_bytes < 1 << 20
    assert cost.state_bytes is not None and cost.state_bytes < 200
    assert sampler.distinct(10**9, 300) == 300 * sampler.BATCH


@pytest.mark.slow
def test_the_boards_traffic_is_bounded() -> None:
    few, many = traffic.measure(100), traffic.measure(5000)
    assert (few.rows, many.rows) == (20, 200)
    assert few.visit_bytes < 512
    assert many.visit_bytes < 1.2 * few.visit_bytes
    assert many.reading_bytes < 5000 * 512
