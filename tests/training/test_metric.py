"""What a metric and the gradient norm say about a run."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from safeloader.training import MetricWatch


def _feed(watch: MetricWatch, values: list[float], first: int = 0) -> list[tuple[str, int, int]]:
    found = [finding for step, value in enumerate(values, first) for finding in watch.update(value, step)]
    return [(finding.kind, finding.step, finding.since) for finding in found]


def test_a_metric_that_rises_is_left_alone() -> None:
    assert _feed(MetricWatch(), [0.1, 0.2, 0.3, 0.29, 0.4, 0.38, 0.39, 0.5]) == []


def test_the_story_of_the_collapse_is_told_ten_epochs_before_it() -> None:
    watch = MetricWatch("iou", decline=3)
    rising = [0.2 + 0.005 * epoch for epoch in range(88)]
    decline = [0.63, 0.62, 0.60, 0.57, 0.55, 0.52, 0.50, 0.45, 0.40]
    assert _feed(watch, [*rising, 0.6413, *decline, 0.0022]) == [("decline", 91, 89), ("collapse", 98, 98)]
    assert watch.should_stop and watch.best == 0.6413 and watch.best_step == 88
    first = watch.findings[0]
    assert first.text == "iou has become worse 3 times in a row, since step 89: 0.6 now, best 0.6413 at step 88"
    assert "go back to the best checkpoint" in first.looks_like
    assert "0.0022 at step 98" in str(watch.findings[1])


def test_a_loss_that_stands_for_eight_epochs_is_a_plateau() -> None:
    watch = MetricWatch("loss", mode="min", plateau=8, least_change=0.01)
    assert _feed(watch, [0.9, 0.33, *[0.333, 0.329, 0.331, 0.33] * 2]) == [("plateau", 9, 1)]
    assert "does not learn" in watch.findings[0].looks_like and not watch.should_stop


def test_a_loss_that_leaps_up_again_is_a_collapse() -> None:
    assert _feed(MetricWatch("loss", mode="min"), [2.3, 1.0, 0.5, 0.3, 2.0]) == [("collapse", 4, 4)]


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("min", [2.3, 0.01, 0.001, 0.003, 0.002]),  # three times the best, but nothing of the progress is lost
        ("max", [0.60, 0.62, 0.605, 0.61]),  # most of the progress, but little of the value
        ("min", [0.0, 0.0, 0.0]),
        ("max", [-5.0, -3.0, -3.5]),
    ],
)
def test_a_small_loss_is_no_collapse(mode: Any, values: list[float]) -> None:
    assert _feed(MetricWatch(mode=mode), values) == []


def test_each_trouble_is_told_once_and_again_after_it_was_over(caplog: pytest.LogCaptureFixture) -> None:
    watch = MetricWatch(decline=2, collapse=1.0)
    with caplog.at_level(logging.WARNING, logger="safeloader"):
        found = _feed(watch, [0.5, 0.4, 0.3, 0.2, 0.6, 0.5, 0.4, 0.3])
    assert found == [("decline", 2, 1), ("decline", 6, 5)]
    assert len(caplog.records) == 2


def test_a_new_best_lifts_the_stop() -> None:
    watch = MetricWatch(decline=2)
    _feed(watch, [0.5, 0.45, 0.4])
    assert watch.should_stop
    _feed(watch, [0.6], first=3)
    assert not watch.should_stop


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor(float("nan"))])
def test_a_metric_that_is_not_finite_stops_and_never_becomes_the_best(value: Any) -> None:
    watch = MetricWatch("accuracy")
    watch.update(0.5, 1)
    (found,) = watch.update(value, 2)
    assert (found.kind, found.since) == ("not_finite", 2) and "batch-norm" in found.looks_like
    assert watch.should_stop and watch.best == 0.5
    assert watch.update(value, 3) == [], "told once"


def test_a_gradient_norm_far_from_the_usual_is_told_with_the_usual() -> None:
    watch = MetricWatch()
    for step in range(30):
        assert watch.gradient_norm(1.0 + 0.5 * (step % 3), step) == []
    (high,) = watch.gradient_norm(50.0, 30)
    assert high.kind == "gradient_high" and "(the usual is 1.5)" in high.text
    assert watch.gradient_norm(60.0, 31) == [], "told once"
    (low,) = watch.gradient_norm(0.01, 32)
    assert low.kind == "gradient_low"
    assert watch.gradient_norm(1.0, 33) == []
    assert watch.gradient_norm(float("inf"), 34) == [], "the guard's business"
    assert len(watch.gradient_norm(50.0, 35)) == 1, "told again"


def test_a_given_range_holds_from_the_first_step() -> None:
    watch = MetricWatch(gradient_range=(0.01, 10.0))
    assert [f.kind for f in watch.gradient_norm(11.0, 0)] == ["gradient_high"]
    assert watch.gradient_norm(torch.tensor(1.0), 1) == []  # type: ignore[arg-type]


def test_a_watch_that_was_saved_goes_on_where_it_was() -> None:
    values = [0.1, 0.5, 0.45, 0.4, 0.35, 0.3, 0.1]
    whole = MetricWatch(decline=4)
    found = _feed(whole, values)
    first, second = MetricWatch(decline=4), MetricWatch(decline=4)
    early = _feed(first, values[:4])
    second.load_state_dict(first.state_dict())
    assert early + _feed(second, values[4:], first=4) == found
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    "wrong",
    [{"mode": "more"}, {"decline": 0}, {"plateau": 0}, {"collapse": 0.0}, {"collapse": 1.5}, {"least_change": -1.0},
     {"gradient_factor": 1.0}],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"mode=|at least 1"):
        MetricWatch(**wrong)
