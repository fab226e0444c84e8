"""What `Loader` gives: FFCV's samples in FFCV's order, batches that stay valid, state, sizes, no leak."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from safeloader import SettingsError
from safeloader.errors import PipelineError
from safeloader.ffcv import ProgressiveResize

Make = Callable[..., Any]


@pytest.fixture
def d(ffcv_is_here: None) -> Any:
    from tests.ffcv import data

    return data


def same(got: list[Any], expected: list[Any]) -> bool:
    return len(got) == len(expected) and all(
        torch.equal(a, b) for one, other in zip(got, expected, strict=True) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("order", ["SEQUENTIAL", "RANDOM"])
@pytest.mark.parametrize("os_cache", [True, False])
def test_bare_ffcvs_batches_over_two_epochs(make: Make, d: Any, beton: Path, order: str, os_cache: bool) -> None:
    from ffcv.loader import Loader, OrderOption

    bare = Loader(
        str(beton), 16, num_workers=1, os_cache=os_cache, order=OrderOption[order], seed=11, drop_last=False,
        pipelines=d.centered(),
    )  # fmt: skip
    ours = make(
        batch_size=16, pipelines=d.centered(), os_cache=os_cache, order=OrderOption[order], seed=11, drop_last=False
    )
    assert len(ours) == len(bare) == 8
    for _ in range(2):
        expected = [tuple(value.clone() for value in batch) for batch in bare]
        assert same(list(ours), expected)


def test_quasi_random_order_is_a_function_of_the_epoch(make: Make, d: Any) -> None:
    options = {"order": "QUASI_RANDOM", "pipelines": d.centered(), "os_cache": False}
    loader = make(**options)
    first, second = d.labels_of(loader), d.labels_of(loader)
    assert sorted(first) == sorted(second) == list(range(120)) != first
    assert first != second
    other = make(**options)
    other.set_epoch(1)
    assert d.labels_of(other) == second


def test_batches_stay_valid_for_as_long_as_they_are_kept(make: Make, d: Any) -> None:
    loader = make(batch_size=4)
    kept = [(batch, [value.clone() for value in batch]) for batch in loader]
    views = [batch[0][0, 0] for batch, _ in kept]
    copies = [view.clone() for view in views]
    del loader
    gc.collect()
    assert all(torch.equal(a, b) for batch, copy in kept for a, b in zip(batch, copy, strict=True))
    del kept
    assert all(torch.equal(a, b) for a, b in zip(views, copies, strict=True))


def test_without_copies_the_ring_is_ffcvs(make: Make, d: Any) -> None:
    kept = list(make(batch_size=4, copy=False, order="SEQUENTIAL", pipelines=d.centered()))
    assert len({int(label) for batch in kept for label in batch[1]}) < 120
    assert [d.labels_of([b]) for b in make(batch_size=4, copy=False, order="SEQUENTIAL")][7] == [28, 29, 30, 31]


def test_no_pipelines_means_ffcvs_defaults(make: Make, tmp_path: Path, d: Any) -> None:
    loader = make(pipelines={"image": None})
    label, value, array = next(iter(loader))
    assert (label.dtype, tuple(label.shape), value.dtype, tuple(array.shape)) == (
        torch.int64, (10, 1), torch.float64, (10, 2, 3)
    )  # fmt: skip
    assert torch.equal(value, label / 8)
    with pytest.raises(PipelineError, match="SimpleRGBImageDecoder"):
        make(pipelines={})


def test_raw_images(make: Make, d: Any, tmp_path: Path, beton: Path) -> None:
    raw = tmp_path / "raw.beton"
    d.write_file(raw, d.Photographs(30), mode="raw")
    images = next(iter(make(raw, order="SEQUENTIAL", pipelines=d.centered())))[0]
    jpgs = next(iter(make(order="SEQUENTIAL", pipelines=d.centered())))[0]
    assert (images.int() - jpgs.int()).abs().float().mean() < 6


# ---------------------------------------------------------------- chance


def test_augmentation_depends_on_seed_epoch_and_sample_alone(make: Make) -> None:
    """Issue 392. With two workers, too; whatever the batch size."""

    def images(**options: Any) -> torch.Tensor:
        loader = make(order="SEQUENTIAL", **options)
        return torch.cat([batch[0] for batch in loader])

    one = images()
    assert torch.equal(one, images(num_workers=2))
    assert torch.equal(one, images(batch_size=24))
    assert not torch.equal(one, images(seed=4))
    loader = make(order="SEQUENTIAL")
    assert not torch.equal(torch.cat([b[0] for b in loader]), torch.cat([b[0] for b in loader]))
    loader.set_epoch(0)
    assert torch.equal(one, torch.cat([b[0] for b in loader]))


def test_other_compiled_chance_repeats_with_one_worker(make: Make, d: Any) -> None:
    from ffcv.transforms import RandomTranslate

    def images(seed: int) -> torch.Tensor:
        loader = make(pipelines=d.pipelines(32, RandomTranslate(8), flip=False), seed=seed, order="SEQUENTIAL")
        return torch.cat([batch[0] for batch in loader])

    assert torch.equal(images(3), images(3))
    assert not torch.equal(images(3), images(4))


def test_flips_are_fair(make: Make, d: Any) -> None:
    plain, flipped = (
        torch.cat([b[0] for b in make(order="SEQUENTIAL", pipelines=d.pipelines(flip=flip))]) for flip in (False, True)
    )
    mirrored = [bool(torch.equal(a.flip(-1), b)) for a, b in zip(plain, flipped, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, plain, flipped, strict=True))
    assert 35 < sum(mirrored) < 85


# ---------------------------------------------------------------- state


def test_resume_in_the_middle_is_exact_and_goes_on_into_the_next_epoch(make: Make) -> None:
    whole = make()
    expected = list(whole) + list(whole)
    broken = make()
    iterator = iter(broken)
    head = [next(iterator) for _ in range(7)]
    state = broken.state_dict()
    resumed = make()
    resumed.load_state_dict(state)
    assert same(head + list(resumed) + list(resumed), expected)


def test_a_state_after_a_break_goes_on_where_the_loop_was_left(make: Make) -> None:
    whole = make()
    expected = list(whole) + list(whole)
    broken = make()
    head = []
    for batch in broken:
        head.append(batch)
        if len(head) == 5:
            break
    resumed = make()
    resumed.load_state_dict(broken.state_dict())
    assert same(head + list(resumed) + list(resumed), expected)
    broken.set_epoch(1)
    assert (broken.state_dict()["epoch"], broken.state_dict()["batch"]) == (1, 0)


def test_the_end_of_an_epoch_is_a_state_like_any_other(make: Make) -> None:
    loader = make()
    iterator = iter(loader)
    for _ in range(12):
        next(iterator)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (1, 0)
    assert make().state_dict()["batch"] == 0


def test_a_state_of_another_loader_is_refused(make: Make) -> None:
    state = make().state_dict()
    with pytest.raises(SettingsError, match=r"batch_size was 10 and is 12; *|seed was 3 and is 4"):
        make(batch_size=12, seed=4).load_state_dict(state)
    with pytest.raises(SettingsError, match="no state of a safeloader"):
        make().load_state_dict({"epoch": 1})


# ---------------------------------------------------------------- size


def test_the_size_changes_between_epochs_in_place(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    loader = make(resize=ProgressiveResize([(0, 24), (1, 40), (3, 16)]))
    code = None
    for epoch, size in enumerate([24, 40, 40, 16]):
        assert all(batch[0].shape[-2:] == (size, size) for batch in loader)
        code = code or loader._ladder.way._engine.loader.code
        assert loader._ladder.way._engine.loader.code is code, f"compiled anew in epoch {epoch}"
    with caplog.at_level("INFO", "safeloader"):
        loader.set_epoch(0)
        next(iter(loader))
    assert "epoch 0 has images of 24 pixels, after 16" in caplog.text


def test_a_run_resumed_in_mid_schedule_has_the_right_size(make: Make) -> None:
    loader = make(resize=ProgressiveResize([(0, 24), (5, 40)]))
    state = {**loader.state_dict(), "epoch": 7, "batch": 3}
    loader.load_state_dict(state)
    assert next(iter(loader))[0].shape[-1] == 40


def test_validation_has_its_own_size(make: Make, d: Any) -> None:
    train = make(resize=ProgressiveResize([(0, 24), (1, 40)]))
    val = make(pipelines=d.centered(48))
    for size in (24, 40):
        assert {batch[0].shape[-1] for batch in train} == {size}
        assert {batch[0].shape[-1] for batch in val} == {48}


def test_a_factory_is_asked_for_each_size_and_compiles_once(make: Make, d: Any) -> None:
    from safeloader.ffcv import patches

    asked: list[int] = []

    def pipelines(size: int) -> Any:
        asked.append(size)
        return d.pipelines(size)

    loader = make(pipelines=pipelines, resize=ProgressiveResize(lambda epoch: 24 if epoch % 2 else 40))
    asked.clear()
    for size in (40, 24):
        assert {batch[0].shape[-1] for batch in loader} == {size}
    known = len(patches._compiled)
    for size in (40, 24, 40):
        assert {batch[0].shape[-1] for batch in loader} == {size}
    assert asked == [40, 24, 40, 24, 40]
    assert len(patches._compiled) == known


def test_bad_factories_and_sizes(make: Make, d: Any) -> None:
    resize = ProgressiveResize([(0, 24)])
    with pytest.raises(PipelineError, match="ignores the size"):
        make(pipelines=lambda size: d.pipelines(24), resize=resize)
    with pytest.raises(PipelineError, match="returned a list"):
        make(pipelines=lambda size: [size], resize=resize)
    with pytest.raises(PipelineError, match="no resize="):
        make(pipelines=d.pipelines and (lambda size: d.pipelines(size)))
    with pytest.raises(PipelineError, match="no operation of the pipelines has a size"):
        make(pipelines={"image": None}, resize=resize)
    with pytest.raises(PipelineError, match="must be a mapping"):
        make(pipelines=[1])


# ---------------------------------------------------------------- leaks


def belongings() -> tuple[int, int, int]:
    gc.collect()
    process = psutil.Process()
    return threading.active_count(), process.num_fds(), len(process.memory_maps(grouped=False))


def resident() -> float:
    import ctypes

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return psutil.Process().memory_info().rss / 2**20


def test_200_changes_rebuilds_breaks_and_switches_leak_nothing(make: Make, d: Any) -> None:
    """Items 5 and 6: threads, descriptors, mappings and memory at the end are those after the third."""
    sizes = (24, 40, 16, 32)
    changing = ProgressiveResize(lambda epoch: sizes[epoch % 4])
    train = make(resize=changing)
    rebuilt = make(pipelines=lambda size: d.pipelines(size), resize=changing)
    val = make(pipelines=d.centered(), order="SEQUENTIAL")

    def cycle(number: int) -> None:
        loader = rebuilt if number % 4 == 3 else train
        for place, _ in enumerate(loader):
            if number % 2 and place == 1:
                break
        if number % 10 == 0:
            list(val)

    for number in range(12):
        cycle(number)
    before, memory = belongings(), resident()
    for number in range(200):
        cycle(number)
    after = belongings()
    assert after[:2] == before[:2]
    assert after[2] <= before[2] + 4
    assert resident() < memory + 25


def _holds(beton: Path) -> int:
    """How often this process has the file open or mapped; tests before may have left a loader that failed."""
    maps = sum(str(beton) in line for line in Path("/proc/self/maps").read_text().splitlines())
    files = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return maps + sum(os.path.exists(file) and os.readlink(file) == str(beton) for file in files)


def test_closing_gives_the_file_back(make: Make, beton: Path) -> None:
    gc.collect()
    before = _holds(beton)
    loader = make()
    list(loader)
    assert _holds(beton) > before
    loader.close()
    del loader
    gc.collect()
    assert _holds(beton) <= before


# ---------------------------------------------------------------- the plain way


def test_the_plain_way_gives_the_same_samples_with_the_same_crops_and_flips(make: Make, d: Any, beton: Path) -> None:
    from safeloader.ffcv.engine import EnginePlace
    from safeloader.ffcv.torch_backend import PlainSamples

    loader = make()
    expected = list(loader)
    plain = PlainSamples(loader._recipe, EnginePlace(0, 0, None))
    order = np.random.default_rng(3).permutation(120)
    for number in range(3):
        samples = [plain[int(index)] for index in order[10 * number : 10 * number + 10]]
        values, bad, _ = plain.collate(samples)
        assert not bad
        for ours, theirs in zip(values[1:], expected[number][1:], strict=True):
            assert torch.equal(ours, theirs)
        assert values[0].shape == expected[number][0].shape
        difference = (values[0] - expected[number][0]).abs().mean()
        assert difference < 0.1, "another crop, or another flip"
    plain.close()


def test_the_whole_ladder_down_to_the_plain_way_and_up_again(make: Make, d: Any) -> None:
    loader = make(
        mode="trainer", num_workers=1, pipelines=d.pipelines(labels=(d.OnLabels(-1),)), order="SEQUENTIAL",
        rules={"fallback": "inline", "recover_after": 4},
    )  # fmt: skip
    from safeloader.ffcv.backends import FellOver, Step

    loader._ladder.steps = (Step("trainer", 1), Step("plain", 0))
    iterator = iter(loader)
    got = [next(iterator), next(iterator)]
    loader._ladder.way = Broken(loader._ladder.way, FellOver("its thread hung", RuntimeError("hung")))
    got += list(iterator)
    assert d.labels_of(got) == list(range(120))
    assert loader.report().fallbacks == 1
    assert loader.report().way == "a plain DataLoader with 0 workers"
    assert d.labels_of(loader) == list(range(120))
    assert (loader.report().recoveries, loader.report().way) == (1, "FFCV in the trainer with 1 worker")


class Broken:
    """A way that falls over at once; the real one is closed with it."""

    def __init__(self, way: Any, fell: Exception) -> None:
        self._way, self._fell = way, fell

    def next(self) -> Any:
        raise self._fell

    def stop(self) -> None:
        self._way.stop()

    def close(self) -> None:
        self._way.close()


def test_a_loader_under_way_shows_how_far_it_is(make: Make, d: Any) -> None:
    """To ``safeloader top``, and to whoever scrapes or writes numbers: beside loaders of torch's kind."""
    from safeloader.observe import stall

    loader = make(batch_size=16, pipelines=d.centered(), drop_last=False, name="shown")
    for number, _ in enumerate(loader, 1):
        (shown,) = [one for one in stall.status()["loaders"] if one["name"] == "shown"]
        assert (shown["batch"], shown["length"], shown["epoch"]) == (number, 8, 0)
