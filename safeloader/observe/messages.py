"""The one line in which each happening is told to people: what, where, what is done about it, and its code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.observe import events as h
from safeloader.observe.fault_lines import fault_line
from safeloader.observe.format import duration, inline, many, ordinal, samples, stack_place

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["code_of", "line_for", "replay_in_words"]


def line_for(event: h.Happening) -> str:
    """One line about a happening, which begins with the loader's name."""
    return f"{inline(event.loader, 60)}: {_LINES[type(event)](event)}"


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
    begun = {
        "state": "from its dataset's own state",
        "shadow": "from its sleeping copy",
        "first": "all its epochs",
    }.get(source, "its epoch")
    why = f" ({inline(detail)})" if detail else ""
    if outcome == "same":
        sure = (
            ", no batch is lost" if source in ("shadow", "first") or (source == "beginning" and compared == of) else ""
        )
        share = f"all {of}" if compared >= of else f"the last {compared} of {of}"
        return f"worker {worker} stands where it stood: {share} batches that it had loaded came again the same{sure}"
    if outcome == "unknown":
        what = "goes on from its dataset's own state" if source == "state" else "begins its epoch anew"
        return f"worker {worker} {what}, and there was nothing to compare with: that this is exact is not known"
    if outcome == "missing":
        return f"worker {worker}: random generators of its dataset could not be put back, and draw other numbers{why}"
    if outcome == "lost":
        end = "is in no state" if source == "state" else "is lost with its process"
        kept = f"what the dataset had changed in itself (a cache, a counter) {end}"
        return (
            f"worker {worker} has a new copy of its dataset: {kept}, so batches may not be those of an undisturbed run"
        )
    if outcome == "refused":
        return f"the dataset of worker {worker} does not take the state that it told{why}"
    how = {
        "differs": f"the {ordinal(at + 1)} is not the one that was delivered",
        "ended": f"only {many(at, 'batch')} came",
        "raised": f"the {ordinal(at + 1)} raises an error{why}",
    }[outcome]
    had = many(of, "batch")
    return f"worker {worker} reads {begun} again, and it is not the same: of {had} that it had loaded, {how}"


def _resumed(event: h.Resumed) -> str:
    sure = "; no batch is lost" if event.exact else ""
    return f"batches come again; fault {event.fault + 1} cost {duration(event.seconds_lost)}{sure}"


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
        done = f"it is left out for {worker}, since no process can be started"
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


_LINES: dict[type[h.Happening], Callable[[Any], str]] = {
    h.Fault: fault_line,
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


_FAULTS = {
    "died": "SL001", "oom": "SL002", "hung": "SL003", "stopped": "SL004", "failed_start": "SL005", "raised": "SL006",
    "unpicklable": "SL007", "bad_sample": "SL008",
}  # fmt: skip
_OTHER_FAULT = "SL009"
_CODES: dict[type[h.Happening], str] = {
    h.Started: "SL010",
    h.Restarted: "SL011",
    h.Resumed: "SL012",
    h.FellBack: "SL013",
    h.Recovered: "SL014",
    h.Slow: "SL015",
    h.Skipped: "SL016",
    h.EpochEnded: "SL017",
    h.Closed: "SL018",
    h.Resized: "SL019",
    h.NotUndone: "SL025",
    h.CodeChanged: "SL026",
    h.Unshadowed: "SL027",
    h.Reopened: "SL038",
    h.Differs: "SL028",
    h.SlowStart: "SL029",
    h.RanksStalled: "SL034",
    h.Stayed: "SL036",
    h.StallEnded: "SL035",
}
_REPLAYS = {"same": "SL020", "unknown": "SL021", "refused": "SL023", "missing": "SL024", "lost": "SL037"}
_DIVERGED = "SL022"
_HOLDERS = {"loader": "SL030", "sampler": "SL031"}
_IN_STEP, _BETWEEN_EPOCHS = "SL032", "SL033"


def _stall_code(event: h.Stalled) -> str:
    return _HOLDERS.get(event.holder) or (_IN_STEP if event.busy else _BETWEEN_EPOCHS)


_BY_VALUE: dict[type[h.Happening], Callable[[Any], str]] = {
    h.Fault: lambda fault: _FAULTS.get(fault.cause, _OTHER_FAULT),
    h.Replayed: lambda event: _REPLAYS.get(event.outcome, _DIVERGED),
    h.Stalled: _stall_code,
}


def code_of(event: h.Happening) -> str:
    """The code of the line about a happening."""
    by_value = _BY_VALUE.get(type(event))
    return _CODES[type(event)] if by_value is None else by_value(event)
