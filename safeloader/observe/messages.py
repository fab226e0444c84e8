"""The one line in which each happening is told to people: what, where, and what is done about it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from safeloader.observe import events as h
from safeloader.observe.format import duration, inline, many, samples, stack_place

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["line_for", "replay_in_words"]

_CRASHES = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")
_ACTIONS = {
    "restarted": "a new process takes over{kept}",
    "handed over": "a process that stands ready takes over{kept}",
    "restored": "its sleeping copy takes over with all that the dataset had changed in itself{kept}",
    "standby": "it was a standby and hosted nobody",
    "abandoned": "it cannot be killed and is left behind with its memory, a new process takes over{kept}",
    "moved to a process": "it is interrupted, and a process of its own takes over{kept}",
    "raised": "the error is raised at this batch's turn",
}
_LESS_MEMORY = "fewer workers, smaller batches or a smaller prefetch_factor need less memory"


def line_for(event: h.Happening) -> str:
    """One line about a happening, which begins with the loader's name."""
    return f"{inline(event.loader, 60)}: {_LINES[type(event)](event)}"


def who(fault: h.Fault) -> str:
    """Whom a fault hit: ``worker 1 (pid 4711)``, ``process 4711``."""
    if fault.worker is None:
        return "a process" if fault.process is None else f"process {fault.process}"
    if fault.process is None:
        return f"worker {fault.worker}"
    if fault.process == os.getpid():
        return f"worker {fault.worker} (in the main process)"
    return f"worker {fault.worker} (pid {fault.process})"


def _fault(fault: h.Fault) -> str:
    told = _FAULTS.get(fault.cause, _other)(fault)
    done = (_ACTIONS.get(fault.action) or _other_action(fault)).replace("{kept}", _kept(fault))
    hint = f"; {_LESS_MEMORY}" if fault.cause == "oom" else ""
    return told + (f"; {done}" if done else "") + hint


def _other_action(fault: h.Fault) -> str:
    if fault.action.startswith("fell back"):
        return f"{inline(fault.action).replace('fell', 'falling', 1)}{{kept}}"
    if fault.action.startswith("skipped"):
        return f"{inline(fault.action)}; loader.report() lists it"
    return inline(fault.action)


def _kept(fault: h.Fault) -> str:
    """What is known now about the batches; of those that are loaded again a further line tells (`_replayed`)."""
    if fault.again is None:
        return ", no batch is lost"
    if fault.again == 0:
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
    return "outside a batch" if fault.batch is None else f"while loading {_batch(fault)}"


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


def _hung(fault: h.Fault) -> str:
    silence = "in time" if fault.stalled is None else f"for {duration(fault.stalled)}"
    place = stack_place(fault.stack)
    stuck = f", stuck at {place}" if place else ""
    return f"{who(fault)} hung {_while(fault)}{_again(fault)}: no sample finished {silence}{stuck}"


def _stopped(fault: h.Fault) -> str:
    since = "" if fault.stalled is None else f" and silent for {duration(fault.stalled)}"
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
    return f"{who(fault)} loaded {what}, which cannot be carried to the main process{why}"


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


def _hosts(number: int) -> str:
    return "the main process alone" if number == 0 else many(number, "process")


def _started(event: h.Started) -> str:
    return f"process {event.process} is ready after {duration(event.seconds)}, for {_workers(event.workers)}"


def _restarted(event: h.Started) -> str:
    return f"new process {event.process} is ready after {duration(event.seconds)}, for {_workers(event.workers)}"


def _workers(workers: list[int]) -> str:
    if not workers:
        return "no worker yet"
    return f"worker{'s' if len(workers) > 1 else ''} {', '.join(map(str, workers))}"


