"""Settings that reach nobody, rates that are not the ones meant, linear scaling, the average with its buffers."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import nn

from safeloader.training import (
    Average,
    RateWatch,
    disagreement,
    fingerprint,
    linear_scaling,
    settings_check,
)

CONFIG: dict[str, Any] = {"lr": 0.1, "warmup_epochs": 5, "model": {"width": 8, "depth": 2}, "losses": [1.0, 0.5]}


def _omega(config: dict[str, Any]) -> Any:
    return pytest.importorskip("omegaconf").OmegaConf.create(config)


def test_a_key_that_nobody_reads_is_named_with_what_was_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """Incident 3: warmup_epochs never reached the trainer."""
    check = settings_check(CONFIG)
    config = check.config
    assert config["lr"] == 0.1 and config.get("warm_up_epochs", 0) == 0
    assert config["model"]["width"] == 8 and config["losses"] == [1.0, 0.5]
    assert check.unread() == ["warmup_epochs", "model.depth"]
    check.tell()
    assert 'setting warmup_epochs was never read; did you mean "warm_up_epochs"?' in caplog.text
    assert "lr" in config and len(config) == 4 and CONFIG["model"] == {"width": 8, "depth": 2}


def _takes(**_: Any) -> None:
    pass


@pytest.mark.parametrize(
    "read_all", [lambda c: _takes(**c["model"]), lambda c: dict(c["model"]), lambda c: json.dumps(c["model"])]
)
def test_what_is_read_as_a_whole_is_read(read_all: Any) -> None:
    check = settings_check(CONFIG)
    read_all(check.config)
    assert not [name for name in check.unread() if name.startswith("model")]


def test_arguments_of_a_command_line() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--warm-up", type=int, default=5)
    check = settings_check(parser.parse_args([]))
    args = check.config
    assert args.lr == 0.1 and getattr(args, "warmup", None) is None
    assert check.unread() == ["warm_up"]
    with pytest.raises(AttributeError):
        args.nothing  # noqa: B018
    assert vars(args) == {"lr": 0.1, "warm_up": 5} and check.unread() == []


def test_omegaconf() -> None:
    check = settings_check(_omega(CONFIG))
    assert check.config.lr == 0.1 and check.config.model.width == 8 and check.config.get("nothing") is None
    assert check.unread() == ["warmup_epochs", "model.depth", "losses"]


def test_what_omegaconf_looks_up_is_read() -> None:
    config = _omega({"base": {"lr": 0.1, "old": 1}, "lr": "${base.lr}", "optim": {"rate": "${.factor}", "factor": "${lr}"},
                     "home": "${oc.env:HOME}", "unused": "${base.old}"})  # fmt: skip
    pytest.importorskip("omegaconf").OmegaConf.set_struct(config, True)
    check = settings_check(config)
    assert check.config.optim.rate == 0.1 and check.config.home
    assert check.unread() == ["base.old", "unused"]
    with pytest.raises(AttributeError):
        check.config.unusd  # noqa: B018
    assert check.tell() == ["base.old", "unused"]


@dataclasses.dataclass
class Settings:
    lr: float = 0.1
    warmup_epochs: int = 5

    def total(self) -> float:
        return self.lr


def test_a_dataclass() -> None:
    check = settings_check(Settings())
    assert check.config.total() == 0.1 and getattr(check.config, "warm_up_epochs", None) is None
    assert check.unread() == ["lr", "warmup_epochs"], "what its own methods read is not seen"
    assert check.config.lr == 0.1 and check.unread() == ["warmup_epochs"]
    check = settings_check({"train": Settings()})
    assert check.config["train"].lr == 0.1 and check.unread() == ["train.warmup_epochs"]


# ---------------------------------------------------------------- rates


def _steps(watch_options: dict[str, Any], schedule: Any, steps: int = 8, first: bool = True) -> list[str]:
    parameter = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    watch = RateWatch(optimizer, **watch_options)
    for _ in range(steps):
        parameter.grad = torch.zeros(())
        if not first:
            scheduler.step()
        optimizer.step()
        if first:
            scheduler.step()
    return watch.findings


def _warm(step: int) -> float:
    return min((step + 1) / 5, 1.0)


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_rates_that_are_not_meant_are_told() -> None:
    meant = {"peak": 0.1, "warm_up": 4}
    assert _steps(meant, _warm) == []
    assert "stepped before the optimizer" in _steps(meant, _warm, first=False)[0]
    assert "the warm-up of 4 steps is off" in _steps(meant, lambda _: 1.0)[0]
    assert "above the 0.025" in _steps({"peak": 0.025}, lambda _: 1.0)[0]
    assert "not 0.1" in _steps(meant, lambda step: _warm(step) / 2)[0]
    assert "of step 3" in _steps({"peak": lambda step: 0.1 if step < 3 else 0.01}, lambda _: 1.0)[0]


def test_linear_scaling() -> None:
    assert linear_scaling(0.1, 2048) == pytest.approx(0.8)
    for wrong in ((0, 1), (0.1, 0), (0.1, -1)):
        with pytest.raises(ValueError, match="above 0"):
            linear_scaling(*wrong)


def test_the_average_has_the_buffers_too() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(model, decay=0.5)
    model(torch.randn(64, 2) * 5 + 3)
    average.update_parameters(model)
    average.update_parameters(model)
    mean = average.module[1].running_mean
    assert not torch.equal(mean, torch.zeros(2)), "broken batch-norm statistics were incident 4's"
    average.settle()
    assert disagreement(model) == "" and fingerprint(model) != fingerprint(nn.Linear(2, 2))
    assert fingerprint(model.bfloat16()) == fingerprint(model)


@pytest.mark.parametrize(
    ("used", "meant", "told"),
    [(2.0, 2.0, ""), (1.0, 2.0, "clipped to 1, and 2 was meant"), (None, 2.0, "not clipped to 2"),
     (4.0, 2.0, "have norm 4: they are not clipped to 2"), (1e6, 1e6, "")],
)  # fmt: skip
def test_a_clip_norm_that_is_not_the_one_meant(used: float | None, meant: float, told: str) -> None:
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(10))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    watch = RateWatch(optimizer, peak=0.1, clip_norm=meant)
    for _ in range(20):
        parameter.grad = 3 * torch.randn(10)
        if used is not None:
            torch.nn.utils.clip_grad_norm_([parameter], used)
        optimizer.step()
    assert len(watch.findings) == bool(told) and told in "".join(watch.findings)
