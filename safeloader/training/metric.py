"""Watching the numbers that say whether a run learns."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from ..observe.log import logger

__all__ = ["Finding", "MetricWatch"]

_ENOUGH_NORMS = 20  # until the usual gradient norm is known
_NORMS = 200

_LOOKS_LIKE = {
    "not_finite": "weights that went on training with NaN in them, or an averaged model with broken batch-norm "
    "statistics: look with FiniteGuard, and go on from store.latest_good()",
    "decline": "a run that declines before it collapses: stop it, go back to the best checkpoint, and lower the "
    "learning rate by 20 to 30 %",
    "collapse": "a run that collapsed: waiting does not mend it. Go back to the best checkpoint",
    "plateau": "a run that does not learn: a learning rate that is far off, a setting that never reached the trainer, "
    "or the same samples served again and again",
    "gradient_high": "gradients that grow: a learning rate that is too high, or another loss added without lowering it",
    "gradient_low": "gradients that vanish: a clip norm that is too low, a frozen part, or a loss that is cut off",
}


@dataclass(frozen=True)
class Finding:
    """Something that a person should know of.

    Attributes:
        kind: ``"not_finite"``, ``"decline"``, ``"collapse"``, ``"plateau"``, ``"gradient_high"``, ``"gradient_low"``.
        step: When it was found.
        since: Since which step it has been so.
        text: What, in one line.
        looks_like: Which known trouble it looks like, and what to do.
    """

    kind: str
    step: int
    since: int
    text: str
    looks_like: str

    def __str__(self) -> str:
        return f"{self.text}. It looks like {self.looks_like}"


class MetricWatch:
    """Watches one metric over the evaluations of a run, and the gradient norm over its steps.

    Each trouble is told once, to the log and to the caller, and again only after it was over. A watch has a
    ``state_dict()``, so it can be saved and resumed with the run.

    Args:
        name: What it is called.
        mode: ``"max"`` if more is better, ``"min"`` if less is.
        decline: So many evaluations in a row, each worse than the one before, are a decline.
        collapse: The share of the best value, and of all progress since the first value, that must be lost at once or
            over time to be a collapse.
        plateau: So many evaluations without a new best are a plateau.
        least_change: A smaller difference (in the metric's unit) counts as none.
        gradient_range: (low, high) for the gradient norm. Without it, the range is learned.
        gradient_factor: Without a range, a norm so many times above or below the median of the last 200 is told,
            after the first 20.

    Attributes:
        best: The best value so far, or None.
        best_step: Its step.
        findings: All that was found.
        should_stop: True after a decline, a collapse or a metric that is not finite, until a new best.
    """

    best: float | None
    best_step: int | None

    def __init__(
        self,
        name: str = "metric",
        *,
        mode: Literal["max", "min"] = "max",
        decline: int = 3,
        collapse: float = 0.5,
        plateau: int = 8,
        least_change: float = 0.0,
        gradient_range: tuple[float, float] | None = None,
        gradient_factor: float = 10.0,
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f'mode={mode!r}: it is "max" or "min"')
        if decline < 1 or plateau < 1 or not 0 < collapse <= 1 or least_change < 0 or gradient_factor <= 1:
            raise ValueError(
                "decline and plateau are at least 1, collapse is above 0 and at most 1, least_change is not negative, "
                "gradient_factor is above 1"
            )
        self.name = name
        self.mode = mode
        self.decline = decline
        self.collapse = collapse
        self.plateau = plateau
        self.least_change = least_change
        self.gradient_range = gradient_range
        self.gradient_factor = gradient_factor
        self.best = self.best_step = None
        self.findings: list[Finding] = []
        self.should_stop = False
        self._first: float | None = None
        self._last: float | None = None
        self._worse: list[int] = []  # the steps of the evaluations in a row that were worse than the one before
        self._without_best = 0
        self._open: dict[str, int] = {}  # troubles that were told and are not over: since when
        self._norms: deque[float] = deque(maxlen=_NORMS)

    # ------------------------------------------------------------ the metric

    def update(self, value: float, step: int) -> list[Finding]:
        """One more evaluation.

        Args:
            value: The metric; a tensor of one element will do.
            step: When; the program's count of epochs or steps.

        Returns:
            What is new.
        """
        value, step = float(value), int(step)
        if not math.isfinite(value):
            self.should_stop = True
            return self._tell("not_finite", step, step, f"{self.name} is {value} at step {step}")
        self._over("not_finite")
        self._compare(value, step)
        found = self._check_decline(value, step) + self._check_collapse(value, step) + self._check_plateau(step)
        self._last = value
        return found

    def _better(self, value: float, than: float) -> float:
        """By how much a value is better; negative if it is worse."""
        return value - than if self.mode == "max" else than - value

    def _compare(self, value: float, step: int) -> None:
        if self._first is None:
            self._first = value
        if self._last is not None and self._better(value, self._last) < -self.least_change:
            self._worse.append(step)
        else:
            self._worse.clear()
            self._over("decline")
        if self.best is None or self._better(value, self.best) > self.least_change:
            self.best, self.best_step, self._without_best = value, step, 0
            self.should_stop = False
            self._over("plateau", "collapse")
        else:
            self._without_best += 1

    def _check_decline(self, value: float, step: int) -> list[Finding]:
        if len(self._worse) < self.decline:
            return []
        self.should_stop = True
        text = (
            f"{self.name} has become worse {len(self._worse)} times in a row, since step {self._worse[0]}: "
            f"{value:.6g} now, best {self.best:.6g} at step {self.best_step}"
        )
        return self._tell("decline", step, self._worse[0], text)

    def _check_collapse(self, value: float, step: int) -> list[Finding]:
        if self.best is None or self._first is None or self._better(self.best, value) <= self.least_change:
            return []
        lost = self._better(self.best, value)
        progress = self._better(self.best, self._first)
        if lost <= self.collapse * abs(self.best) or (progress > 0 and lost <= self.collapse * progress):
            self._over("collapse")
            return []
        self.should_stop = True
        text = f"{self.name} collapsed: {value:.6g} at step {step}, best {self.best:.6g} at step {self.best_step}"
        return self._tell("collapse", step, step, text)

    def _check_plateau(self, step: int) -> list[Finding]:
        told_already = "decline" in self._open or "collapse" in self._open  # both say more
        if self._without_best < self.plateau or self.best_step is None or told_already:
            return []
        text = (
            f"{self.name} has not become better for {self._without_best} evaluations, since step {self.best_step} "
            f"(best {self.best:.6g})"
        )
        return self._tell("plateau", step, self.best_step, text)

    # ------------------------------------------------------------ the gradient norm

    def gradient_norm(self, norm: float, step: int) -> list[Finding]:
        """The norm of one step's gradients, such as ``guard.gradient_norm``. One that is not finite is the guard's.

        Returns:
            What is new.
        """
        norm, step = float(norm), int(step)
        if not math.isfinite(norm):
            return []
        low, high = self._gradient_limits()
        usual = "" if self.gradient_range else f" (the usual is {median(self._norms):.3g})" if self._norms else ""
        if not low <= norm <= high:
            kind, word = ("gradient_high", "above") if norm > high else ("gradient_low", "below")
            limit = high if norm > high else low
            self._over("gradient_low" if norm > high else "gradient_high")
            text = f"the gradient norm is {norm:.3g} at step {step}, {word} {limit:.3g}{usual}"
            return self._tell(kind, step, step, text)
        self._over("gradient_high", "gradient_low")
        self._norms.append(norm)
        return []

    def _gradient_limits(self) -> tuple[float, float]:
        if self.gradient_range is not None:
            return self.gradient_range
        if len(self._norms) < _ENOUGH_NORMS:
            return 0.0, math.inf
        usual = median(self._norms)
        return usual / self.gradient_factor, usual * self.gradient_factor

    # ------------------------------------------------------------ telling

    def _tell(self, kind: str, step: int, since: int, text: str) -> list[Finding]:
        if kind in self._open:
            return []
        self._open[kind] = since
        finding = Finding(kind, step, since, text, _LOOKS_LIKE[kind])
        self.findings.append(finding)
        logger.warning("%s", finding)
        return [finding]

    def _over(self, *kinds: str) -> None:
        for kind in kinds:
            self._open.pop(kind, None)

    # ------------------------------------------------------------ state

    _KEPT = ("best", "best_step", "should_stop", "_first", "_last", "_worse", "_without_best", "_open")

    def state_dict(self) -> dict[str, Any]:
        """All that was seen, as plain values. The arguments are not part of it."""
        state: dict[str, Any] = {name.lstrip("_"): getattr(self, name) for name in self._KEPT}
        state["worse"], state["open"] = list(self._worse), dict(self._open)
        state["norms"] = list(self._norms)
        state["findings"] = [asdict(finding) for finding in self.findings]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        for name in self._KEPT:
            setattr(self, name, state[name.lstrip("_")])
        self._worse, self._open = list(state["worse"]), dict(state["open"])
        self._norms = deque(state["norms"], maxlen=_NORMS)
        self.findings = [Finding(**finding) for finding in state["findings"]]
