"""Incident 1: validation goes through a slow path and says nothing; it looks like a hang.

The light head is used only while ``model.training`` is true. With safeloader: a line when a phase begins and ends,
and lines in between that tell the training step's time from the loader's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.incidents.digits import Digits, accuracy, network, seed_everything, train
from benchmarks.incidents.watching import Row, judged, run, side_of, tell

if TYPE_CHECKING:
    from collections.abc import Iterable

TITLE = "1. silent validation"


class TwoHeads(nn.Module):
    """A network with a head that is meant for export, and slow."""

    def __init__(self) -> None:
        super().__init__()
        self.light = network()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:  # noqa: D102
        if not self.training:  # the mistake
            self.full(pictures)
        return self.light(pictures)  # type: ignore[no-any-return]

    def full(self, pictures: torch.Tensor) -> None:
        """Stands for a model tens of times larger."""
        weights = torch.eye(700)
        for _ in range(170):
            weights = weights @ weights
        assert bool(weights.any())


def main() -> None:
    """The program."""
    side = side_of(__doc__)
    seed_everything()
    model = TwoHeads()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    trains, vals = Digits("train"), Digits("val")
    right = 0.0
    for epoch in (1, 2):
        loss = train(model, _batches(side, trains, "train", epoch), optimizer)
        print(f"epoch {epoch}: training loss {loss:.3f}")
        right = accuracy(model, _batches(side, vals, "val", epoch))
        print(f"epoch {epoch}: validation accuracy {right:.3f}")
    tell(accuracy=right)


def _batches(side: str, dataset: Digits, phase: str, epoch: int) -> Iterable[Any]:
    if side == "without":
        return DataLoader(dataset, batch_size=32, shuffle=phase == "train")
    import safeloader

    loader: Any = safeloader.DataLoader(dataset, batch_size=32, shuffle=phase == "train", name=phase)
    return safeloader.progress(loader, epoch=epoch, total_epochs=2, every=2)


def measure() -> list[Row]:
    """Both runs, judged."""
    silent, shown = run("silent_validation", "without"), run("silent_validation", "with")

    def silence() -> float:
        return silent.at("epoch 1: validation") - silent.at("epoch 1: training")

    def without() -> Row:
        return Row(
            TITLE, "without", f"nothing is said for {silence():.0f} s after epoch 1, as in a hang", "never", "-",
            silent.ended, f"accuracy {silent.fact('accuracy'):.3f}", silent.ended,
        )  # fmt: skip

    def beside() -> Row:
        begins = shown.at("val, epoch 1 of 2 begins") - shown.at("epoch 1: training")
        slow = shown.at("of which the loader") - shown.at("val, epoch 1 of 2 begins")
        word = shown.first("val, epoch 1 of 2:")
        fine = shown.result == silent.result and begins < silence() / 2 and slow < silence()
        return Row(
            TITLE, "with", word[1] if word else "nothing", f"phase {begins:.1f} s, slow step {slow:.0f} s", "-",
            shown.ended, f"accuracy {shown.fact('accuracy'):.3f}", fine,
        )  # fmt: skip

    return judged(TITLE, ("without", without), ("with", beside))


if __name__ == "__main__":
    main()
