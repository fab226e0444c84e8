"""What an audit found, for people and programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from safeloader.observe.format import many, printable

__all__ = ["AuditReport", "EpochFacts", "Finding"]

VERSION = 1  # of `AuditReport.to_dict`


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an audit noticed.

    Attributes:
        kind: a word for programs, for example ``"same_random_stream"``.
        level: ``"warning"``: training suffers; ``"note"``: probably meant so.
        text: what was seen.
        hint: what to do about it; "" if nothing.
    """

    kind: str
    level: Literal["warning", "note"]
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return printable(f"{self.level}: {self.text}" + (f"\n  try: {self.hint}" if self.hint else ""))


@dataclass(frozen=True, slots=True)
class EpochFacts:
    """One epoch in numbers.

    Attributes:
        samples: samples served, on all ranks that were seen.
        different: different indices among them (different contents for an iterable dataset).
        missing: indices that were not served; None for an iterable dataset.
        repeated: indices that were served more than once.
        per_worker: samples by each (rank, worker).
    """

    samples: int
    different: int
    missing: int | None
    repeated: int
    per_worker: dict[tuple[int, int], int]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of ``safeloader.audit``. ``print(report)`` is meant to be read.

    Attributes:
        name: the loader's name.
        epochs: the facts of each epoch.
        findings: what was noticed, warnings first.
    """

    name: str
    epochs: list[EpochFacts]
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if nothing was found that training suffers from."""
        return not any(finding.level == "warning" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Dicts, lists, numbers and text alone, fit for JSON."""
        epochs = [
            {**asdict(facts), "per_worker": [[*who, count] for who, count in facts.per_worker.items()]}
            for facts in self.epochs
        ]
        findings = [asdict(finding) for finding in self.findings]
        return {"v": VERSION, "name": self.name, "ok": self.ok, "epochs": epochs, "findings": findings}

    def __str__(self) -> str:
        lines = [f"audit of {self.name}: {'nothing wrong' if self.ok else 'something is wrong'}"]
        for number, facts in enumerate(self.epochs):
            missing = "" if facts.missing is None else f", {facts.missing:,} never served"
            lines.append(
                f"epoch {number}: {many(facts.samples, 'sample')}, {facts.different:,} different{missing}, "
                f"{facts.repeated:,} served more than once"
            )
            lines.append("  " + ", ".join(_by(who, count) for who, count in facts.per_worker.items()))
        return "\n".join([*lines, *map(str, self.findings)])


def _by(who: tuple[int, int], count: int) -> str:
    rank, worker = who
    return (f"rank {rank} " if rank else "") + f"worker {worker}: {count:,}"
