"""A NaN is stopped in the step in which it appears, and named."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset

from safeloader import DataLoader
from safeloader.training import FiniteGuard, NonFiniteError
from safeloader.training.denormals import denormal_share
from safeloader.training.scan import leaves, norms, not_finite

NAN, INF = float("nan"), float("inf")


class Numbers(Dataset[dict[str, Any]]):
    """Some of the samples are not finite."""

    def __init__(self, bad: tuple[int, ...] = (), value: float = NAN) -> None:
        self.bad = bad
        self.value = value

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.full((3, 4), 1.0 + index)
        if index in self.bad:
            image[1, 2] = self.value
        return {"image": image, "label": index}


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))


def _train(model: nn.Module, guard: FiniteGuard, loader: Any) -> Iterator[bool]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for batch in guard.batches(loader):
        optimizer.zero_grad()
        loss = model(batch["image"]).square().mean()
        loss.backward()
        allowed = guard.allows_step(loss)
        if allowed:
            optimizer.step()
        yield allowed


def _backward(model: nn.Module) -> torch.Tensor:
    loss: torch.Tensor = model(torch.randn(5, 12)).square().mean()
    model.zero_grad()
    loss.backward()
    return loss


# ---------------------------------------------------------------- where it is


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_named_by_its_dataset_index(model: nn.Module, workers: int) -> None:
    order = list(reversed(range(24)))
    with DataLoader(Numbers((7, 4)), batch_size=4, sampler=order, num_workers=workers) as loader:
        steps = _train(model, FiniteGuard(model), loader)
        for _ in range(4):
            assert next(steps)
        with pytest.raises(NonFiniteError) as caught:
            next(steps)
    error = caught.value
    assert (error.kind, error.names, error.batch, error.indices) == ("batch", ["image"], 4, [7, 4])
    assert error.what == "batch 4 is not finite: image (2 NaN of 48), of samples 7, 4"
    assert "open these samples" in error.hint


def test_of_a_loader_that_does_not_tell_the_positions_are_named(model: nn.Module) -> None:
    with pytest.raises(
        NonFiniteError, match=r"batch 1 is not finite: image \(1 Inf of 48\), at positions 2 in"
    ) as caught:
        list(_train(model, FiniteGuard(model), TorchLoader(Numbers((6,), -INF), batch_size=4)))
    assert caught.value.indices is None


def test_indices_can_be_told_by_hand(model: nn.Module) -> None:
    with pytest.raises(NonFiniteError, match="of samples b") as caught:
        FiniteGuard(model).batch(torch.tensor([[1.0], [NAN]]), indices=["a", "b"])
    assert caught.value.indices == ["b"] and caught.value.batch is None


def test_weights_are_named_before_the_loss_and_the_gradients_that_follow_from_them(model: nn.Module) -> None:
    guard = FiniteGuard(model)
    with torch.no_grad():
        model[4].weight[0, 1] = NAN
    with pytest.raises(NonFiniteError, match=r"the weights are not finite: 4.weight \(1 NaN of 6\)") as caught:
        guard.allows_step(_backward(model))
    assert (caught.value.kind, caught.value.names) == ("weights", ["4.weight"])
    assert [line.partition(":")[0] for line in caught.value.story] == [
        "the loss is not finite",
        "the gradients are not finite",
    ]
    assert "newest good checkpoint" in caught.value.hint


def test_running_statistics_are_weights_too(model: nn.Module) -> None:
    guard = FiniteGuard(model)
    model[2].running_var[3] = INF
    with pytest.raises(NonFiniteError, match=r"2.running_var \(1 Inf of 6\)"):
        guard.allows_step(_backward(model))


def test_a_loss_that_is_not_finite_is_named_although_no_gradient_shows_it(model: nn.Module) -> None:
    guard = FiniteGuard(model)
    loss = _backward(model)
    with pytest.raises(NonFiniteError, match=r"the loss is not finite: loss \(1 Inf of 1\)"):
        guard.allows_step(loss.detach() + INF)


def test_gradients_are_named_by_their_parameters(model: nn.Module) -> None:
    guard = FiniteGuard(model)
    loss = _backward(model)
    model[1].bias.grad[2] = NAN
    with pytest.raises(NonFiniteError, match=r"the gradients are not finite: 1.bias \(1 NaN of 6\)") as caught:
        guard.allows_step(loss)
    assert caught.value.kind == "gradients"


def test_a_model_that_is_not_finite_at_the_beginning_is_refused(model: nn.Module) -> None:
    with torch.no_grad():
        model[1].weight[0, 0] = NAN
    with pytest.raises(NonFiniteError, match=r"not finite before the first step: 1.weight"):
        FiniteGuard(model)


def test_what_is_on_a_device_without_values_is_left_out_and_the_rest_is_looked_at(model: nn.Module) -> None:
    both = nn.ModuleList([model, nn.Linear(2, 2, device="meta")])
    guard = FiniteGuard(both)
    assert guard.batch([torch.ones(2, device="meta"), torch.ones(2)]) is not None
    assert guard.allows_step()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(NonFiniteError, match="the weights are not finite: 0\\."):
        guard.allows_step()


def test_a_mask_of_infinities_is_meant(model: nn.Module) -> None:
    model.register_buffer("mask", torch.full((2, 2), -INF))
    guard = FiniteGuard(model)
    assert guard.allows_step(_backward(model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_a_norm_that_overflows_is_no_false_alarm(dtype: torch.dtype) -> None:
    real = torch.float32 if dtype.is_complex else dtype
    large = torch.full((64,), torch.finfo(real).max / 2, dtype=dtype)
    assert not_finite({"w": large}) == []
    (found,) = not_finite({"w": torch.cat([large, torch.tensor([INF], dtype=dtype)])})
    assert found.total == 65


def test_the_gradient_norm_is_that_of_torch(model: nn.Module) -> None:
    guard = FiniteGuard(model)
    assert guard.allows_step(_backward(model))
    assert guard.gradient_norm == pytest.approx(float(nn.utils.clip_grad_norm_(model.parameters(), INF)))


def test_sparse_gradients_are_looked_at() -> None:
    model = nn.Embedding(10, 3, sparse=True)
    guard = FiniteGuard(model)
    model(torch.tensor([1, 2, 1])).sum().backward()
    assert guard.allows_step()
    model.zero_grad()
    (model(torch.tensor([4])).sum() * NAN).backward()
    with pytest.raises(NonFiniteError, match="gradients"):
        guard.allows_step()


def test_weights_are_looked_at_as_often_as_asked(model: nn.Module) -> None:
    guard = FiniteGuard(model, weights_every=3)
    assert guard.allows_step(_backward(model))
    model[2].running_mean[0] = NAN  # in training, nothing else shows it
    assert guard.allows_step(_backward(model))
    assert guard.allows_step(_backward(model))
    with pytest.raises(NonFiniteError, match="running_mean"):
        guard.allows_step(_backward(model))


# ---------------------------------------------------------------- any nesting


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass(frozen=True)
class Record:
    pixels: Any
    name: str = "a"


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


BAD = torch.tensor([[1.0], [NAN]])
NESTED = [
    ([torch.ones(2), (BAD,)], "[1][0]"),
    ({"a": {"b": [BAD]}}, "a.b[0]"),
    ({3: BAD}, "[3]"),
    (Pair(torch.ones(2), BAD), "right"),
    ([Record(BAD)], "[0].pixels"),
    ({"x": Plain(BAD)}, "x.value"),
    ({"x": BAD.numpy()}, "x"),
    ({"x": BAD.numpy()[::-1]}, "x"),
    ({"x": BAD.numpy().astype(">f8")}, "x"),
    ([1.0, NAN], "[1]"),
    (BAD, "the batch"),
    (BAD.to(torch.float16), "the batch"),
    (BAD * 1j, "the batch"),
]


def _values(batch: Any) -> list[Any]:
    """A copy of all numbers in it."""
    return [np.asarray(leaf).copy() for _, leaf in leaves(batch)]


@pytest.mark.parametrize(("batch", "name"), NESTED, ids=[name for _, name in NESTED])
def test_batches_of_any_nesting_are_looked_at_and_mended_without_touching_them(
    model: nn.Module, batch: Any, name: str
) -> None:
    with pytest.raises(NonFiniteError) as caught:
        FiniteGuard(model).batch(batch)
    assert caught.value.names == [name]
    before = _values(batch)
    handed_out = FiniteGuard(model, action="skip_step").batch(batch)
    after = _values(batch)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after, strict=True))
    assert type(handed_out) is type(batch)
    mended = _values(handed_out)
    assert len(mended) == len(before) and all(np.isfinite(leaf).all() for leaf in mended)


def test_a_batch_that_holds_itself_ends(model: nn.Module) -> None:
    batch: dict[str, Any] = {"x": BAD}
    batch["me"] = batch
    handed_out = FiniteGuard(model, action="skip_step").batch(batch)
    assert torch.isfinite(handed_out["x"]).all()


def test_what_holds_no_numbers_is_handed_out_as_it_is(model: nn.Module) -> None:
    batch = [torch.tensor([1, 2]), "text", None, b"x", {1, 2}, np.array(["a"]), np.array([object()]), object()]
    guard = FiniteGuard(model)
    assert guard.batch(batch) is batch
    assert guard.batch(torch.zeros(0)) is not None


# ---------------------------------------------------------------- what is done


def test_a_skipped_step_changes_nothing_and_the_next_one_counts(model: nn.Module) -> None:
    guard = FiniteGuard(model, action="skip_step")
    loader = DataLoader(Numbers((9,)), batch_size=4)
    before: dict[str, torch.Tensor] = {}
    for number, allowed in enumerate(_train(model, guard, loader)):
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        same = bool(before) and all(torch.equal(before[name], weight) for name, weight in weights.items())
        assert allowed == (number != 2) and same == (number == 2)
        before = weights
    assert guard.skipped == 1 and guard.steps == 6
    (trouble,) = guard.troubles
    assert (trouble.kind, trouble.batch, trouble.indices, trouble.positions) == ("batch", 2, [9], [1])
    assert all(torch.isfinite(value).all() for value in model.state_dict().values()), "running statistics stay whole"


def test_weights_that_are_not_finite_are_not_skipped_over(model: nn.Module) -> None:
    guard = FiniteGuard(model, action="skip_step")
    with torch.no_grad():
        model[1].weight[0, 0] = INF
    with pytest.raises(NonFiniteError, match="weights"):
        guard.allows_step(_backward(model))


def test_a_run_that_only_skips_is_ended(model: nn.Module) -> None:
    guard = FiniteGuard(model, action="skip_step", most_skips=3)
    for _ in range(3):
        assert not guard.allows_step(_nan_loss(model))
    with pytest.raises(NonFiniteError, match="4 steps in a row would be skipped"):
        guard.allows_step(_nan_loss(model))


def _nan_loss(model: nn.Module) -> torch.Tensor:
    loss = model(torch.randn(5, 12)).square().mean() * NAN
    model.zero_grad()
    loss.backward()
    return loss


def test_a_warning_lets_everything_pass_and_does_not_flood_the_log(
    model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    guard = FiniteGuard(model, action="warn")
    with caplog.at_level(logging.WARNING, logger="safeloader"):
        for number in range(100):
            batch = guard.batch(BAD, number=number)
            assert batch is BAD
            assert guard.allows_step(torch.tensor(1.0))
    assert 10 <= len(caplog.records) <= 14
    assert "batch 0 is not finite" in caplog.messages[0]
    assert len(guard.troubles) == 100 and guard.skipped == 0


def test_a_guard_that_is_attached_to_an_optimizer_needs_no_call(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    guard = FiniteGuard(model, action="skip_step")
    handle = guard.attach(optimizer)
    _backward(model)
    optimizer.step()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    _nan_loss(model)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert guard.skipped == 1
    handle.remove()
    _nan_loss(model)
    optimizer.step()
    assert any(not torch.isfinite(parameter).all() for parameter in model.parameters())


def test_a_gradient_scaler_may_skip_steps_by_itself_but_not_for_ever(model: nn.Module) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**125)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    guard = FiniteGuard(model, scaler=scaler, most_skips=15)
    scales = [scaler.get_scale()]
    for _ in range(25):
        optimizer.zero_grad()
        loss = 1e4 * model(torch.randn(5, 12)).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        assert guard.allows_step(loss)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales[1] < scales[0] and scales[-1] == scales[-2], "it went down, and then its steps were finite"
    assert guard.troubles == []
    guard = FiniteGuard(model, scaler=scaler, most_skips=2)
    for _ in range(2):
        loss = _backward(model)
        model[1].bias.grad[0] = INF
        assert guard.allows_step(loss)
    with pytest.raises(NonFiniteError, match="gradients"):
        guard.allows_step(loss)


@pytest.mark.parametrize("wrong", [{"action": "stop"}, {"weights_every": -1}, {"most_skips": 0}])
def test_arguments_out_of_range_are_refused(model: nn.Module, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"action=|at least"):
        FiniteGuard(model, **wrong)


# ---------------------------------------------------------------- denormals


def test_denormal_numbers_are_counted() -> None:
    assert denormal_share(torch.tensor([0.0, 1.0, 1e-40, -1e-42])) == 0.5
    assert denormal_share(torch.tensor([0.0, 1e-40], dtype=torch.float64)) == 0.0
    assert denormal_share(torch.tensor([6e-8, 1.0], dtype=torch.float16)) == 0.5
    assert denormal_share(torch.zeros(0)) == 0.0


def test_weights_and_gradients_of_denormal_numbers_are_named_once(
    model: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    guard = FiniteGuard(model, denormals_every=2)
    with torch.no_grad():
        model[4].weight[:, :3] = 1e-40
    with caplog.at_level(logging.WARNING, logger="safeloader"):
        for _ in range(5):
            assert guard.allows_step(_backward(model))
    assert guard.denormals["4.weight"] == 0.5
    (message,) = [text for text in caplog.messages if "4.weight" in text]
    assert "many denormal numbers" in message and "set_flush_denormal" in message


def test_norms_tell_nan_and_infinity_apart_from_every_finite_value() -> None:
    fine = [torch.randn(3, 4), torch.randn(5).double(), torch.zeros(0), torch.tensor(2.0), torch.ones(3).bfloat16()]
    found = norms([*fine, torch.ones(4, dtype=torch.complex64), torch.tensor([3.0, 4.0]).to_sparse()])
    assert found[2:] == pytest.approx([0.0, 2.0, 3**0.5, 2.0, 5.0], rel=0.01)
    assert norms([]) == []
    bad = norms([*fine, BAD, torch.tensor([1.0, float("inf")])])
    assert [math.isfinite(value) for value in bad] == [True] * 5 + [False] * 2


# ---------------------------------------------------------------- what the optimizer steps


def _bad_gradient(parameter: torch.Tensor, value: float = NAN) -> None:
    parameter.grad = torch.full_like(parameter, value)


@pytest.mark.parametrize("action", ["raise", "skip_step"])
def test_a_layer_that_is_unfrozen_later_is_guarded(model: nn.Sequential, action: Any) -> None:
    """As Lightning's finetuning callbacks do it: unfreeze, then a new group of parameters."""
    model[1].requires_grad_(False)
    optimizer = torch.optim.AdamW(model[4].parameters(), lr=0.1)
    guard = FiniteGuard(model, action=action)
    assert guard.allows_step(_backward(model))
    optimizer.step()
    model[1].requires_grad_(True)
    optimizer.add_param_group({"params": list(model[1].parameters())})
    _backward(model)
    _bad_gradient(model[1].weight)
    if action == "raise":
        with pytest.raises(NonFiniteError, match=r"1\.weight"):
            guard.allows_step()
        return
    assert not guard.allows_step()
    optimizer.step()
    assert torch.isfinite(model[1].weight).all()


