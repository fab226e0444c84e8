"""Incident 4: FFCV with progressive resize on two ranks, and five choices that each broke a run.

``--without`` trains with one mistake at a time, ``--with`` the mended recipe, beside the checkpoint of another run;
``--killed`` kills a rank of the mended recipe in the middle of an epoch and starts it again. The recipe and its
mistakes are in `benchmarks.incidents.recipe`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.incidents.watching import ROOT, Row, Run, judged, run, side_of, tell

TITLE = "4. FFCV on several ranks"
_RANKS = 2
_DIES_IN = 4
_PATIENCE = 240.0  # FFCV compiles before the first batch


def main() -> None:
    """The program."""
    side = side_of(__doc__, "killed")
    missing = _missing()
    if missing:
        tell(missing=missing)
        return
    with tempfile.TemporaryDirectory() as folder:
        sys.exit({"without": _without, "with": _with, "killed": _killed}[side](Path(folder)))


def _missing() -> str:
    """Why FFCV cannot be used here; "" if it can."""
    from safeloader.errors import FFCVMissingError
    from safeloader.ffcv.require import require

    try:
        require()
    except FFCVMissingError as error:
        return str(error)
    return ""


def _ranks(folder: Path, *arguments: str) -> int:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={_RANKS}"]
    command = [sys.executable, "-W", "ignore", *torchrun, "-m", "benchmarks.incidents.recipe", str(folder), *arguments]
    return subprocess.call(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _without(folder: Path) -> int:
    from benchmarks.incidents.recipe.broken import MISTAKES

    return _ranks(folder, *(word for name in MISTAKES for word in ("--mistake", name)))


def _with(folder: Path) -> int:
    from benchmarks.incidents.recipe.train import network
    from safeloader.training import CheckpointStore

    CheckpointStore(folder / "checkpoints", run="first-try").save(8, model=network(16), extra={"epoch": 8})
    return _ranks(folder)


def _killed(folder: Path) -> int:
    print(f"ended with status {_ranks(folder, '--die-in', str(_DIES_IN))}; started again", flush=True)
    return _ranks(folder)


def measure() -> list[Row]:
    """All runs, judged."""
    broken = run("ffcv_ranks", "without", patience=_PATIENCE)
    if "missing" in broken.result:
        why = f"not run: {broken.result['missing']}"
        return [Row(TITLE, side, why, "-", "-", False, "-", True) for side in ("without", "with")]
    mended = run("ffcv_ranks", "with", patience=_PATIENCE)
    killed = run("ffcv_ranks", "killed", patience=_PATIENCE)

    def broken_by(name: str) -> Row:
        return _row(broken, name, _JUDGES[name](broken.fact(name), mended.fact("mended")))

    return judged(
        TITLE, *(("without", partial(broken_by, name)) for name in _JUDGES),
        ("with", lambda: _mended(mended, mended.fact("mended"))),
        ("with", lambda: _gone_on(killed, mended.fact("mended"), killed.fact("mended"))),
    )  # fmt: skip


def _mended(seen: Run, story: dict[str, Any]) -> Row:
    sizes = ", ".join(map(str, sorted(set(story["sizes"]))))
    happened = (
        f"peak rate {story['rates'][1]:g} from {story['rates'][0]:g}; one loader, sizes {sizes}; "
        "each epoch has its own order; the average is the same on all ranks; the other run's checkpoint is passed over"
    )
    fine = (
        "belongs to run 'first-try'" in story["resumed"] and story["averaged"][-1] > 0.6 and not story["named"]
        and story["built"] == 1 and len(set(story["order"])) == len(story["order"])
    )  # fmt: skip
    return Row(TITLE, "with", happened, "-", "-", _finished(seen), _metric(story), fine)


def _gone_on(seen: Run, story: dict[str, Any], again: dict[str, Any]) -> Row:
    same = story["weights"] == again["weights"]
    happened = f"a rank is killed in epoch {_DIES_IN}; started again, the run goes on with that epoch; weights "
    return Row(
        TITLE, "with", happened + ("equal to the byte" if same else "differ"), "at once", "half an epoch",
        _finished(seen), _metric(again), same and f"goes on from step {_DIES_IN}" in again["resumed"],
    )  # fmt: skip


# ---------------------------------------------------------------- what each mistake does

_Judged = tuple[str, str, str, bool]


def _scaling(story: dict[str, Any], right: dict[str, Any]) -> _Judged:
    since = next((n for n, value in enumerate(story["averaged"]) if value < story["averaged"][0] / 2), -1)
    named = any("collapsed" in word for word in story["named"])
    happened = f"square-root scaling: peak rate {story['rates'][1]:g}, not {right['rates'][1]:g}; the metric collapses"
    return happened, f"epoch {since}, by MetricWatch", "the run", named and story["averaged"][-1] < 0.2


def _auto_resume(story: dict[str, Any], right: dict[str, Any]) -> _Judged:
    happened = f"{story['resumed']}, another run's; nothing is left to train"
    by = "never; CheckpointStore would pass it over"
    return happened, by, "the run", not story["order"] and story["averaged"][-1] < 0.2


def _schedule(story: dict[str, Any], right: dict[str, Any]) -> _Judged:
    first, meant = story["rates"][0], right["rates"][0]
    named = any("lr_scheduler.step" in word for word in story["named"])
    happened = f"OneCycle before the optimizer: first rate {first:.5f}, not {meant:.5f}; the metric hardly shows it"
    return happened, "the first step, by torch's warning", "-", named and first > meant


def _rebuild(story: dict[str, Any], right: dict[str, Any]) -> _Judged:
    repeated = next((word for word in story["named"] if "same order" in word), "")
    happened = (
        f"loaders rebuilt at each size: {story['built']} in all, {story['built_first']} before the first batch; each "
        f"counts its epochs anew: {repeated}, and so on"
    )
    named = bool(repeated)
    return happened, "the end, by a print of the order", "-", named and story["built_first"] == 2


def _average(story: dict[str, Any], right: dict[str, Any]) -> _Judged:
    named = next((word for word in story["named"] if "of rank 1 are not those of rank 0" in word), "")
    happened = (
        f"the average on rank 0 alone, without buffers: it tells {story['averaged'][-1]:.3f} right where the model "
        f"tells {story['accuracy'][-1]:.3f}"
    )
    fine = bool(named) and story["averaged"][-1] < 0.3 < story["accuracy"][-1]
    return happened, f"epoch 0, by the comparison of ranks ({named})", "all validation", fine


_JUDGES = {
    "scaling": _scaling,
    "auto-resume": _auto_resume,
    "schedule": _schedule,
    "rebuild": _rebuild,
    "average": _average,
}


def _row(seen: Run, name: str, judged: _Judged) -> Row:
    happened, noticed, lost, fine = judged
    return Row(TITLE, "without", happened, noticed, lost, _finished(seen), _metric(seen.fact(name)), fine)


def _finished(seen: Run) -> bool:
    return seen.ended and seen.status == 0


def _metric(story: dict[str, Any]) -> str:
    return f"accuracy {story['averaged'][-1]:.3f}"


if __name__ == "__main__":
    main()
