"""What a FiniteGuard leaves out of a large model's steps, what it sees all the same, and that nothing waits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from safeloader import torch_private
from safeloader.training import CheckpointStore, FiniteGuard, NonFiniteError
from safeloader.training.glance import glance, is_large
from safeloader.training.watched import Watched

NAN = float("nan")


@pytest.fixture
def model() -> nn.Sequential:
    """More than a million parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 8))


def _backward(model: Any, spoil: Any = None) -> torch.Tensor:
    inputs = torch.randn(4, 128)
    if spoil is not None:
        inputs = spoil(inputs)
    model.zero_grad()
    loss: torch.Tensor = model(inputs).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss


class Counts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts numbers that Python asks a tensor for, each of which would wait for an accelerator, and numbers read."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits = 0
        self.read = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.waits += 1
        if "norm" in str(func):
            tensors = args[0] if isinstance(args[0], (list, tuple)) else [args[0]]
            self.read += sum(tensor.numel() for tensor in tensors)
        return func(*args, **(kwargs or {}))


def _counted(guard: FiniteGuard, loss: torch.Tensor) -> Counts:
    counts = Counts()
    with counts:
        assert guard.allows_step(loss)
    return counts


def test_a_large_model_is_read_whole_every_so_many_steps_and_hardly_in_between(model: Any) -> None:
    guard = FiniteGuard(model, large_every=4, denormals_every=0)
    total = 2 * sum(parameter.numel() for parameter in model.parameters()) + 1
    read = [_counted(guard, _backward(model)).read for _ in range(9)]
    assert [number == total for number in read] == [step % 4 == 0 for step in range(9)]
    assert all(number < total / 50 for number in read if number != total)
    guard = FiniteGuard(model, large_every=1, denormals_every=0)
    assert {_counted(guard, _backward(model)).read for _ in range(3)} == {total}


def test_a_small_model_is_read_whole_at_each_step() -> None:
    model: Any = nn.Sequential(nn.Linear(128, 900), nn.ReLU(), nn.Linear(900, 900), nn.Linear(900, 8))
    assert not is_large(Watched(model, (), ()).parameters)
    guard = FiniteGuard(model)
    for place in range(3):
        loss = _backward(model)
        assert guard.allows_step(loss)
        loss = _backward(model)
        model[2].weight.grad[17 + place, 33] = NAN
        with pytest.raises(NonFiniteError, match=r"gradients are not finite: 2\.weight"):
            guard.allows_step(loss)


