"""Incident 2: a hang in epoch 2, right after validation, with persistent spawned workers.

The driver hangs whoever comes to it while another process is there as well, from the first validation on. torch's
loader stands still for ever. With safeloader: a deadline, the stack of whoever hangs, fewer processes until one is
left, and at the end the weights of an undisturbed run, to the byte. What the cause is, the options of the report tell::

    safeloader bisect --cap 12 --no-validation SKIP_VALIDATION=1 -m benchmarks.incidents.epoch_two --without
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import get_worker_info

from benchmarks.incidents.digits import Digits, accuracy, digest, network, seed_everything, train
from benchmarks.incidents.watching import Row, judged, run, side_of, tell

TITLE = "2. hang in epoch 2"
_TIMEOUT = 2.0
_PATIENCE = 25.0


class OnOneDevice(Digits):
    """Digits that are read through a device which hangs when two processes use it.

    Args:
        folder: where each process that uses the device leaves its number; ``validated`` there: the fault is on.
    """

    def __init__(self, part: str, folder: Path) -> None:
        super().__init__(part, noisy=True)
        self.folder = folder

    def __getitem__(self, index: int) -> Any:
        if get_worker_info() is not None and (self.folder / "validated").exists() and self._others():
            self.wait_for_the_device()
        return super().__getitem__(index)

    def _others(self) -> bool:
        """True if another process that is alive has come to the device."""
        mine = os.getpid()
        (self.folder / f"user-{mine}").touch()
        users = [int(path.name[5:]) for path in self.folder.glob("user-*")]
        return any(user != mine and Path(f"/proc/{user}").exists() for user in users)

    def wait_for_the_device(self) -> None:
        """For ever."""
        while True:
            time.sleep(3600)


def main() -> None:
    """The program."""
    side = side_of(__doc__, "undisturbed")
    seed_everything()
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with tempfile.TemporaryDirectory() as folder:
        trains, vals = OnOneDevice("train", Path(folder)), Digits("val")
        trainer, validator = _loader(side, trains, "train", 4), _loader(side, vals, "val", 1)
        right = 0.0
        for epoch in (1, 2, 3):
            print(f"epoch {epoch}: training loss {train(model, trainer, optimizer):.3f}")
            if "SKIP_VALIDATION" in os.environ:
                continue
            right = accuracy(model, validator)
            print(f"epoch {epoch}: validation accuracy {right:.3f}")
            if side != "undisturbed":
                (Path(folder) / "validated").touch()
        facts: dict[str, Any] = {}
        if side == "with":
            report = trainer.report()
            facts = {"rung": report.rung, "causes": report.causes, "lost": report.seconds_lost}
            trainer.close()
            validator.close()
        tell(accuracy=right, weights=digest(model), **facts)


def _loader(side: str, dataset: Digits, phase: str, workers: int) -> Any:
    arguments: dict[str, Any] = {
        "batch_size": 50, "shuffle": phase == "train", "num_workers": workers, "persistent_workers": True,
        "multiprocessing_context": "spawn",
    }  # fmt: skip
    if side != "with":
        return torch.utils.data.DataLoader(dataset, **arguments)
    import safeloader

    policy = safeloader.Policy(batch_timeout=_TIMEOUT, max_restarts=1, bad_sample_attempts=6)
    return safeloader.DataLoader(dataset, **arguments, policy=policy, name=phase)


def measure() -> list[Row]:
    """Three runs, judged."""
    undisturbed = run("epoch_two", "undisturbed")
    hung = run("epoch_two", "without", patience=_PATIENCE)
    survived = run("epoch_two", "with", patience=_PATIENCE)

    def without() -> Row:
        return Row(
            TITLE, "without", f"stands still in epoch 2; ended after {_PATIENCE:.0f} s", "never", "the run",
            hung.ended, "-", not hung.ended and hung.first("epoch 2: training") is None,
        )  # fmt: skip

    def beside() -> Row:
        noticed = survived.at("hung") - survived.at("epoch 1: validation")
        same = survived.fact("weights") == undisturbed.fact("weights")
        named = survived.first("wait_for_the_device") is not None and "hung" in survived.fact("causes")
        how = f"4 processes → {survived.fact('rung')}; the stack names the place; weights "
        return Row(
            TITLE, "with", how + ("equal to the byte" if same else "differ"),
            f"{noticed:.1f} s (deadline {_TIMEOUT:.0f} s)", f"{survived.fact('lost'):.0f} s", survived.ended,
            f"accuracy {survived.fact('accuracy'):.3f}", same and named,
        )  # fmt: skip

    return judged(TITLE, ("without", without), ("with", beside))


if __name__ == "__main__":
    main()
