"""Validation against training: too far below, or at chance while training is not."""

from __future__ import annotations

__all__ = ["at_chance", "too_far"]


def at_chance(value: float, chance: float, above: float) -> bool:
    """Whether a metric is what guessing gives, or worse.

    Args:
        value: The metric.
        chance: What guessing gives.
        above: By how much the metric is better than that.
    """
    return above < 0 or abs(value - chance) <= min(0.5 * abs(chance), 0.05 * max(abs(1 - chance), 0.01))


def too_far(name: str, values: tuple[float, float], below: float, gap: float, step: int, times: int) -> str:
    """What to say of a metric that is so far below that of training; "" if that is nothing.

    Args:
        name: The metric's.
        values: The metric of validation, and of training.
        below: By how much the first is worse.
        gap: What is still well.
        step: When.
        times: How often in a row that was so, this time among them.
    """
    if below <= gap or times < 2:
        return ""
    return (
        f"{name} of validation is {values[0]:.6g} at step {step}, {below:.3g} worse than the {values[1]:.6g} of "
        f"training, the {times}. time in a row: more than {gap:g}"
    )