class Spoil(torch.autograd.Function):
    """Passes on what it gets, and spoils one number of the gradient on its way back."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, row: int, column: int, value: float) -> torch.Tensor:
        ctx.where = row, column, value
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        row, column, value = ctx.where
        spoilt = gradients[0].clone()
        spoilt[row, column] = value
        return spoilt, None, None, None


def _spoilt(tensor: torch.Tensor, row: int, column: int, value: float) -> torch.Tensor:
    passed: torch.Tensor = Spoil.apply(tensor, row, column, value)  # type: ignore[no-untyped-call]
    return passed


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("column", [0, 500, 1023])
def test_one_number_that_backward_spoils_stops_its_step(model: Any, column: int, value: float) -> None:
    """Between two looks at the whole: the loss, all weights and all other gradients are finite."""
    for parameter in [*model[0].parameters(), model[2].bias]:
        parameter.requires_grad_(False)
    guard = FiniteGuard(model, action="skip_step")
    assert guard.allows_step(_backward(model))
    model.zero_grad()
    hidden = _spoilt(model[2](model[1](model[0](torch.randn(4, 128)))), 2, column, value)
    loss = model[4](model[3](hidden)).square().mean()
    loss.backward()
    assert torch.isfinite(loss) and not torch.isfinite(model[2].weight.grad).all()
    assert not guard.allows_step(loss)
    assert guard.troubles[-1].names == ["2.weight"] and model[2].weight.grad is None


@pytest.mark.parametrize("column", [0, 77, 127])
def test_one_number_of_the_input_that_does_not_reach_the_loss_stops_its_step(column: int) -> None:
    """A factor of the gradient: the output that it spoils is masked."""
    layer = nn.Linear(1024, 1024)
    guard = FiniteGuard(layer)
    assert is_large(Watched(layer, (), ()).parameters)
    inputs = torch.randn(4, 1024)
    assert guard.allows_step(layer(inputs).square().mean())
    inputs[1, column] = NAN
    out = layer(inputs)
    loss = torch.where(torch.isfinite(out), out, 0.0).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    with pytest.raises(NonFiniteError, match="gradients are not finite: weight"):
        guard.allows_step(loss)


def test_what_somebody_writes_into_one_weight_shows_in_the_next_loss_or_look(model: Any) -> None:
    guard = FiniteGuard(model, large_every=4)
    assert guard.allows_step(_backward(model))
    with torch.no_grad():
        model[2].weight[17, 33] = NAN
    with pytest.raises(NonFiniteError, match=r"2\.weight \(1 NaN"):
        guard.allows_step(_backward(model))
    with torch.no_grad():  # of a layer that no loss depends on
        model[2].weight[17, 33] = 0.0
    model.unused = nn.Linear(64, 1024)
    guard = FiniteGuard(model, large_every=4)
    model.forward = lambda x: model[4](model[3](model[2](model[1](model[0](x)))))
    assert guard.allows_step(_backward(model))
    with torch.no_grad():
        model.unused.weight[17, 33] = NAN
    for _ in range(3):
        assert guard.allows_step(_backward(model))
    with pytest.raises(NonFiniteError, match=r"unused\.weight \(1 NaN"):
        guard.allows_step(_backward(model))


def test_no_checkpoint_holds_what_a_step_left_out(model: Any, tmp_path: Any) -> None:
    guard, store = FiniteGuard(model), CheckpointStore(tmp_path, run="a")
    assert guard.allows_step(_backward(model))
    with torch.no_grad():
        model[2].weight[17, 33] = NAN
    with pytest.raises(NonFiniteError, match=r"2\.weight"):
        store.save(1, model=model)


def test_long_dimensions_are_looked_along_and_what_has_none_is_read_whole() -> None:
    model = nn.ParameterDict(
        {
            "matrix": torch.randn(512, 256), "thin": torch.randn(1 << 20, 8), "flat": torch.randn(1 << 17),
            "conv": torch.randn(256, 128, 3, 3), "experts": torch.randn(4, 256, 256), "small": torch.randn(64, 64),
        }
    )  # fmt: skip
    chosen = glance([], Watched(model, (), ()).state(), None, step=300, whole=(False, False))
    read: dict[str, list[int]] = {}
    for (kind, name), part in zip(chosen.names, chosen.parts, strict=True):
        assert kind == "weights"
        read.setdefault(name, []).append(part.numel())
    assert read == {
        "matrix": [256, 512], "thin": [8 << 20], "flat": [1 << 17], "conv": [128 * 9, 256 * 9],
        "experts": [1024, 1024], "small": [4096],
    }  # fmt: skip
    matrix = [part for (_, name), part in zip(chosen.names, chosen.parts, strict=True) if name == "matrix"]
    assert torch.equal(matrix[0], model["matrix"][300]) and torch.equal(matrix[1], model["matrix"][:, 44])


def test_the_gradient_norm_is_of_each_step_once_it_was_asked_for(model: Any) -> None:
    guard = FiniteGuard(model, large_every=100)

    def norm() -> float:
        return float(nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()]))

    assert guard.allows_step(_backward(model))
    first = norm()
    assert guard.allows_step(_backward(model))
    assert guard.gradient_norm == pytest.approx(first), "of the last step that was read whole"
    for _ in range(3):
        assert guard.allows_step(_backward(model))
        assert guard.gradient_norm == pytest.approx(norm())


# ---------------------------------------------------------------- told one step later


@pytest.fixture
def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))


def _steps(model: Any, guard: FiniteGuard, spoilt: int, how: str, steps: int = 6) -> int:
    """Train; returns the number of steps that the optimizer made."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        inputs = guard.batch(torch.randn(4, 128), number=step)
        optimizer.zero_grad()
        out = model(inputs)
        if step == spoilt and how == "gradients":
            out = _spoilt(out, 1, 3, NAN)
        loss = out.square().mean() * (NAN if step == spoilt and how == "loss" else 1.0)
        loss.backward()
        if step == spoilt and how == "weights":
            with torch.no_grad():
                model[0].weight[3, 5] = NAN
        if guard.allows_step(loss):
            optimizer.step()
    guard.finish()
    return steps


