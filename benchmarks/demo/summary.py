"""What the three runs show, in sentences."""

from __future__ import annotations

from collections import Counter
from typing import Any

Run = dict[str, Any]


def equal(undisturbed: Run, disturbed: Run) -> bool:
    """Whether two runs delivered the same batches and ended with the same weights and generators."""
    return bool(
        undisturbed["outcome"] == disturbed["outcome"] == "finished" and undisturbed["digests"] == disturbed["digests"]
    )


def sentences(undisturbed: Run, disturbed: Run, torch_disturbed: Run) -> list[str]:
    """The outcome of the demonstration, for a reader who saw nothing else."""
    return [
        _fire(undisturbed, disturbed),
        *_reports(disturbed),
        _verdict(undisturbed, disturbed),
        _torch(torch_disturbed),
    ]


def _fire(undisturbed: Run, disturbed: Run) -> str:
    kinds = Counter(strike["kind"] for strike in disturbed["struck"])
    words = {"kill": "SIGKILL", "stop": "SIGSTOP", "hang": "hanging sample"}
    what = ", ".join(f"{count} × {words[kind]}" for kind, count in kinds.items())
    longest = max((row["waited"] for row in disturbed["batches"]), default=0.0)
    end = "finished" if disturbed["outcome"] == "finished" else f"ENDED with {disturbed['outcome']}"
    return (
        f"safeloader under fire ({what}) {end}: {len(disturbed['batches'])} of {disturbed['due']} batches in "
        f"{disturbed['seconds']:.1f} s, against {undisturbed['seconds']:.1f} s of the undisturbed run; "
        f"the longest wait for a batch was {longest:.1f} s."
    )


def _reports(disturbed: Run) -> list[str]:
    """What the loaders themselves said of their faults."""
    lines = []
    for phase, report in disturbed["reports"].items():
        causes = Counter(fault["cause"] for fault in report["faults"])
        found = ", ".join(f"{count} × {cause}" for cause, count in sorted(causes.items())) or "no fault"
        lines.append(f"  {phase}: {found}; {report['restarts']} processes restarted, {report['fallbacks']} fallbacks.")
    return lines


def _verdict(undisturbed: Run, disturbed: Run) -> str:
    if equal(undisturbed, disturbed):
        digest = disturbed["digests"]["weights"][:16]
        return (
            "Every batch, the final weights and the random generators equal those of the undisturbed run, "
            f"to the byte (weights: SHA-256 {digest}...)."
        )
    for name, run in (("undisturbed", undisturbed), ("disturbed", disturbed)):
        if run["outcome"] != "finished":
            return f"NOT EQUAL: the {name} run did not finish."
    parts = [name for name, value in undisturbed["digests"].items() if disturbed["digests"].get(name) != value]
    return f"NOT EQUAL to the undisturbed run: {', '.join(parts)}."


def _torch(run: Run) -> str:
    return (
        f"torch's DataLoader under the same faults: {len(run['batches'])} of {run['due']} batches, then "
        f"{run['outcome'].splitlines()[0]}"
    )
