"""One call puts everything back, to the byte; or says why not, and changes nothing."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from safeloader.training import CheckpointError, CheckpointStore, MetricWatch, resume
from safeloader.training.atomic_file import read, write
from safeloader.training.safe_types import to_plain, to_values
from tests.training.conftest import Run


class Counting:
    """Batches of numbers, with a state: the least that a loader needs to be resumed in the middle of an epoch."""

    def __init__(self) -> None:
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "order": np.arange(3)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert isinstance(state["order"], np.ndarray) and state["order"].tolist() == [0, 1, 2]
        self.at = state["at"]


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.NAdam])
def test_a_resumed_run_goes_on_to_the_byte(store: CheckpointStore, optimizer: type[torch.optim.Optimizer]) -> None:
    straight = Run(optimizer=optimizer)
    straight.train(5)
    store.save(5, **straight.parts)
    losses = straight.train(5)
    broken = Run(seed=99, optimizer=optimizer)
    resumed = resume(store, **broken.parts)
    assert resumed and resumed.step == 5 and resumed.notes == []
    assert broken.train(5) == losses
    assert broken.weights() == straight.weights()
    assert broken.scheduler.state_dict() == straight.scheduler.state_dict()


def test_all_three_generators_are_put_back(store: CheckpointStore) -> None:
    def draws() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.randn()), float(torch.randn(()))]

    random.gauss(0, 1)
    np.random.randn()
    store.save(1)
    expected = draws()
    draws()
    assert resume(store)
    assert draws() == expected


def test_the_loader_goes_on_where_it_was(store: CheckpointStore, run: Run) -> None:
    loader = Counting()
    loader.at = 17
    store.save(1, loader=loader, **run.parts)
    again = Counting()
    assert resume(store, loader=again, **run.parts).notes == []
    assert again.at == 17


def test_what_else_has_a_state_is_resumed_too(store: CheckpointStore, run: Run) -> None:
    watch, scaler = MetricWatch("iou"), torch.amp.GradScaler("cpu", init_scale=512.0)
    for step, value in enumerate([0.1, 0.5, 0.4]):
        watch.update(value, step)
    scaler.scale(torch.ones(()))
    store.save(1, watch=watch, scaler=scaler, **run.parts)
    fresh, other = MetricWatch("iou"), torch.amp.GradScaler("cpu", init_scale=2.0)
    resume(store, watch=fresh, scaler=other, **run.parts)
    assert fresh.state_dict() == watch.state_dict() and fresh.best == 0.5
    assert other.state_dict() == scaler.state_dict()


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4]),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
        lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.001, 0.1),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o, [torch.optim.lr_scheduler.ConstantLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)], [2]
        ),
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o),
    ],
)
def test_the_state_of_each_of_torchs_schedulers_is_plain(store: CheckpointStore, run: Run, make: Any) -> None:
    optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1)
    scheduler = make(optimizer)
    optimizer.step()
    scheduler.step(*([0.5] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))
    store.save(1, scheduler=scheduler)
    again = make(torch.optim.SGD(run.model.parameters(), lr=0.1))
    resume(store, scheduler=again)
    assert again.state_dict() == scheduler.state_dict()


def test_a_wrapped_model_and_a_bare_one_are_the_same(store: CheckpointStore, run: Run) -> None:
    store.save(1, model=nn.DataParallel(run.model))
    again = Run(seed=5)
    resume(store, model=again.model)
    assert again.weights() == run.weights()


def test_module_versions_are_kept(store: CheckpointStore, run: Run) -> None:
    store.save(1, model=run.model)
    found = store.latest_good()
    assert found is not None
    state = to_values(store.load(found).parts["model"])
    assert state._metadata == run.model.state_dict()._metadata  # type: ignore[attr-defined]


# ---------------------------------------------------------------- it does not fit


def _refused(store: CheckpointStore, match: str, run: Run, **parts: Any) -> None:
    """It is refused, and not one weight or generator has changed."""
    weights, generator = run.weights(), torch.get_rng_state()
    with pytest.raises(CheckpointError, match=match):
        resume(store, **{**run.parts, **parts})
    assert run.weights() == weights
    assert torch.equal(torch.get_rng_state(), generator)


def test_another_models_checkpoint_changes_nothing(store: CheckpointStore, run: Run) -> None:
    store.save(1, **run.parts)
    _refused(store, r"model does not fit: 0.weight was \(8, 4\), and is \(9, 4\); .*; and \d+ more", Run(width=9))
    other = Run()
    other.model = nn.Sequential(*list(other.model), nn.Linear(1, 1))
    _refused(store, "4.weight is not in the checkpoint", other)
    _refused(store, "the model has no 3.weight", run, model=run.model[:3])


def _on_two_devices() -> nn.Module:
    """The second device is one that keeps no values, as with an initialization that was put off."""
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))


def test_a_part_on_a_device_that_keeps_no_values_is_neither_saved_nor_resumed(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError, match=r"model\['1.weight'\] is on the meta device"):
        store.save(1, model=_on_two_devices())
    assert store.checkpoints() == []
    store.save(1, model=nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    model = _on_two_devices()
    before = model[0].weight.detach().clone()
    with pytest.raises(CheckpointError, match=r"1\.weight is on the meta device") as caught:
        resume(store, model=model)
    assert "build it" in caught.value.hint
    assert torch.equal(model[0].weight, before), "nothing has been changed"
    assert resume(store, model=model.to_empty(device="cpu"))


def test_another_optimizers_checkpoint_changes_nothing(store: CheckpointStore, run: Run) -> None:
    store.save(1, **run.parts)
    _refused(store, "optimizer does not fit: it was a AdamW, and is a SGD", Run(seed=3, optimizer=torch.optim.SGD))
    some = torch.optim.AdamW(list(run.model.parameters())[:2])
    _refused(store, r"its groups had \[6\] parameters, and have \[2\]", run, optimizer=some)


def test_a_part_that_was_not_saved_is_asked_for_in_vain(store: CheckpointStore, run: Run) -> None:
    store.save(1, model=run.model)
    _refused(store, "it holds no optimizer, scheduler; it holds model", run)


def test_a_part_that_is_not_asked_for_is_noted(store: CheckpointStore, run: Run) -> None:
    store.save(1, loader=Counting(), **run.parts)
    notes = resume(store, model=run.model).notes
    assert notes == [
        "optimizer is in it and was not asked for",
        "scheduler is in it and was not asked for",
        "it holds the loader's state, and no loader was given",
    ]


def _rewritten(store: CheckpointStore, **manifest: Any) -> None:
    found = store.latest_good()
    assert found is not None
    old, payload = read(found.path)
    write(found.path, payload, {**old, **manifest})


def test_another_torch_is_a_note_and_no_refusal(store: CheckpointStore, run: Run) -> None:
    store.save(1, **run.parts)
    _rewritten(store, torch="2.5.0")
    resumed = resume(store, **run.parts)
    assert resumed.notes == [f"it was saved with torch 2.5.0, this is torch {torch.__version__}"]
    assert "note: it was saved with torch 2.5.0" in str(resumed)


def test_another_world_size_is_refused_unless_it_is_meant(store: CheckpointStore, run: Run) -> None:
    store.save(1, loader=Counting(), **run.parts)
    _rewritten(store, world_size=8)
    _refused(store, "saved by 8 ranks, and 1 resume", Run(seed=4), loader=Counting())
    generator = torch.get_rng_state()
    again = Run(seed=4)
    generator = torch.get_rng_state()
    resumed = resume(store, loader=Counting(), other_world_size=True, **again.parts)
    assert again.weights() == run.weights()
    assert "generators and loader are as they were" in resumed.notes[0]
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_best_can_be_resumed_from_in_place_of_the_newest(tmp_path: Path, run: Run) -> None:
    store = CheckpointStore(tmp_path, run="a", best="max")
    store.save(1, metric=0.9, **run.parts)
    best = run.weights()
    run.train(1)
    store.save(2, metric=0.1, **run.parts)
    assert resume(store, checkpoint=store.best_good(), **run.parts).step == 1
    assert run.weights() == best


# ---------------------------------------------------------------- plain values


def test_numpy_and_odd_containers_come_back_as_they_were(store: CheckpointStore) -> None:
    extra = {
        "array": np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::-1],
        "empty": np.zeros((0, 3)),
        "number": np.float32(0.5),
        "bytes": b"\x00\xff",
        "set": {1, 2},
        "frozen": frozenset({3}),
        "queue": deque([1, (2, None)]),
        "ordered": OrderedDict(a=1),
        "large": 1 << 1000,
        7: [True, 1.5, complex(1, 2), torch.Size([3]), torch.float16, torch.device("cpu")],
    }
    store.save(1, extra=extra)
    back = resume(store).extra
    assert np.array_equal(back.pop("array"), extra.pop("array"))
    assert back.pop("empty").shape == extra.pop("empty").shape
    assert back == extra
    assert {key: type(value) for key, value in back.items()} | {"number": float} == {
        key: type(value) for key, value in extra.items()
    } | {"number": float}


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"a": [Path("x")]}, r"extra\['a'\]\[0\] is a pathlib.*put in str\(path\)"),
        ({"a": lambda: 0}, r"extra\['a'\] is a builtins.function.*functions are not saved"),
        ({"a": np.array([object()])}, "numpy.ndarray, which weights_only loading refuses"),
        ({"a": Run}, "is a builtins.type"),
    ],
)
def test_what_could_not_be_loaded_again_is_refused_when_it_is_saved(
    store: CheckpointStore, value: Any, match: str
) -> None:
    with pytest.raises(CheckpointError, match=f"(?s){match}"):
        store.save(1, extra=value)
    assert store.checkpoints() == []


def test_a_part_without_a_state_is_refused(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError, match=r"model is a list, which has no state_dict\(\)"):
        store.save(1, model=[1])


def test_plain_values_and_back_is_the_same() -> None:
    value = {"a": (1, [2.5, None], {"b": np.int64(3)})}
    assert to_values(to_plain(value)) == {"a": (1, [2.5, None], {"b": 3})}