@pytest.mark.parametrize("spoilt", [0, 3, 5])
@pytest.mark.parametrize("how", ["loss", "gradients", "weights"])
def test_a_verdict_one_step_later_names_the_step_and_its_cause(small: Any, spoilt: int, how: str) -> None:
    guard = FiniteGuard(small, wait_for_device=False)
    with pytest.raises(NonFiniteError) as caught:
        _steps(small, guard, spoilt, how)
    assert caught.value.kind == how and caught.value.batch == spoilt and caught.value.where == f"step {spoilt}"
    assert "wait_for_device=True" in caught.value.hint
    assert guard.steps == min(spoilt + 2, 6)


def test_a_warning_one_step_later_goes_on(small: Any) -> None:
    guard = FiniteGuard(small, action="warn", wait_for_device=False)
    assert _steps(small, guard, 2, "gradients") == 6
    first = guard.troubles[0]
    assert (first.kind, first.step, first.batch) == ("gradients", 2, 2)
    assert {trouble.step for trouble in guard.troubles} == {2, 3, 4, 5}, "the weights are spoilt from then on"


def test_a_healthy_run_is_told_nothing_and_its_norm_is_that_of_the_step_before(small: Any) -> None:
    guard, norms = FiniteGuard(small, wait_for_device=False), []
    for _ in range(4):
        assert guard.allows_step(_backward(small))
        norms.append(float(nn.utils.get_total_norm([parameter.grad for parameter in small.parameters()])))
        assert guard.gradient_norm == (pytest.approx(norms[-2]) if len(norms) > 1 else None)
    guard.finish()
    assert guard.gradient_norm == pytest.approx(norms[-1]) and not guard.troubles


def test_a_norm_that_overflows_is_no_trouble_one_step_later(small: Any) -> None:
    guard = FiniteGuard(small, wait_for_device=False)
    for _ in range(3):
        loss = _backward(small)
        with torch.no_grad():
            for parameter in small.parameters():
                parameter.grad.fill_(3e38)
        assert guard.allows_step(loss)
    guard.finish()
    assert not guard.troubles


def test_steps_that_a_scaler_leaves_out_are_left_to_it_but_not_for_ever(small: Any) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    guard = FiniteGuard(small, scaler=scaler, most_skips=2, wait_for_device=False)

    def step() -> bool:
        loss = _backward(small)
        small[0].weight.grad[0, 0] = NAN
        return guard.allows_step(loss)

    assert [step() for _ in range(3)] == [True] * 3
    with pytest.raises(NonFiniteError, match="gradients"):  # two are let, the third is told at the fourth
        step()


def test_skipping_has_to_know_before_the_step(small: Any) -> None:
    with pytest.raises(ValueError, match="skip_step"):
        FiniteGuard(small, action="skip_step", wait_for_device=False)


def test_nothing_asks_the_device_for_a_number_until_the_next_step(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is the copy on its way, and that alone."""
    reads: list[int] = []

    class Told(list[float]):
        def tolist(self) -> list[float]:
            return self

    def sent(tensor: torch.Tensor) -> Any:
        return Told(tensor.tolist()), lambda: reads.append(1)

    monkeypatch.setattr(torch_private, "sent_to_cpu", sent)
    guard = FiniteGuard(small, wait_for_device=False, denormals_every=0)
    for step in range(4):
        loss = _backward(small)
        with Counts() as counts:
            guard.allows_step(loss)
        assert len(reads) == step, "that of the step before"
        assert counts.waits == 0