@pytest.mark.parametrize("how", ["given", "found when it steps", "attached"])
def test_a_temperature_of_the_loss_is_guarded(model: nn.Sequential, how: str) -> None:
    temperature = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([*model.parameters(), temperature], lr=0.1)
    guard = FiniteGuard(model, action="skip_step", optimizer=optimizer if how == "given" else None)
    if how == "attached":
        guard.attach(optimizer)
    for step in range(3):
        optimizer.zero_grad()
        loss = model(torch.randn(5, 12)).square().mean() * temperature
        loss.backward()
        before = [p.clone() for p in (*model.parameters(), temperature)]
        if step != 1:
            _bad_gradient(temperature)
        allowed = how == "attached" or guard.allows_step(loss)
        assert allowed or how == "given" or step > 0, "an optimizer that has not stepped yet is not known"
        if allowed:
            optimizer.step()
        after = [*model.parameters(), temperature]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) == (step != 1)
    assert (guard.skipped, [t.names for t in guard.troubles]) == (2, [["optimizer.param_groups[0][6]"]] * 2)


def test_a_head_that_is_added_later_is_guarded(model: nn.Sequential) -> None:
    guard = FiniteGuard(model)
    model.append(nn.Linear(1, 2))
    _bad_gradient(model[5].bias)
    with pytest.raises(NonFiniteError, match=r"5\.bias"):
        guard.allows_step()


