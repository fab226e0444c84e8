"""What the doctor finds within samples: the stages of their time, their images, and what would make them faster."""

from __future__ import annotations

import functools
import io
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from safeloader.doctor import advice, images, subject
from safeloader.doctor.beton_trial import ffcv_trial
from safeloader.doctor.images import DRAFT, ImagesSeen, Trial
from safeloader.doctor.narrow import Narrow, narrowed
from safeloader.doctor.scaling import Rate, recommend
from safeloader.doctor.stages import STAGES, StageClock, stage_of_function, stage_of_module
from safeloader.doctor.subject import Timing

TIMING = Timing(8, 0.01, 0.02, 3, 0.001, 0.0001, None, 4096)
WAIT = 0.02


def _module(name: str, **names: Any) -> Any:
    module = types.ModuleType(name)
    exec("def act(*inner):\n    wait()\n    [one() for one in inner]\n", vars(module), None)
    vars(module).update({"wait": functools.partial(time.sleep, WAIT), **names})
    return module


def test_the_time_of_a_sample_counts_for_the_deepest_stage_that_is_under_way() -> None:
    reads, decodes, transforms = (_module(name).act for name in ("h5py.inner", "PIL.JpegImagePlugin", "albumentations"))
    clock = StageClock()
    with clock:
        time.sleep(WAIT)
        transforms(functools.partial(decodes, reads, transforms))
    found = dict(zip(STAGES, clock.seconds, strict=True))
    assert found["own code"] >= WAIT
    assert found["transform"] >= WAIT
    assert found["decode"] >= 2 * WAIT, "a transform within decoding is decoding"
    assert found["read"] >= WAIT
    assert sum(clock.shares().values()) == pytest.approx(1)
    assert clock.samples == 1
    assert sys.getprofile() is None


def test_an_error_in_a_sample_ends_the_profile() -> None:
    clock = StageClock()
    with pytest.raises(ZeroDivisionError), clock:
        _module("albumentations", wait=lambda: 1 / 0).act()
    assert sys.getprofile() is None
    with clock:
        time.sleep(WAIT)
    assert clock.seconds[0] >= WAIT, "what the last sample was in when it raised does not count on"
    assert StageClock().shares() == {}


