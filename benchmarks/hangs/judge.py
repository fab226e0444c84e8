"""From facts to a record: what came of one run. Nothing here reads a clock, a file or a process."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.hangs.facts import Fact
    from benchmarks.hangs.scenario import Scenario

STARTS = 3
"""A recovery may take so many times as long as torch's workers take to start: the load is not ours to judge."""


@dataclass(slots=True)
class Ending:
    """How the program under test ended, as the harness saw it.

    Attributes:
        code: Exit code, negative for a signal, None if it had to be killed.
        time: Seconds of the monotonic clock, when it ended or was given up.
        left: Processes of the run that lived on after it; None if it had to be killed.
        last_left: When the last of its processes had ended, None if one lived on.
        stderr: The last lines that it and its processes wrote.
    """

    code: int | None
    time: float
    left: int | None = None
    last_left: float | None = None
    stderr: str = ""


@dataclass(slots=True)
class Record:
    """What came of one scenario under one loader; see `Scenario` and `OUTCOMES` for the words.

    Attributes:
        next_batch: Seconds from the fault to the next batch that was delivered.
        longest_wait: Seconds of the longest wait for a batch that ended after the fault.
        told_after: Seconds from the fault to the error.
        seconds: Seconds that the whole program took.
        as_expected: None where nothing is expected of this loader; else whether it did what safeloader owes.
    """

    scenario: str
    row: str
    title: str
    loader: str
    outcome: str
    reason: str = ""
    delivered: int = 0
    due: int = 0
    equal: bool | None = None
    next_batch: float | None = None
    longest_wait: float | None = None
    told_after: float | None = None
    error_type: str = ""
    error: str = ""
    error_text: str = ""
    left: int | None = None
    seconds: float = 0.0
    as_expected: bool | None = None
    complaint: str = ""
    report: str = ""
    stderr: str = ""
    digests: list[str] = field(default_factory=list, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


def judge(
    name: str,
    scenario: Scenario,
    loader: str,
    facts: Sequence[Fact],
    ending: Ending,
    reference: Sequence[str] | None,
) -> Record:
    """The record of one run.

    Args:
        name: The scenario's name.
        scenario: The scenario.
        loader: The adapter's name.
        facts: All that the run has noted.
        ending: How it ended.
        reference: The digests of an undisturbed run, None where there is none.
    """
    record = Record(name, scenario.row, scenario.title, loader, "hang", due=scenario.batches, left=ending.left)
    record.stderr, record.seconds = ending.stderr, ending.time - facts[0].time if facts else 0.0
    started = next((fact for fact in facts if fact.kind == "start"), None)
    ours = [fact for fact in facts if started and fact.pid == started.pid]
    batches = [fact for fact in ours if fact.kind == "batch"]
    record.delivered, record.digests = len(batches), [fact.details["digest"] for fact in batches]
    if reference is not None and batches:
        record.equal = record.digests == list(reference)[: len(batches)]
    record.report = "\n".join(fact.details["text"] for fact in ours if fact.kind == "report")
    _waits(record, facts, [fact for fact in ours if fact.kind in ("batch", "resumed")])
    _error(record, facts, ours, ending)
    _outcome(record, scenario, ours, ending)
    if scenario.dead_trainer and ending.last_left is not None:
        fault = next((fact.time for fact in facts if fact.kind == "fault"), ending.time)
        record.longest_wait = max(0.0, ending.last_left - fault)
    return record


def start_seconds(facts: Sequence[Fact]) -> float:
    """Seconds from the program's start to its first batch, 0 where there is none."""
    start = next((fact.time for fact in facts if fact.kind == "start"), 0.0)
    return next((fact.time - start for fact in facts if fact.kind == "batch"), 0.0)


def _waits(record: Record, facts: Sequence[Fact], batches: Sequence[Fact]) -> None:
    fault = next((fact.time for fact in facts if fact.kind == "fault"), None)
    if fault is None:
        return
    after = [batch.time for batch in batches if batch.time >= fault]
    before = max((batch.time for batch in batches if batch.time < fault), default=fault)
    if after:
        record.next_batch = after[0] - fault
        starts = [max(before, fault), *after[:-1]]
        record.longest_wait = max(end - start for start, end in zip(starts, after, strict=True))


def _error(record: Record, facts: Sequence[Fact], ours: Sequence[Fact], ending: Ending) -> None:
    error = next((fact for fact in ours if fact.kind in ("error", "caught")), None)
    if error is not None:
        record.error_type, record.error_text = error.details["type"], error.details["message"]
        record.error = next((line.strip() for line in record.error_text.splitlines() if line.strip()), "")
        fault = next((fact.time for fact in facts if fact.kind == "fault"), None)
        if fault is not None:
            record.told_after = max(0.0, error.time - fault)
    elif ending.code not in (0, None):
        record.error_type, record.error = "exit", f"the program ended with exit code {ending.code}"


def _outcome(record: Record, scenario: Scenario, ours: Sequence[Fact], ending: Ending) -> None:
    kinds = {fact.kind for fact in ours}
    if "skip" in kinds:
        record.outcome = "skipped"
        record.reason = next(fact.details["reason"] for fact in ours if fact.kind == "skip")
    elif ending.code is None:
        record.outcome, record.reason = "hang", _where_it_hung(record, kinds)
    elif scenario.dead_trainer:
        died = ending.code in (-9, 137)
        record.outcome = ("orphans" if ending.left else "finished") if died else "error"
        record.error_type, record.error = ("", "") if died else (record.error_type, record.error)
    elif "end" not in kinds or "error" in kinds or ending.code != 0:
        record.outcome = "error"
        record.reason = "" if record.delivered else "before any batch"
    elif record.delivered < record.due:
        record.outcome = "truncated"
    elif record.equal is False or record.delivered > record.due:
        record.outcome = "wrong"
    else:
        record.outcome = "finished"


def _where_it_hung(record: Record, kinds: set[str]) -> str:
    if "end" in kinds:
        return "at exit"
    if "error" in kinds:
        return "after the error"
    return "after the last batch" if 0 < record.due <= record.delivered else ""


def expect(record: Record, scenario: Scenario, start: float) -> None:
    """Say in the record whether the loader did what safeloader owes in this scenario.

    Args:
        record: What came of it; its ``as_expected`` and ``complaint`` are set, unless it was skipped.
        scenario: The scenario.
        start: Seconds that torch's workers take to start on this machine under its present load; recovery may take
            `STARTS` times as long, on top of what the scenario allows.
    """
    if record.outcome == "skipped":
        return
    complaints = []
    if record.outcome not in scenario.expect:
        complaints.append(f"{record.outcome} instead of {' or '.join(scenario.expect)}")
    if record.equal is False:
        complaints.append("bytes differ from the reference")
    if record.left:
        complaints.append(f"{record.left} processes left behind")
    if record.outcome == "error" and scenario.says and not re.search(scenario.says, record.error_text, re.S):
        complaints.append(f"the error does not say {scenario.says!r}")
    waited = max(record.longest_wait or 0.0, record.told_after or 0.0)
    if scenario.longest is not None and waited > scenario.longest + STARTS * start:
        complaints.append(f"waited {waited:.1f} s, at most {scenario.longest + STARTS * start:.1f} s is owed")
    record.as_expected, record.complaint = not complaints, "; ".join(complaints)
