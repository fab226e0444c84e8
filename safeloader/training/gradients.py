"""Watching the gradient norm: out of its range for a while, or raised for good from one step on."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

__all__ = ["GradientWatch"]

_ENOUGH = 20  # norms until the usual one is known
_LATEST = 200
_IN_A_ROW = 20  # steps that a norm stays low, or several of which it is high, before it is told
_BLOCK, _BLOCKS = 100, 5
_RAISED = 1.25


class GradientWatch:
    """Says in which way a step's norm is out of the ordinary.

    Args:
        limits: (low, high); each norm outside is told. Without, the range is learned.
        factor: Without limits: so many times above or below the median of the last 200.
    """

    def __init__(self, limits: tuple[float, float] | None, factor: float) -> None:
        self.limits, self.factor = limits, factor
        self._norms: deque[float] = deque(maxlen=_LATEST)
        self._blocks: deque[float] = deque(maxlen=_BLOCKS)
        self._block: list[float] = []
        self._out: list[int] = []  # the steps in a row that were outside on one side
        self._side = ""
        self._told_low = False

    def look(self, norm: float, step: int) -> tuple[str, int, str]:
        """(kind, since which step, text) of what is wrong; an empty kind if nothing is."""
        raised = self._raised(norm, step)
        usual = median(self._norms) if self._norms else 0.0
        low, high = self._range(usual)
        side = "gradient_high" if norm > high else "gradient_low" if norm < low else ""
        if side != self._side:
            self._side, self._out = side, []
        if not side:
            self._norms.append(norm)
            return raised
        self._out.append(step)
        if self.limits is None:
            low_side = side == "gradient_low"
            if len(self._out) < (_IN_A_ROW if low_side else 3) or (low_side and self._told_low):
                return raised
            if len(self._out) >= _IN_A_ROW:
                self._norms.append(norm)  # the usual is what lasts
            self._told_low = self._told_low or low_side
        word, limit = ("above", high) if norm > high else ("below", low)
        known = "" if self.limits is not None or not self._norms else f" (the usual is {usual:.3g})"
        return side, self._out[0], f"the gradient norm is {norm:.3g} at step {step}, {word} {limit:.3g}{known}"

    def _range(self, usual: float) -> tuple[float, float]:
        if self.limits is not None:
            return self.limits
        if len(self._norms) < _ENOUGH:
            return 0.0, math.inf
        return usual / self.factor, usual * self.factor

    def _raised(self, norm: float, step: int) -> tuple[str, int, str]:
        """Whether the last block of steps stands above all those before it, which were alike."""
        self._block.append(norm)
        if len(self._block) < _BLOCK:
            return "", step, ""
        now, before = median(self._block), list(self._blocks)
        self._block = []
        self._blocks.append(now)
        if self.limits is not None or len(before) < _BLOCKS or min(before) <= 0:
            return "", step, ""
        usual = median(before)
        spread = median(abs(math.log(one / usual)) for one in before)
        if now <= 0 or math.log(now / usual) < max(math.log(_RAISED), 4.5 * spread) or now <= max(before) * 1.15:
            return "", step, ""
        self._blocks.clear()
        since = step - _BLOCK + 1
        text = f"the gradient norm has been {now / usual:.2g} times the usual {usual:.3g} since about step {since}"
        return "gradient_raised", since, text

    _KEPT = ("_norms", "_blocks", "_block", "_out", "_side", "_told_low")

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = {name.lstrip("_"): getattr(self, name) for name in self._KEPT}
        return {name: list(v) if isinstance(v, (deque, list)) else v for name, v in values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._norms = deque(state["norms"], maxlen=_LATEST)
        self._blocks = deque(state["blocks"], maxlen=_BLOCKS)
        self._block, self._out = list(state["block"]), list(state["out"])
        self._side, self._told_low = state["side"], state["told_low"]