def _replayed(event: h.Replayed) -> str:
    told = replay_in_words(event.worker, event.outcome, event.source, event.at, event.of, event.detail, event.compared)
    if event.action == "reads again" and event.source == "shadow":
        return f"{told}; that copy is not used any more, and the epoch is read again from further back"
    if event.action == "reads again":
        return f"{told}; that state is not used, and the epoch is read again from further back"
    if event.outcome in ("differs", "ended", "raised"):
        goes_on = event.action == "goes on"
        return f"{told}; " + ("samples may come twice or never from here on" if goes_on else "it ends")
    return told


def replay_in_words(worker: int, outcome: str, source: str, at: int, of: int, detail: str, compared: int = 0) -> str:
    """What is known about a worker that was brought to its place again."""
    begun = {"state": "from its dataset's own state", "shadow": "from its sleeping copy"}.get(source, "its epoch")
    why = f" ({inline(detail)})" if detail else ""
    if outcome == "same":
        sure = ", no batch is lost" if source == "shadow" or (source == "beginning" and compared == of) else ""
        share = f"all {of}" if compared >= of else f"the last {compared} of {of}"
        return f"worker {worker} stands where it stood: {share} batches that it had loaded came again the same{sure}"
    if outcome == "unknown":
        what = "goes on from its dataset's own state" if source == "state" else "begins its epoch anew"
        return f"worker {worker} {what}, and there was nothing to compare with: that this is exact is not known"
    if outcome == "missing":
        return f"worker {worker}: random generators of its dataset could not be put back, and draw other numbers{why}"
    if outcome == "lost":
        kept = "what the dataset had changed in itself (a cache, a counter) is lost with its process"
        return (
            f"worker {worker} has a new copy of its dataset: {kept}, so batches may not be those of an undisturbed run"
        )
    if outcome == "refused":
        return f"the dataset of worker {worker} does not take the state that it told{why}"
    how = {
        "differs": f"batch {at + 1} is not the one that was delivered",
        "ended": f"it ends after {many(at, 'batch')}",
        "raised": f"batch {at + 1} raises{why}",
    }[outcome]
    had = many(of, "batch")
    return f"worker {worker} reads {begun} again, and it is not the same: of {had} that it had loaded, {how}"


def _resumed(event: h.Resumed) -> str:
    return f"batches come again; fault {event.fault + 1} cost {duration(event.seconds_lost)}"


def _rung(event: h.FellBack | h.Recovered) -> str:
    turn = "falls back" if isinstance(event, h.FellBack) else "recovers"
    why = f" ({inline(event.why)})" if event.why else ""
    if event.new_way:
        return f"{turn} from {event.old_way} to {event.new_way}{why}; the samples and their order stay the same"
    change = f"from {_hosts(event.old)} to {_hosts(event.new)}"
    return f"{turn} {change}{why}; the workers and the batches stay the same"


def _stayed(event: h.Stayed) -> str:
    kept = "what their datasets have changed in themselves"
    return f"too many faults for {many(event.processes, 'process')}; they stay, since fewer would lose {kept}"


def _resized(event: h.Resized) -> str:
    return f"epoch {event.epoch} has images of {event.new} pixels, after {event.old} ({event.seconds:.2f} s)"


def _slow(event: h.Slow) -> str:
    worker = "the main process" if event.worker is None else f"worker {event.worker}"
    batch = "a batch" if event.batch is None else f"batch {event.batch}"
    sample = "" if event.sample is None else f" (now at {samples([event.sample])})"
    again = f"; {many(event.count, 'slow batch')} so far" if event.count > 1 else ""
    seconds = duration(event.seconds)
    return f"{worker} is slow: {seconds} on {batch}{sample}; samples still finish, so nothing is killed{again}"


def _skipped(event: h.Skipped) -> str:
    cause = f" ({inline(event.cause)})" if event.cause else ""
    what = f"{samples([event.index])} of batch {event.batch} of epoch {event.epoch}"
    return f"left out bad {what}{cause}; loader.report() lists it"


def _epoch(event: h.EpochEnded) -> str:
    return f"epoch {event.epoch} ended after {many(event.batches, 'batch')}"