def test_another_models_optimizer_is_none_of_its_business(model: nn.Sequential) -> None:
    other = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    guard = FiniteGuard(model)
    guard.allows_step(_backward(model))
    _bad_gradient(other.weight)
    optimizer.step()
    assert guard.allows_step(_backward(model))


def test_lazy_layers_are_guarded_when_they_are_made() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))
    guard = FiniteGuard(model)
    model(torch.randn(2, 5)).sum().backward()
    assert guard.allows_step()
    _bad_gradient(model[0].weight)
    with pytest.raises(NonFiniteError, match=r"0\.weight"):
        guard.allows_step()


# ---------------------------------------------------------------- not finite on purpose


class Causal(nn.Module):
    """Registers its mask in the first forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "mask"):
            self.register_buffer("mask", torch.full((4, 4), -INF).triu(1))
        return torch.softmax(self.inner(x) + self.mask, -1)


def test_a_mask_registered_in_the_first_forward_is_meant() -> None:
    model = Causal()
    guard = FiniteGuard(model)
    for _ in range(2):
        model(torch.randn(4, 4)).sum().backward()
        assert guard.allows_step()
    model.mask[0, 0] = NAN
    assert guard.allows_step(), "a buffer that is meant not to be finite is not looked at"


def test_a_buffer_that_appears_with_nan_is_trouble_unless_said(model: nn.Sequential) -> None:
    guards = FiniteGuard(model), FiniteGuard(model, may_be_nan=["*.best"])
    model[1].register_buffer("best", torch.tensor(NAN))
    assert guards[1].allows_step()
    with pytest.raises(NonFiniteError, match=r"1\.best"):
        guards[0].allows_step()


def test_nan_targets_that_the_loss_masks(model: nn.Sequential) -> None:
    image, target = torch.ones(2, 12), torch.tensor([1.0, NAN])
    guard = FiniteGuard(model, action="skip_step", may_be_nan=["[[]1]", "target"], may_be_infinite=["weight"])
    assert guard.batch((image, target))[1] is target
    assert FiniteGuard(model, may_be_nan=["[1]"]).batch([image, target])[1] is target
    bad = {"image": image * INF, "target": target, "weight": torch.tensor([INF])}
    handed = guard.batch(bad)
    assert torch.equal(handed["image"], image * 0) and handed["target"] is target and handed["weight"] is bad["weight"]
    with pytest.raises(NonFiniteError, match="weight"):
        FiniteGuard(model, may_be_infinite=["weight"]).batch({"weight": torch.tensor([NAN])})


# ---------------------------------------------------------------- several batches a step


@pytest.mark.parametrize("bad", [0, 1, 2, 3])
def test_the_first_bad_batch_of_an_accumulated_step_is_named_first(model: nn.Sequential, bad: int) -> None:
    guard = FiniteGuard(model)
    for number in range(4):
        guard.batch(torch.ones(2), number=10 + number, indices=[2 * number, 2 * number + 1])
        loss = model(torch.randn(5, 12)).square().mean() * (NAN if number == bad else 1.0)
        loss.backward()
    with pytest.raises(NonFiniteError) as caught:
        guard.allows_step(loss if bad == 3 else None)
    error = caught.value
    assert error.indices is not None and sorted(error.indices) == list(range(8))
    if bad < 3:
        assert (error.batch, error.indices[:2]) == (10 + bad, [2 * bad, 2 * bad + 1])
        assert f"first seen after batch {10 + bad}" in str(error)
    assert "a step of 4 batches" in str(error)


# ---------------------------------------------------------------- half precision


def test_half_gradients_whose_norm_is_too_large_for_half(model: nn.Sequential) -> None:
    half = model.half()
    guard = FiniteGuard(half, action="skip_step")
    for p in half.parameters():
        p.grad = torch.full_like(p, 60000.0)
    assert guard.allows_step()
    assert guard.gradient_norm is not None and 1e5 < guard.gradient_norm < INF


def test_gradients_that_are_still_scaled_have_their_true_norm(model: nn.Sequential) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    guard = FiniteGuard(model, scaler=scaler, optimizer=optimizer)
    norms_seen = []
    for unscale in (False, True):
        torch.manual_seed(1)
        optimizer.zero_grad()
        scaler.scale(model(torch.randn(5, 12)).square().mean()).backward()
        if unscale:
            scaler.unscale_(optimizer)
        assert guard.allows_step()
        norms_seen.append(guard.gradient_norm)
    assert norms_seen[0] == pytest.approx(norms_seen[1], rel=1e-3)


# ---------------------------------------------------------------- steps with a closure


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
@pytest.mark.parametrize("action", ["raise", "skip_step"])
def test_a_nan_inside_lbfgs_leaves_weights_and_history_as_they_were(action: Any, search: str | None) -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1), torch.randn(16, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4, line_search_fn=search)
    guard = FiniteGuard(model, action=action)
    handle = guard.attach(optimizer)
    bad = False

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean() * (NAN if bad else 1.0)
        loss.backward()
        return loss

    optimizer.step(closure)
    before = [p.detach().clone() for p in model.parameters()]
    bad = True
    if action == "raise":
        with pytest.raises(NonFiniteError):
            optimizer.step(closure)
    else:
        optimizer.step(closure)
        assert guard.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    bad = False
    optimizer.step(closure)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    handle.remove()