def test_functions_in_c_are_known_by_their_types_and_modules(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as file, path.open("rb", buffering=0) as raw:
        found = [stage_of_function(one) for one in (open, file.read, raw.readinto, torch.ones(1).add, torch.add)]
    assert [STAGES[stage] for stage in found] == ["read", "read", "read", "transform", "transform"]
    assert STAGES[stage_of_function(io.BytesIO().read)] == "own code", "that is memory"
    assert STAGES[stage_of_function([].append)] == "own code"
    assert STAGES[stage_of_module("torchvision.transforms.v2.functional")] == "transform"
    assert STAGES[stage_of_module("my.own")] == "own code"


def test_functions_of_opencv_are_known() -> None:
    cv2 = pytest.importorskip("cv2")
    assert [STAGES[stage_of_function(one)] for one in (cv2.imdecode, cv2.resize)] == ["decode", "transform"]


# ---------------------------------------------------------------- images


class Photographs(Dataset[Any]):
    """JPEG images of 640×480, resized."""

    def __init__(self, folder: Path, made: Callable[[Any], Any]) -> None:
        self.made = made
        self.path = folder / "one.jpg"
        from PIL import Image

        Image.effect_noise((640, 480), 40).convert("RGB").save(self.path)

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> torch.Tensor:
        from PIL import Image

        source: Any = self.path if index % 2 else io.BytesIO(self.path.read_bytes())
        image = self.made(Image.open(source))
        return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(*image.size, 3).float() / 255


def _seen(dataset: Any) -> tuple[subject.Inside, Timing]:
    inside = subject.Inside()
    _, timing = subject.timed(DataLoader(dataset, 8), 60.0, inside)
    assert timing is not None
    return inside, timing


def test_images_that_a_dataset_opens_are_decoded_in_other_ways_and_stay_uint8(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    inside, timing = _seen(Photographs(tmp_path, lambda image: image.convert("RGB").resize((96, 64))))
    assert (inside.images.size, inside.images.target) == ((640, 480), (96, 64))
    assert inside.clock.samples == 8
    assert inside.clock.shares()["decode"] > 0
    assert len(inside.images.contents()) == 8
    found = images.trials(inside.images.contents(), inside.images.target)
    assert [trial.decoder for trial in found[:2]] == ["Pillow", DRAFT]
    assert inside.narrow is not None
    assert inside.narrow.nbytes == 8 * 96 * 64 * 3 == timing.nbytes / 4


@pytest.mark.parametrize(
    "made",
    [
        lambda image: image.crop((0, 0, 200, 200)).resize((64, 64)),
        lambda image: image.resize((400, 300)),
        lambda image: image.draft("RGB", (96, 64)) and image.resize((64, 64)),
    ],
    ids=["a part", "not much smaller", "decoded smaller already"],
)
def test_draft_is_tried_only_where_a_whole_image_becomes_much_smaller(
    tmp_path: Path, made: Callable[[Any], Any]
) -> None:
    pytest.importorskip("PIL")
    inside, _ = _seen(Photographs(tmp_path, made))
    assert inside.images.size == (640, 480)
    assert inside.images.target is None
    assert DRAFT not in {trial.decoder for trial in images.trials(inside.images.contents(), None)}


def test_what_is_no_jpeg_or_cannot_be_decoded_is_left_alone() -> None:
    pytest.importorskip("PIL")
    from PIL import Image

    seen = ImagesSeen()
    seen.attend()
    with StageClock(seen.returned):
        Image.new("RGB", (640, 480)).resize((10, 10))
    assert (seen.size, seen.target, seen.contents()) == (None, None, [])
    assert images.trials([b"nothing"], (10, 10)) == []


def test_float_images_become_bytes_only_where_they_were_some() -> None:
    image = torch.randint(0, 256, (3, 32, 32)).float()
    for whole in (image, image / 255):
        made = narrowed([{"image": whole, "label": 1}], decoded=False)
        assert made is not None
        assert (made[0]["image"].dtype, made[0]["label"]) == (torch.uint8, 1)
    assert narrowed([(image / 255 - 0.5, 1)], decoded=False) is None
    assert narrowed([(image / 255 - 0.5, 1)], decoded=True) is not None
    assert narrowed([torch.zeros(8)], decoded=True) is None
    assert narrowed([image.double()], decoded=True) is None


@pytest.mark.slow
def test_ffcv_is_measured_on_images_of_the_dataset(tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    inside, _ = _seen(Photographs(tmp_path, lambda image: image.convert("RGB").resize((96, 64))))
    found = ffcv_trial(inside.images.contents(), (96, 64))
    assert found is not None
    assert found.decoder == "FFCV (kept as JPEG of at most 110 pixels)"
    assert 0 < found.seconds < 10
    assert "a .beton file" in next(advice.of_decoders([Trial("Pillow", 100.0), found], (96, 64))).hint


def test_an_ffcv_that_does_not_finish_says_nothing() -> None:
    assert ffcv_trial([b"nothing"], (96, 64), 0.01) is None


# ---------------------------------------------------------------- advice


def test_advice_follows_from_where_most_of_the_time_goes() -> None:
    def told(timing: Timing, small: Any = None, image: Any = (1600, 1200), **shares: float) -> advice.Finding:
        return advice.of_stages(shares, timing, image, small)

    read = told(TIMING, read=0.7, decode=0.3)
    assert (read.verdict, "local disk" in read.hint) == ("warn", True)
    assert read.text.startswith("of a sample: reading 70%, decoding (JPEG, 1600×1200) 30%; of a batch: samples 99%,")
    assert "docs/ffcv.md; --ffcv measures" in told(TIMING, decode=0.6).hint
    assert "docs/ffcv.md" in told(TIMING, decode=0.4, transform=0.6, small=(64, 64)).hint, "resizing goes with it"
    assert "on the device" in told(TIMING, decode=0.4, transform=0.6).hint
    assert told(TIMING, **{"own code": 1.0}).verdict == "ok"
    assert "__getitems__" in told(TIMING._replace(sample=1e-6), image=None, transform=1.0).hint
    assert told(TIMING._replace(samples=1, collate=0.1), transform=1.0).verdict == "ok"


def test_other_decoders_and_uint8_are_named_only_where_they_pay() -> None:
    found = list(advice.of_decoders([Trial("Pillow", 0.01), Trial(DRAFT, 0.004), Trial("OpenCV", 0.0095)], (64, 48)))
    assert [finding.hint.split(" after")[0] for finding in found] == ['call image.draft("RGB", (64, 48))']
    assert "takes 4 ms with Pillow with draft, 10 ms with Pillow" in found[0].text
    assert list(advice.of_decoders([], None)) == []
    heavy = TIMING._replace(collate=0.05, transfer=0.03)
    assert advice.of_narrow(Narrow(0.02, 1024), heavy) is not None
    assert advice.of_narrow(Narrow(0.075, 1024), heavy) is None
    assert advice.of_narrow(None, heavy) is None


def test_no_workers_are_recommended_where_the_trainer_alone_is_clearly_faster() -> None:
    rates = [Rate(1, 50.0, 1.0), Rate(2, 60.0, 1.0)]
    found = recommend(rates, 2, 4.0, TIMING._replace(sample=0.001, collate=0.001), None)
    assert found.num_workers == 0
    assert found.reason.startswith("the trainer alone would load 111 batches a second, 2 workers at most 60: samples")
    assert recommend(rates, 2, 4.0, TIMING._replace(sample=0.0016, collate=0.0), None).num_workers == 2, "not clearly"