def _not_undone(event: h.NotUndone) -> str:
    what, worker = inline(event.what, 200), f"worker {event.worker}"
    if event.action == "done":
        return f"{worker} has changed the main process, which hosts it, for good: {what}"
    done = f"{worker} goes on in a process of its own"
    if event.action == "left out":
        done = f"it is left out for {worker}, since no process can be had"
    return f"{what} could not be undone in the main process; {done}"


def _code_changed(event: h.CodeChanged) -> str:
    files = ", ".join(inline(file, 100) for file in event.files[:5])
    more = f" and {len(event.files) - 5} more" if len(event.files) > 5 else ""
    return f"source changed since the first start: {files}{more}; processes started from now on run the new code"


def _unshadowed(event: h.Unshadowed) -> str:
    return (
        f"a process cannot keep a sleeping copy of itself: {inline(event.why)}; after a fault, what the dataset has "
        "changed in itself is restored only as far as its state_dict, or loading again, can do so"
    )


def _differs(event: h.Differs) -> str:
    what = "; ".join(inline(text, 200) for text in event.what[:5])
    return f"process {event.process} is not in all as the program was when iteration began: {what}"


def _slow_start(event: h.SlowStart) -> str:
    process = "a process" if event.process is None else f"process {event.process}"
    place = stack_place(event.stack)
    at = f", at {place}" if place else ""
    return f"{process} is not ready after {duration(event.seconds)}: {inline(event.phase)}{at}; it is waited for"


def _closed(event: h.Closed) -> str:
    faults = many(event.faults, "fault") if event.faults else "no fault"
    lost = f", {duration(event.seconds_lost)} lost" if event.faults else ""
    return f"closed after {many(event.batches, 'batch')} in {many(event.epochs, 'epoch')}, with {faults}{lost}"


def _stalled(event: h.Stalled) -> str:
    seconds = duration(event.seconds)
    if event.holder == "sampler":
        place = inline(event.place) or "an unknown place"
        return f"no batch for {seconds}: the sampler was asked for the next indices and gives none; it is at {place}"
    if event.holder == "loader":
        batch = "a batch" if event.batch is None else f"batch {event.batch} of epoch {event.epoch}"
        at = f", for {duration(event.working)}" if event.working else ""
        doing = f"{inline(event.doing)}{at}" if event.doing else f"the program is in it at {inline(event.place)}"
        return f"no batch for {seconds}: the program waits for {batch}; {doing}"
    place = inline(event.place) or "an unknown place"
    if event.busy:
        return (
            f"the training step has held its thread for {seconds} at {place}; {many(event.ready, 'batch')} "
            f"{'is' if event.ready == 1 else 'are'} ready, the loader does not hold it up"
        )
    return f"no batch has been asked for in {seconds}, and no epoch is under way; the program is at {place}"


def _ranks_stalled(event: h.RanksStalled) -> str:
    return inline(event.said, 1000)


def _stall_ended(event: h.StallEnded) -> str:
    return f"goes on, after standing still for {duration(event.seconds)}"


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
_LINES: dict[type[h.Happening], Callable[[Any], str]] = {
    h.Fault: _fault,
    h.Started: _started,
    h.Restarted: _restarted,
    h.Replayed: _replayed,
    h.Resumed: _resumed,
    h.FellBack: _rung,
    h.Recovered: _rung,
    h.Stayed: _stayed,
    h.Resized: _resized,
    h.Slow: _slow,
    h.Skipped: _skipped,
    h.Stalled: _stalled,
    h.RanksStalled: _ranks_stalled,
    h.StallEnded: _stall_ended,
    h.EpochEnded: _epoch,
    h.NotUndone: _not_undone,
    h.CodeChanged: _code_changed,
    h.Unshadowed: _unshadowed,
    h.Reopened: lambda event: "each worker opens for itself: " + "; ".join(inline(t) for t in event.what[:9]),
    h.Differs: _differs,
    h.SlowStart: _slow_start,
    h.Closed: _closed,
}
