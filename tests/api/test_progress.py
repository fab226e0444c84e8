"""``safeloader.progress``: bars and phases; incident 1's silent validation."""

from __future__ import annotations

import io
import itertools
import re
from typing import Any

import pytest
import torch
import tqdm

import safeloader
from safeloader import DataLoader


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _shown(
    loader: Any, *, file: io.StringIO | None = None, take: int | None = None, **named: Any
) -> tuple[list[Any], str]:
    file = file or io.StringIO()
    batches = list(itertools.islice(safeloader.progress(loader, file=file, **named), take))
    return batches, file.getvalue()


def test_a_line_begins_and_ends_a_phase() -> None:
    loader: Any = DataLoader(range(10), batch_size=4, name="val")  # type: ignore[arg-type]
    batches, text = _shown(loader, epoch=1, total_epochs=50)
    assert [batch.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    begin, end = text.splitlines()
    assert begin == "val, epoch 1 of 50 begins: 3 batches"
    assert re.fullmatch(r"val, epoch 1 of 50: 3 batches in .*, \S+ a second, \d+% of the time waiting for data", end)
    assert len(safeloader.progress(loader)) == 3


def test_any_iterable_can_be_shown_and_its_length_may_be_unknown() -> None:
    batches, text = _shown((n for n in range(3)), phase="train")
    assert batches == [0, 1, 2]
    assert text.startswith("train begins\ntrain: 3 batches in ")


def test_a_loop_that_is_left_and_one_that_fails_say_so() -> None:
    _, text = _shown([1, 2, 3], phase="train", take=2)
    assert "train left early after 2 of 3 batches in " in text

    def fails() -> Any:
        yield 1
        raise KeyError("bad")

    file = io.StringIO()
    with pytest.raises(KeyError, match="bad"):
        list(safeloader.progress(fails(), "val", file=file))
    assert "val ended by KeyError after 1 batch in " in file.getvalue()


def test_a_terminal_gets_a_bar_with_the_share_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # its thread is its own affair
    _, text = _shown(range(5), phase="train", file=Terminal())
    assert re.search(r"train: .*\| 0/5 ", text)
    assert "train: 5 batches in " in text


def test_without_a_terminal_lines_stand_in_for_the_bar() -> None:
    _, text = _shown(range(2), phase="val", every=0.0)
    assert re.search(r"^val: 1 of 2 batches, \S+ s a batch, of which the loader \S+ s$", text, re.M)


def test_other_ranks_are_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    batches, text = _shown(range(3), phase="train", file=Terminal())
    assert (batches, text) == ([0, 1, 2], "")


def test_values_are_shown_and_each_has_a_line_at_the_end() -> None:
    file = io.StringIO()
    bar = safeloader.progress(range(4), "train", epoch=2, file=file, every=0.0)
    bar.set_postfix(early=1)  # before the phase: nothing to show it in
    for number in bar:
        bar.set_postfix({"loss/dice": torch.tensor(number / 2, requires_grad=True)}, lr=0.1, phase="warm-up")
    lines = file.getvalue().splitlines()
    assert re.search(r"of which the loader \S+ s; loss/dice 0; lr 0\.1; phase warm-up$", lines[2])
    assert lines[-3:] == [
        "train, epoch 2: loss/dice 1.5 (mean 0.75)", "train, epoch 2: lr 0.1 (mean 0.1)", "train, epoch 2: phase warm-up",
    ]  # fmt: skip
    list(bar)
    assert file.getvalue().splitlines()[-1].endswith("waiting for data"), "a new phase begins without values"


def test_values_in_a_bar_are_read_when_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)
    read = []

    class Loss:
        def __add__(self, other: Any) -> Loss:
            return self

        __radd__ = __add__

        def item(self) -> float:
            read.append(1)
            return 0.25

    file = Terminal()
    bar = safeloader.progress(range(1000), "train", file=file)
    for _ in bar:
        bar.set_postfix(loss=Loss())
    assert "loss 0.25" in file.getvalue() and len(read) < 200


def test_values_on_other_ranks_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    file = io.StringIO()
    bar = safeloader.progress(range(3), "train", file=file)
    for _ in bar:
        bar.set_postfix(loss=object())
    assert file.getvalue() == ""
