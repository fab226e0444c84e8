"""What an FFCV loader serves: the audit rehearses its epochs and leaves it as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import safeloader
from safeloader.errors import AuditError
from tests.ffcv.test_attributes import WAYS, at, labels, ops  # noqa: F401 - fixtures

Make = Callable[..., Any]
pytestmark = pytest.mark.ffcv


def kinds(report: Any) -> dict[str, str]:
    return {finding.kind: finding.level for finding in report.findings}


@pytest.mark.parametrize("way", WAYS)
def test_a_healthy_loader_is_served_whole_each_time_in_another_order(at: Make, way: str) -> None:  # noqa: F811
    loader = at(way, pipelines=labels(), order="RANDOM", seed=3)
    report = safeloader.audit(loader)
    assert report.ok and report.findings == [], str(report)
    assert [(facts.samples, facts.different, facts.missing) for facts in report.epochs] == [(120, 120, 0)] * 2
    assert report.name == "train"


def test_the_loader_and_its_operations_stay_as_they_were(at: Make, ops: Any) -> None:  # noqa: F811
    counting = ops.Counts()
    loader = at("trainer", pipelines=labels(counting), order="RANDOM")
    list(loader)
    before = (repr(vars(counting)), loader.state_dict())
    states: Any = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
    assert safeloader.audit(loader).ok
    assert (repr(vars(counting)), loader.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), states[0])
    assert repr(np.random.get_state()) == states[1] and random.getstate() == states[2]
    assert loader.next_epoch == 1 and len(list(loader)) == 3


def test_what_is_set_on_the_loader_is_rehearsed(at: Make) -> None:  # noqa: F811
    loader = at("trainer", pipelines=labels())
    loader.batch_size, loader.drop_last, loader.indices = 7, False, list(range(0, 100, 2))
    report = safeloader.audit(loader)
    assert report.ok and [facts.samples for facts in report.epochs] == [50, 50]
    assert kinds(report) == {"never_served": "note"}
    loader.drop_last = True
    assert [facts.samples for facts in safeloader.audit(loader).epochs] == [49, 49]
    assert [facts.samples for facts in safeloader.audit(loader, epochs=1, batches=2).epochs] == [14]


def test_what_drop_last_leaves_out_is_a_note(at: Make) -> None:  # noqa: F811
    report = safeloader.audit(at("trainer", pipelines=labels(), batch_size=50))
    assert report.ok and kinds(report)["dropped"] == "note"


def test_an_order_that_repeats_itself_or_samples_is_named(at: Make) -> None:  # noqa: F811
    from ffcv.traversal_order.base import TraversalOrder

    class Same(TraversalOrder):  # type: ignore[misc, unused-ignore]
        def sample_order(self, epoch: int) -> Any:
            return np.random.default_rng(0).permutation(self.indices)

    loader = at("trainer", pipelines=labels(), order=Same)
    report = safeloader.audit(loader, epochs=3)
    assert kinds(report) == {"same_order": "warning"} and "0, 1, 2" in str(report)
    loader = at("trainer", pipelines=labels(), indices=[*range(119), 0])
    assert "repeated" in kinds(safeloader.audit(loader))


def test_augmentation_that_changes_nothing_is_named(at: Make) -> None:  # noqa: F811
    from ffcv.transforms import RandomHorizontalFlip

    from tests.ffcv.data import centered

    flipped = {}
    for chance in (0.0, 0.5):
        given = centered()
        given["image"].insert(1, RandomHorizontalFlip(chance))
        flipped[chance] = kinds(safeloader.audit(at("trainer", pipelines=given)))
    assert "frozen_augmentation" in flipped[0.0] and "frozen_augmentation" not in flipped[0.5]


def test_equal_samples_are_named(at: Make, ops: Any) -> None:  # noqa: F811
    loader = at("trainer", pipelines=labels(ops.Times(0), jit=True))
    assert kinds(safeloader.audit(loader))["equal_samples"] == "warning"


def test_an_operation_that_cannot_be_copied_is_refused(make: Make) -> None:
    from tests.ffcv.custom import HoldsAGenerator

    with pytest.raises(AuditError, match="generator"):
        safeloader.audit(make(mode="auto", pipelines=labels(HoldsAGenerator())))


def test_the_command(beton: Path, tmp_path: Path) -> None:
    from safeloader.cli import main

    program = tmp_path / "audited_ffcv.py"
    program.write_text(
        "from safeloader import Policy\nfrom safeloader.ffcv import Loader\n"
        "from tests.ffcv.test_attributes import labels\n"
        f"def make():\n    return Loader({str(beton)!r}, 40, 1, order='RANDOM', seed=1, pipelines=labels(),\n"
        "                  policy=Policy(ffcv_mode='trainer'))\n"
    )
    told = CliRunner().invoke(main, ["audit", f"{program}:make"])
    assert told.exit_code == 0 and "120 different" in told.output, told.output
