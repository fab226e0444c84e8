"""Incident 3: a run that does not learn. Is the loader serving the same samples again and again?

It is: the index is taken modulo a number that was meant for a trial run; the augmentation draws from a generator that
each worker has a copy of; and the setting that should have helped is misspelt and reaches nobody. The audit and the
settings table name each of the three.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.incidents.digits import Digits, accuracy, network, seed_everything, train
from benchmarks.incidents.watching import Row, judged, run, side_of, tell

TITLE = "3. the run that did not learn"


class Augmented(Digits):
    """Shifted digits; with the mistakes, or mended."""

    def __init__(self, mended: bool) -> None:
        super().__init__("train")
        self.mended = mended
        self.rng = np.random.default_rng(0)

    def __getitem__(self, index: int) -> Any:
        if self.mended:
            shift = int(torch.randint(-1, 2, ()))
        else:
            index %= 12  # "just for a quick trial"
            shift = int(self.rng.integers(-1, 2))
        picture, label = super().__getitem__(index)
        return torch.roll(picture, shift, 2), label


def main() -> None:
    """The program."""
    side = side_of(__doc__)
    if side == "without":
        tell(accuracy=_learn(mended=False))
        return
    import safeloader

    os.environ["SAFELOADER_BATCH_TIMOUT"] = "60"
    try:
        safeloader.settings()
    except safeloader.SettingsError as error:
        print(f"settings: {error.what}")
        del os.environ["SAFELOADER_BATCH_TIMOUT"]
    report = safeloader.audit(_loader(mended=False), epochs=1)
    print(report)
    mended = safeloader.audit(_loader(mended=True), epochs=1)
    print(f"mended: {'nothing wrong' if mended.ok else mended}")
    kinds = sorted(finding.kind for finding in report.findings if finding.level == "warning")
    tell(found=kinds, mended_ok=mended.ok, accuracy=_learn(mended=True))


def _loader(mended: bool) -> Any:
    return DataLoader(Augmented(mended), 50, shuffle=True, num_workers=2, multiprocessing_context="spawn")


def _learn(mended: bool) -> float:
    seed_everything()
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    right = 0.0
    for epoch in (1, 2, 3):
        loss = train(model, _loader(mended), optimizer)
        right = accuracy(model, DataLoader(Digits("val"), 100))
        print(f"epoch {epoch}: training loss {loss:.3f}, validation accuracy {right:.3f}")
    return right


def measure() -> list[Row]:
    """Both runs, judged."""
    blind, audited = run("never_learned", "without"), run("never_learned", "with")

    def without() -> Row:
        return Row(
            TITLE, "without", "the training loss falls, validation does not improve; nothing says why", "never",
            "the run", blind.ended, f"accuracy {blind.fact('accuracy'):.3f}", blind.ended,
        )  # fmt: skip

    def beside() -> Row:
        found, after = audited.fact("found"), audited.fact("accuracy")
        spelled = audited.first("did you mean") is not None
        fine = {"equal_samples", "same_random_stream"} <= set(found) and spelled and audited.fact("mended_ok")
        return Row(
            TITLE, "with", f"named: {', '.join(found)}" + ("; the misspelt setting is an error" if spelled else ""),
            f"{audited.at('audit of Augmented'):.0f} s", "-", audited.ended, f"accuracy {after:.3f} (mended)",
            fine and after > blind.fact("accuracy") + 0.2,
        )  # fmt: skip

    return judged(TITLE, ("without", without), ("with", beside))


if __name__ == "__main__":
    main()
