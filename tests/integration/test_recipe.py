"""The parts of incident 4's recipe; what the whole does on two ranks is in test_incidents.py."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.incidents.recipe.data import Crops
from benchmarks.incidents.recipe.plan import square_root
from safeloader.training import Average, disagreement, fingerprint, linear_scaling
from tests.runtime.harness import environment


def test_the_linear_rate_is_that_which_was_right_then() -> None:
    assert linear_scaling(0.1, 2048) == pytest.approx(0.8)
    assert square_root(6.4, 16) == 4 * linear_scaling(6.4, 16), "3.2 in place of 0.8"


def test_the_average_holds_weights_and_running_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    average, expected = Average(model, 0.9), {}
    for step in range(4):
        model(torch.randn(8, 4) + step).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update_parameters(model)
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                before = expected.get(name, value.clone())
                expected[name] = 0.9 * before + 0.1 * value
    average.settle()
    held = average.module.state_dict()
    assert {"1.running_mean", "1.running_var", "0.weight"} <= set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(held[name], value)
    assert disagreement(average) == ""


def test_two_models_have_one_print_only_if_all_of_them_is_equal() -> None:
    model = nn.BatchNorm1d(2)
    other = copy.deepcopy(model)
    assert fingerprint(model) == fingerprint(other)
    other.running_mean += 1e-6
    assert fingerprint(model) != fingerprint(other)


def test_crops_for_training_and_validation_share_no_pixel() -> None:
    """Each picture is replaced by one whose pixels tell their column."""
    columns = Image.merge("RGB", [Image.linear_gradient("L").rotate(90).resize((700, 400))] * 3)
    places = {}
    for part in ("train", "val"):
        crops = Crops(part)
        assert len(crops) == crops.each * 16
        crops._pictures = [columns] * 16
        seen = [crops[index][0] for index in range(0, len(crops), 7)]
        places[part] = (min(int(pixels.min()) for pixels in seen), max(int(pixels.max()) for pixels in seen))
    (low, high), (first, last) = sorted(places.values())
    assert low < high <= first < last


def test_where_ffcv_is_missing_the_incident_says_so() -> None:
    program = (
        "import sys, runpy; sys.modules['ffcv'] = None; sys.argv = ['ffcv_ranks', '--with']\n"
        "runpy.run_module('benchmarks.incidents.ffcv_ranks', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False, env=environment(),
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "RESULT" in done.stdout and "make ffcv" in done.stdout
