"""What a metric and the gradient norm say about a run."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from benchmarks.incidents import watch as simulated
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


def _norms(watch: MetricWatch, norms: list[float], first: int = 0) -> list[tuple[str, int]]:
    return [(f.kind, f.step) for step, norm in enumerate(norms, first) for f in watch.gradient_norm(norm, step)]


def test_gradient_norms_far_from_the_usual_are_told_with_the_usual() -> None:
    watch = MetricWatch()
    assert _norms(watch, [1.0, 1.5, 2.0] * 10) == []
    assert _norms(watch, [50.0, 60.0, 1.0, 50.0], 30) == [], "two spikes are none"
    assert _norms(watch, [50.0, 60.0, 50.0], 34) == [("gradient_high", 35)], "told once"
    assert "(the usual is 1.5)" in watch.findings[0].text
    assert _norms(watch, [1.0, float("inf"), 0.01], 40) == [], "what is not finite is the guard's business"
    assert _norms(watch, [0.01] * 30, 43) == [("gradient_low", 61)]
    assert _norms(watch, [1.0, *[0.001] * 30], 80) == [], "vanishing is told once: a run that has learned ends so"
    assert _norms(watch, [50.0] * 3, 120) == [("gradient_high", 122)], "told again"


def test_gradients_raised_for_good_are_told_with_the_step() -> None:
    """Incident 5: deep supervision raised the gradient flow by 40 to 100 % without a lower learning rate."""
    watch = MetricWatch()
    usual = [0.8, 1.0, 1.2, 1.1, 0.9] * 200
    assert _norms(watch, usual) == []
    (found,) = _norms(watch, [1.5 * norm for norm in usual], 1000)
    assert found == ("gradient_raised", 1099)
    assert "1.5 times the usual 1 since about step 1000" in watch.findings[0].text


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("noise", [0.002, 0.005, 0.01])
def test_healthy_noisy_runs_are_not_stopped(noise: float, mode: str) -> None:
    """With three evaluations in a row as the only rule, 10 to 43 % were."""
    runs = 100
    stops, doubts = simulated.stopped(noise, mode, runs=runs, seed=1000)
    assert max(stops, doubts) <= 0.01 * runs


def test_a_decline_within_the_noise_is_none_and_one_beyond_it_is() -> None:
    values = [0.3, 0.6, *[0.80, 0.81, 0.79, 0.805, 0.795] * 3]
    assert _feed(MetricWatch(plateau=99), [*values, 0.798, 0.796, 0.794]) == []
    assert _feed(MetricWatch(plateau=99), [*values, 0.72, 0.66, 0.60]) in ([("decline", n, 16)] for n in (18, 19))
    slow = [0.80 - 0.004 * n for n in range(1, 9)]
    assert _feed(MetricWatch(plateau=99), [*values, *slow])[0][0] == "decline", "a long row is no chance"


@pytest.mark.parametrize("values", [simulated.LOSSES, simulated.VALIDATION])
def test_the_losses_of_incident_3_are_named(values: list[float]) -> None:
    assert simulated.found(values, mode="min") == ["not_learning at 6"]


def test_fine_tuning_from_a_good_start_is_learning() -> None:
    values = [0.90, 0.907, 0.911, 0.916, 0.919, 0.922, 0.925, 0.927, 0.928]
    assert _feed(MetricWatch(), values) == []


@pytest.mark.parametrize(
    ("chance", "values", "expected"),
    [
        (0.001, [0.001, 0.001], ["chance at 2"]),
        (0.001, [0.0012, 0.02, 0.3], []),
        (0.5, [0.51, 0.49, 0.7], ["chance at 2"]),
        (0.5, [0.6, 0.62], []),
        (0.1, [0.098, 0.3, 0.1, 0.05], ["chance at 4"]),
    ],
)
def test_chance_is_named_after_two_evaluations(chance: float, values: list[float], expected: list[str]) -> None:
    assert [f for f in simulated.found(values, chance=chance) if "chance" in f] == expected


def test_a_run_at_the_top_is_no_plateau() -> None:
    assert _feed(MetricWatch(), [0.5, 0.9, *[1.0] * 12]) == []


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


def _of(watch: MetricWatch, *pairs: tuple[float, float | None]) -> list[list[str]]:
    return [
        [found.kind for found in watch.update(value, step, training)] for step, (value, training) in enumerate(pairs)
    ]


def test_validation_at_chance_is_named_after_the_first_epoch_where_training_has_learned() -> None:
    """Incident 4: an average with broken running statistics."""
    assert _of(MetricWatch("accuracy", chance=0.001), (0.001, 0.08)) == [["chance"]]
    assert _of(MetricWatch("accuracy", chance=0.001), (0.001, 0.0011), (0.06, 0.07)) == [[], []]
    assert _of(MetricWatch("accuracy", chance=0.001), (0.055, 0.08)) == [[]], "what incident 4 calls healthy"


def test_validation_far_from_training_is_named_when_it_is_so_twice() -> None:
    watch = MetricWatch("accuracy", chance=0.001)
    told = _of(
        watch, (0.3, 0.32), (0.4, 0.44), (0.5, 0.56), (0.52, 0.6), (0.53, 0.7), (0.7, 0.72), (0.7, 0.8), (0.7, 0.8)
    )
    assert told == [[], [], [], ["gap"], [], [], [], ["gap"]] and not watch.should_stop
    assert "0.08 worse than the 0.6 of training" in watch.findings[0].text
    losses = MetricWatch("loss", mode="min", gap=0.2)
    assert _of(losses, (1.0, 0.9), (0.9, 0.6), (0.85, 0.5)) == [[], [], ["gap"]]
    again = MetricWatch("accuracy")
    again.update(0.5, 0, 0.6)
    restored = MetricWatch("accuracy")
    restored.load_state_dict(again.state_dict())
    assert [found.kind for found in restored.update(0.51, 1, 0.6)] == ["gap"]
