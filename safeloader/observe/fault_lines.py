"""The line about a fault: who, how, in which sample; what is done, and what becomes of the batch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from safeloader.observe.format import duration, inline, many, samples, stack_place

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeloader.observe import events as h

__all__ = ["fault_line", "is_long", "what_is_done"]

_CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")
_ACTIONS = {
    "restarted": "a new process takes over",
    "handed over": "a process that stands ready takes over",
    "restored": "its sleeping copy takes over with all that the dataset had changed in itself",
    "standby": "it was a standby and hosted no worker",
    "abandoned": "it cannot be killed and is left behind with its memory, a new process takes over",
    "moved to a process": "it is interrupted, and a process of its own takes over",
    "raised": "the error is raised at this batch's turn",
    "none": "no process takes its place, since the loader ends",
}
_VERDICTS = {
    "again": "{action} and loads this batch again",
    "searched": "{action} and loads parts of this batch, to find the sample that does it",
    "skipped": "{action}; the sample is left out of its batch",
    "raised": "this batch is not tried again, and BadSampleError is raised at its turn",
    "ended": "the loader ends with an error",
}
_LESS_MEMORY = "fewer workers, smaller batches or a smaller prefetch_factor need less memory"


def who(fault: h.Fault) -> str:
    """Whom a fault hit: ``worker 1 (pid 4711)``, ``process 4711``."""
    if fault.worker is None:
        return "a process" if fault.process is None else f"process {fault.process}"
    if fault.process is None:
        return f"worker {fault.worker}"
    if fault.process == os.getpid():
        return f"worker {fault.worker} (in the main process)"
    return f"worker {fault.worker} (pid {fault.process})"


def fault_line(fault: h.Fault) -> str:
    """What happened to whom, and what is done about it."""
    what = _FAULTS.get(fault.cause, _other)(fault)
    done = what_is_done(fault)
    hint = f"; {_LESS_MEMORY}" if fault.cause == "oom" else ""
    return what + (f"; {done}" if done else "") + hint


def what_is_done(fault: h.Fault) -> str:
    """What is done about a fault, and what becomes of its batch; "" where that is not known."""
    action = _ACTIONS.get(fault.action) or _other_action(fault)
    done = _VERDICTS.get(fault.verdict, "{action}").format(action=action)
    return done if fault.verdict in ("raised", "ended") else done + _loaded_again(fault)


def _other_action(fault: h.Fault) -> str:
    if fault.action.startswith("fell back"):
        return f"the loader {inline(fault.action).replace('fell', 'falls', 1)}"
    if fault.action.startswith("skipped"):
        return f"{inline(fault.action)}; loader.report() lists it"
    return inline(fault.action)


def _loaded_again(fault: h.Fault) -> str:
    """How many delivered batches are compared; a further line says what came of it (`_replayed`)."""
    if not fault.again:
        return ""
    return f", {many(fault.again, 'delivered batch')} {'is' if fault.again == 1 else 'are'} loaded again and compared"


def _batch(fault: h.Fault) -> str:
    epoch = "" if fault.epoch is None else f" of epoch {fault.epoch}"
    if fault.sample is not None:
        named = f" ({samples([fault.sample])})"
    else:
        named = f" ({samples(fault.indices)})" if fault.indices else ""
    return f"batch {fault.batch}{epoch}{named}"


def _while(fault: h.Fault) -> str:
    return "while no batch was in work" if fault.batch is None else f"while loading {_batch(fault)}"


def _again(fault: h.Fault) -> str:
    return f", attempt {fault.attempts}" if fault.attempts > 1 else ""


def _died(fault: h.Fault) -> str:
    detail = inline(fault.detail)
    if detail in _CRASHES:
        how = f"crashed with {detail}"
    elif detail.startswith("SIG"):
        how = f"was killed by {detail}"
    elif detail.startswith("exit code"):
        how = f"ended with {detail}"
    else:
        how = "died" + (f" ({detail})" if detail else "")
    place = stack_place(fault.stack)
    return f"{who(fault)} {how} {_while(fault)}{_again(fault)}" + (f", at {place}" if place else "")


def _oom(fault: h.Fault) -> str:
    detail = f" ({inline(fault.detail)})" if fault.detail else ""
    return f"{who(fault)} was killed because memory is short{detail} {_while(fault)}{_again(fault)}"


def is_long(seconds: float | None) -> bool:
    """Whether a silence is worth words: a process that is found stopped at once was not silent for 0.0 s."""
    return seconds is not None and seconds >= 1.0


def _hung(fault: h.Fault) -> str:
    silence = "in time" if fault.stalled is None else f"for {duration(fault.stalled)}"
    place = stack_place(fault.stack)
    stuck = f", stuck at {place}" if place else ""
    return f"{who(fault)} hung {_while(fault)}{_again(fault)}: no sample finished {silence}{stuck}"


def _stopped(fault: h.Fault) -> str:
    since = f" and silent for {duration(fault.stalled or 0.0)}" if is_long(fault.stalled) else ""
    return f"{who(fault)} was found stopped (SIGSTOP or a debugger){since} {_while(fault)}{_again(fault)}"


def _failed_start(fault: h.Fault) -> str:
    silence = "" if fault.stalled is None else f"not ready after {duration(fault.stalled)}"
    last = (fault.stack or "").strip().rpartition("\n")[2] if "Traceback" in (fault.stack or "") else ""
    why = silence or ": ".join(filter(None, (inline(fault.detail), inline(last))))
    return f"{who(fault)} did not start" + (f": {why}" if why else "") + _again(fault)


def _raised(fault: h.Fault) -> str:
    return f"{who(fault)} raised {inline(fault.detail) or 'an error'} {_while(fault)}"


def _unpicklable(fault: h.Fault) -> str:
    why = f": {inline(fault.detail)}" if fault.detail else ""
    what = "something" if fault.batch is None else _batch(fault)
    return f"{who(fault)} loaded {what}, which cannot be sent to the main process{why}"


def _bad_sample(fault: h.Fault) -> str:
    bad = [fault.sample] if fault.sample is not None else fault.indices or []
    what = samples(bad) if bad else "a sample"
    batch = "" if fault.batch is None else f" of batch {fault.batch}"
    epoch = "" if fault.epoch is None else f" of epoch {fault.epoch}"
    last = f", the last time with {inline(fault.detail)}" if fault.detail else ""
    return f"{what}{batch}{epoch} is bad: it failed {many(fault.attempts, 'time')}{last}"


def _other(fault: h.Fault) -> str:
    detail = f" ({inline(fault.detail)})" if fault.detail else ""
    return f"{who(fault)}: {fault.cause}{detail} {_while(fault)}{_again(fault)}"


_FAULTS: dict[str, Callable[[h.Fault], str]] = {
    "died": _died,
    "oom": _oom,
    "hung": _hung,
    "stopped": _stopped,
    "failed_start": _failed_start,
    "raised": _raised,
    "unpicklable": _unpicklable,
    "bad_sample": _bad_sample,
}
