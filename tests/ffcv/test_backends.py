"""The ladder of ways, and what ranks compare: pure decisions."""

from __future__ import annotations

import pytest

from safeloader.ffcv.backends import Step, steps


def test_the_whole_ladder() -> None:
    assert steps("trainer", 4, "inline", on_cpu=True) == (
        Step("trainer", 4), Step("process", 4), Step("process", 2), Step("process", 1), Step("plain", 4)
    )  # fmt: skip


def test_a_process_first() -> None:
    assert steps("auto", 2, "inline", on_cpu=True) == (Step("process", 2), Step("process", 1), Step("plain", 2))


def test_what_needs_an_accelerator_stays_in_the_trainer() -> None:
    assert steps("auto", 4, "inline", on_cpu=False) == (Step("trainer", 4), Step("trainer", 2), Step("trainer", 1))


@pytest.mark.parametrize("mode", ["trainer", "process"])
def test_policy_ends_the_ladder(mode: str) -> None:
    assert steps(mode, 4, "off", on_cpu=True) == (Step(mode, 4),)
    assert all(step.kind != "plain" for step in steps(mode, 4, "process", on_cpu=True))


def test_a_step_in_words() -> None:
    assert str(Step("process", 1)) == "FFCV in a process with 1 worker"
    assert str(Step("plain", 2)) == "a plain DataLoader with 2 workers"
