"""Watching the numbers that say whether a run learns."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

from safeloader import codes
from safeloader.training.gap import at_chance, too_far
from safeloader.training.gradients import GradientWatch
from safeloader.training.noise import enough, fall_that_counts, noise_of

__all__ = ["Finding", "MetricWatch"]

_FIRST = 6  # evaluations until a run should have moved
_LEAST_MOVE = 0.05  # of the first value
_VALUES = 60
_FEW = 4
_FACTOR = 6.0  # deviations that a collapse is

_LOOKS_LIKE = {
    "not_finite": "weights that went on training with NaN in them, or an averaged model with broken batch-norm "
    "statistics: look with FiniteGuard, and go on from store.latest_good()",
    "decline": "a run that declines before it collapses: stop it, go back to the best checkpoint, and lower the "
    "learning rate by 20 to 30 %",
    "collapse": "a run that collapsed: waiting does not mend it. Go back to the best checkpoint",
    "plateau": "a run that has learned what it can at this rate; or one that does not learn: a learning rate that is "
    "far off, or a setting that never reached the trainer",
    "not_learning": "a run that does not learn: a learning rate that is far off, a setting that never reached the "
    "trainer, or the same samples served again and again",
    "chance": "a model that only guesses: weights that were not loaded, an averaged model with broken batch-norm "
    "statistics, labels in another order, or a learning rate that is far too high",
    "gap": "validation that prepares its samples in another way, an averaged model with broken batch-norm "
    "statistics, or overfitting",
    "gradient_raised": "another loss that was added without lowering the learning rate: lower it by 20 to 30 %",
    "gradient_high": "gradients that grow: a learning rate that is too high, or another loss added without lowering it",
    "gradient_low": "gradients that vanish: a clip norm that is too low, a frozen part, or a loss that is cut off",
}


@dataclass(frozen=True)
class Finding:
    """Something that a person should know of.

    Attributes:
        kind: ``"not_finite"``, ``"decline"``, ``"collapse"``, ``"plateau"``, ``"not_learning"``, ``"chance"``,
            ``"gap"``, ``"gradient_high"``, ``"gradient_low"``, ``"gradient_raised"``.
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

    How much of a change is noise is learned from the run itself: a fall within it is no decline. Each trouble is told
    once, to the log and to the caller, and again only after it was over. A watch has a
    ``state_dict()``, so it can be saved and resumed with the run.

    Args:
        name: What it is called.
        mode: ``"max"`` if more is better, ``"min"`` if less is.
        decline: So many evaluations in a row, each worse than the one before and together more than noise, are a
            decline.
        collapse: The share of the best value, and of all progress since the first value, that must be lost at once or
            over time to be a collapse.
        plateau: So many evaluations without a new best are a plateau.
        least_change: A smaller difference (in the metric's unit) counts as none.
        gradient_range: (low, high) for the gradient norm. Without it, the range is learned.
        gradient_factor: Without a range, norms so many times above or below the median of the last 200 are told, after
            the first 20: 3 in a row above, 20 in a row below.
        chance: What guessing gives (0.001 for 1,000 classes); two evaluations there are told, and the first where
            training is known not to be there.
        gap: By how much validation may be worse than training, in the metric's unit, where training's is given; more,
            twice in a row, is told.

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
        chance: float | None = None,
        gap: float = 0.05,
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
        self.chance = chance
        self.gap = gap
        self._gradients = GradientWatch(gradient_range, gradient_factor)
        self.best = self.best_step = None
        self.findings: list[Finding] = []
        self.should_stop: bool = False
        self._first: float | None = None
        self._last: float | None = None
        self._worse: list[int] = []  # the steps of the evaluations in a row that were worse than the one before
        self._without_best = 0
        self._open: dict[str, int] = {}  # troubles that were told and are not over: since when
        self._values: list[float] = []
        self._falling: list[float] = []
        self._count = self._guesses = self._low = self._apart = 0

    # ------------------------------------------------------------ the metric

    def update(self, value: float, step: int, training: float | None = None) -> list[Finding]:
        """One more evaluation.

        Args:
            value: The metric; a tensor of one element will do.
            step: When; the program's count of epochs or steps.
            training: The same metric of the training samples since the last evaluation, if it is known.

        Returns:
            What is new.
        """
        value, step = float(value), int(step)
        training = None if training is None else float(training)
        if not math.isfinite(value):
            self.should_stop = True
            return self._tell("not_finite", step, step, f"{self.name} is {value} at step {step}")
        self._over("not_finite")
        before = self._last
        self._compare(value, step)
        found = self._check_decline(value, step) + self._check_collapse(value, step)
        found += self._check_chance(value, step, training) + self._check_gap(value, step, training)
        found += self._check_learning(step) + self._check_plateau(step)
        self._last = value
        if before is None or not self._worse:  # what a decline is judged by is what came before it
            self._values = [*self._values, *self._falling, value][-_VALUES:]
            self._falling = []
        else:
            self._falling.append(value)
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
        fall = self._better(self._values[-1], value)
        if fall < fall_that_counts(len(self._worse), self._noise()):
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
            self._low = 0
            return []
        self._low += 1
        if self._low < 2 and lost < self._sure_loss():
            return []
        self.should_stop = True
        text = f"{self.name} collapsed: {value:.6g} at step {step}, best {self.best:.6g} at step {self.best_step}"
        return self._tell("collapse", step, step, text)

    def _sure_loss(self) -> float:
        """A loss that cannot be noise; infinite where too little is known, so that the next value must confirm it."""
        values = self._values
        if enough(values):
            return _FACTOR * self._noise()
        falls = [self._better(a, b) for a, b in pairwise(values)]
        return 4 * max(0.0, *falls) if len(values) >= _FEW else math.inf

    def _noise(self) -> float:
        values = self._values
        floor = 0.002 * (max(values) - min(values)) if values else 0.0
        return noise_of(values, max(self.least_change, floor))

    def _check_chance(self, value: float, step: int, training: float | None) -> list[Finding]:
        if self.chance is None:
            return []
        near = at_chance(value, self.chance, self._better(value, self.chance))
        self._guesses = self._guesses + 1 if near else 0
        if not near:
            self._over("chance")
        learned = training is not None and not at_chance(training, self.chance, self._better(training, self.chance))
        if self._guesses < (1 if learned else 2):
            return []
        apart = f", and {training:.6g} in training" if learned else ""
        return self._tell(
            "chance", step, step, f"{self.name} stands at chance ({self.chance:g}): {value:.6g} at step {step}{apart}"
        )

    def _check_gap(self, value: float, step: int, training: float | None) -> list[Finding]:
        if training is None or not math.isfinite(training):
            return []
        below = self._better(training, value)
        self._apart = self._apart + 1 if below > self.gap else 0
        text = too_far(self.name, (value, training), below, self.gap, step, self._apart)
        if not self._apart:
            self._over("gap")
        return self._tell("gap", step, step, text) if text else []

    def _check_learning(self, step: int) -> list[Finding]:
        """Whether a run has moved at all: looked at once it has had time to, until it has."""
        self._count += 1
        if self.best is None or self._first is None:
            return []
        moved = self._better(self.best, self._first)
        enough_moved = moved >= _LEAST_MOVE * abs(self._first)
        if self.mode == "max":  # from 0.90 to 0.93 is learning, if it is more than noise
            enough_moved = enough_moved or moved > 4 * self._noise()
        if self._count < _FIRST or enough_moved:
            self._over("not_learning")
            return []
        text = (
            f"{self.name} has hardly moved in {self._count} evaluations: {self._first:.6g} at first, "
            f"best {self.best:.6g} at step {self.best_step}"
        )
        return self._tell("not_learning", step, step, text) if self._count <= _FIRST + 2 else []

    def _check_plateau(self, step: int) -> list[Finding]:
        told_already = "decline" in self._open or "collapse" in self._open  # both say more
        if self._without_best < self.plateau or self.best_step is None or told_already or self._at_its_bound():
            return []
        text = (
            f"{self.name} has not become better for {self._without_best} evaluations, since step {self.best_step} "
            f"(best {self.best:.6g})"
        )
        return self._tell("plateau", step, self.best_step, text)

    def _at_its_bound(self) -> bool:
        """Nothing is better than all right, or no loss."""
        return self.best is not None and (self.best >= 0.999 if self.mode == "max" else abs(self.best) < 1e-3)

    # ------------------------------------------------------------ the gradient norm

    def gradient_norm(self, norm: float, step: int) -> list[Finding]:
        """The norm of one step's gradients, such as ``guard.gradient_norm``. One that is not finite is the guard's.

        Returns:
            What is new.
        """
        norm, step = float(norm), int(step)
        if not math.isfinite(norm):
            return []
        kind, since, text = self._gradients.look(norm, step)
        self._over(*({"gradient_high", "gradient_low", "gradient_raised"} - {kind}))
        return self._tell(kind, step, since, text) if kind else []

    # ------------------------------------------------------------ telling

    def _tell(self, kind: str, step: int, since: int, text: str) -> list[Finding]:
        if kind in self._open:
            return []
        self._open[kind] = since
        finding = Finding(kind, step, since, text, _LOOKS_LIKE[kind])
        self.findings.append(finding)
        codes.log_warning("SL149", "%s", finding)
        return [finding]

    def _over(self, *kinds: str) -> None:
        for kind in kinds:
            self._open.pop(kind, None)

    # ------------------------------------------------------------ state

    _KEPT = (
        "best", "best_step", "should_stop", "_first", "_last", "_worse", "_without_best", "_open", "_values",
        "_falling", "_count", "_guesses", "_low", "_apart",
    )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """All that was seen, as plain values. The arguments are not part of it."""
        state: dict[str, Any] = {name.lstrip("_"): getattr(self, name) for name in self._KEPT}
        state["worse"], state["open"] = list(self._worse), dict(self._open)
        state["values"], state["falling"] = list(self._values), list(self._falling)
        state["gradients"] = self._gradients.state_dict()
        state["findings"] = [asdict(finding) for finding in self.findings]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Args:
            state: what ``state_dict()`` gave.
        """
        for name in self._KEPT:
            setattr(self, name, state.get(name.lstrip("_"), getattr(self, name)))
        self._worse, self._open = list(state["worse"]), dict(state["open"])
        self._values, self._falling = list(self._values), list(self._falling)
        if "gradients" in state:
            self._gradients.load_state_dict(state["gradients"])
        self.findings = [Finding(**finding) for finding in state["findings"]]
