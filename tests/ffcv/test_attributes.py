"""What the user sets on operations and loaders holds from the next epoch on, in every way of running, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safeloader import SettingsError
from safeloader.errors import PipelineError
from safeloader.ffcv import ProgressiveResize
from tests.until import until

Make = Callable[..., Any]
WAYS = ("trainer", "process", "plain")
PLAIN_SLOW = (
    "trainer",
    "process",
    pytest.param("plain", marks=pytest.mark.slow),
)  # a process an epoch, which imports FFCV
pytestmark = [pytest.mark.ffcv, pytest.mark.filterwarnings("ignore:Using a pytorch transform:ResourceWarning")]


@pytest.fixture
def ops(ffcv_is_here: None) -> Any:
    from tests.ffcv import operations

    return operations


@pytest.fixture
def at(make: Make) -> Make:
    """Makes a loader that runs in a given way."""

    def at(way: str, **options: Any) -> Any:
        options = {"batch_size": 40, "order": "SEQUENTIAL", **options}
        mode = "process" if way == "plain" else way
        loader = make(mode=mode, rules={"fallback": "inline"}, **options)
        if way == "plain":
            loader._ladder._rung = len(loader._ladder.steps) - 1
        return loader

    return at


def labels(*operations: Any, jit: bool = False) -> dict[str, Any]:
    from ffcv.fields.basics import IntDecoder
    from ffcv.transforms import ToTensor

    chain = [IntDecoder(), *operations, ToTensor()] if jit else [IntDecoder(), ToTensor(), *operations]
    return {"label": chain, "image": None, "value": None, "array": None}


def sums(loader: Any) -> int:
    return sum(int(batch[0].sum()) for batch in loader)


ALL = 119 * 60  # the sum of the labels 0 to 119


@pytest.mark.parametrize("way", PLAIN_SLOW)
def test_the_size_is_set_on_the_decoder_at_each_epoch_as_ffcv_imagenet_does(at: Make, way: str) -> None:
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.transforms import ToTensor

    decoder = RandomResizedCropRGBImageDecoder((32, 32))
    loader = at(way, pipelines={"image": [decoder, ToTensor()], "label": None, "value": None, "array": None})
    found = []
    for size in (32, 64, 64, 96):
        decoder.output_size = (size, size)
        found.append({tuple(batch[0].shape[1:3]) for batch in loader})
    assert found == [{(32, 32)}, {(64, 64)}, {(64, 64)}, {(96, 96)}]
    decoder.output_size = (0, 0)
    with pytest.raises(PipelineError, match="output_size"):
        iter(loader)


@pytest.mark.parametrize("recompile", [False, True])
@pytest.mark.parametrize("way", PLAIN_SLOW)
def test_what_is_baked_into_compiled_code_is_compiled_again(at: Make, ops: Any, way: str, recompile: bool) -> None:
    table = np.array([1])
    times, looked = ops.Times(1), ops.Looked(table)
    loader = at(way, pipelines=labels(times, looked, jit=True), recompile=recompile)
    found = []
    for factor in (1, 10, 100):
        times.factor = factor
        found.append(sums(loader))
    table[0] = 2
    found.append(sums(loader))
    assert found == [ALL, 10 * ALL, 100 * ALL, 200 * ALL]


@pytest.mark.parametrize("way", PLAIN_SLOW)
def test_attributes_of_python_operations_and_modules(at: Make, ops: Any, way: str) -> None:
    plain, baked, slotted, module = ops.Python(), ops.Baked(), ops.Slotted(), torch.nn.Identity()
    module.register_buffer("unused", torch.zeros(2))
    loader = at(way, pipelines=labels(plain, baked, slotted, module))
    assert sums(loader) == ALL
    plain.settings["offset"][0] = 1
    assert sums(loader) == ALL + 120
    baked.settings = {"offset": [10]}
    slotted.offset = 100
    assert sums(loader) == ALL + 120 * 111
    plain.settings["offset"][0] = 0
    assert sums(loader) == ALL + 120 * 110, "a value that is set back is back"


@pytest.mark.parametrize("way", PLAIN_SLOW)
def test_what_running_changed_is_read_afterwards(at: Make, ops: Any, way: str) -> None:
    counts, shift = ops.Counts(), ops.Shift()
    seen = counts.seen
    loader = at(way, pipelines=labels(shift, counts))
    first = [batch[0] for batch in loader]
    assert [int(batch[0, 0]) % 1000 for batch in first] == [1, 2, 3]
    assert (counts.batches, int(shift.offset), counts.told) == (3, 3, {"last": 122})
    assert counts.seen is seen and len(seen) == 120
    counts.batches = 100
    assert [int(batch[0][0, 0]) % 1000 for batch in loader] == [101, 102, 103]
    assert (counts.batches, int(shift.offset), len(seen)) == (103, 6, 240)


def test_a_state_is_kept_when_its_process_is_lost_and_when_a_way_falls_over(at: Make, ops: Any) -> None:
    from tests.ffcv.test_process_backend import process_of

    counts = ops.Counts()
    loader = at("process", batch_size=5, pipelines=labels(counts))
    numbers = []
    for number, (batch,) in enumerate(loader):
        numbers.append(int(batch[0, 0]) % 1000)
        if number == 4:
            process = process_of(loader)
            process.kill()
            until(lambda process=process: not process.is_running() or process.status() == "zombie")
        if number == 12:
            loader._ladder.close()
            loader._ladder._rung = len(loader._ladder.steps) - 1
    assert numbers == list(range(1, 25))
    assert counts.batches == 24 and sorted(counts.seen) == list(range(120))


def test_a_break_leaves_the_state_of_the_last_batch(at: Make, ops: Any) -> None:
    counts = ops.Counts()
    loader = at("process", batch_size=5, pipelines=labels(counts))
    for number, _ in enumerate(loader):
        if number == 3:
            break
    assert counts.batches == 4
    assert int(next(iter(loader))[0][0, 0]) % 1000 == 5


def test_a_change_that_cannot_be_sent_is_refused(at: Make, ops: Any) -> None:
    operation = ops.Python()
    loader = at("process", pipelines=labels(operation))
    assert sums(loader) == ALL
    operation.settings["more"] = (n for n in range(3))
    with pytest.raises(PipelineError, match=r"Python\.settings .* cannot be sent"):
        iter(loader)


@pytest.mark.parametrize("way", PLAIN_SLOW)
def test_a_function_of_the_size_may_change_what_it_holds(at: Make, ops: Any, way: str) -> None:
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.transforms import ToTensor

    operation = ops.Python()

    def pipelines(size: int) -> dict[str, Any]:
        return labels(operation) | {"image": [CenterCropRGBImageDecoder((size, size), 1.0), ToTensor()]}

    loader = at(way, pipelines=pipelines, resize=ProgressiveResize([(0, 32)]))
    assert sum(int(batch[1].sum()) for batch in loader) == ALL
    operation.settings["offset"][0] = 1
    assert sum(int(batch[1].sum()) for batch in loader) == ALL + 120


def test_a_size_by_hand_and_a_schedule_exclude_each_other(at: Make) -> None:
    from tests.ffcv.data import centered

    pipelines = centered()
    loader = at("trainer", pipelines=pipelines, resize=ProgressiveResize([(0, 24)]))
    assert next(iter(loader))[0].shape[-1] == 24
    pipelines["image"][0].output_size = (48, 48)
    with pytest.raises(SettingsError, match="not both"):
        iter(loader)


def test_a_list_that_is_changed_later_is_said(at: Make, ops: Any, caplog: pytest.LogCaptureFixture) -> None:
    pipelines = labels(ops.Python())
    loader = at("trainer", pipelines=pipelines)
    pipelines["label"].append(ops.Counts())
    assert sums(loader) == sums(loader) == ALL
    assert caplog.text.count("list of operations") == 1


def test_two_loaders_may_share_their_operations(at: Make, ops: Any) -> None:
    shared = labels(ops.Times(2), jit=True)
    first, second = at("trainer", pipelines=shared), at("trainer", pipelines=shared, batch_size=30)
    assert sums(first) == sums(second) == 2 * ALL
    assert all(op.metadata is None and not hasattr(op, "field") for op in shared["label"])


# ---------------------------------------------------------------- FFCV's names


def test_every_public_name_of_ffcvs_loader(at: Make, beton: Path) -> None:
    """Each can be read; setting each has its effect on the next epoch, or is an error."""
    from ffcv.loader import Loader as Bare

    bare = Bare(str(beton), 40, num_workers=1, pipelines=labels(), seed=3)
    loader = at("trainer", pipelines=labels())
    list(loader)
    names = [name for name in {*vars(bare), *dir(Bare)} if not name.startswith("_")]
    assert len(names) >= 20
    plain = (int, str, bool, type(None))
    for name in names:
        theirs, ours = getattr(bare, name), getattr(loader, name)
        if name == "next_epoch":
            assert ours == 1
        elif isinstance(theirs, plain):
            assert ours == theirs, name
        elif isinstance(theirs, np.ndarray):
            assert np.array_equal(ours, theirs), name
        elif not callable(theirs):
            assert type(ours) is type(theirs) or hasattr(ours, "sample_order"), name
        else:
            assert callable(ours)
    settable = {"batch_size", "drop_last", "seed", "indices", "batches_ahead", "recompile", "num_workers", "next_epoch"}
    for name in names:
        if name in settable or callable(getattr(bare, name)):
            continue
        with pytest.raises(SettingsError):
            setattr(loader, name, "something")
    for name in ("batchsize", "os_cache", "order", "next_epoc", "drop_lst"):
        with pytest.raises(SettingsError):
            setattr(loader, name, 1)
    loader.note_of_mine = "kept"
    assert loader.note_of_mine == "kept"


@pytest.mark.timeout(400)  # a process is started for each set of values
@pytest.mark.parametrize("way", PLAIN_SLOW)
def test_what_is_set_on_a_loader_holds_from_the_next_epoch_on(at: Make, way: str) -> None:
    loader = at(way, pipelines=labels(), order="RANDOM", seed=3)
    epochs = [[int(label) for batch in loader for label in batch[0]] for _ in range(2)]
    loader.next_epoch = 1
    iterator = iter(loader)
    again = [int(label) for label in next(iterator)[0]]
    loader.batch_size = 50
    again += [int(label) for batch in iterator for label in batch[0]]
    assert again == epochs[1], "the epoch that runs is as it was"
    assert len(loader) == 2
    loader.drop_last = False
    assert len(loader) == 3 and [len(batch[0]) for batch in loader] == [50, 50, 20]
    loader.indices = [5, 6, 7]
    loader.seed = 4
    loader.batches_ahead, loader.recompile = 2, True
    assert sorted(int(label) for batch in loader for label in batch[0]) == [5, 6, 7]
    assert not loader.report().faults
    for name, wrong in (("batch_size", 0), ("indices", [120]), ("next_epoch", -1), ("seed", "x"), ("batches_ahead", 0)):
        with pytest.raises(SettingsError):
            setattr(loader, name, wrong)


@pytest.mark.parametrize("way", PLAIN_SLOW)
def test_an_order_of_ones_own(at: Make, way: str) -> None:
    from tests.ffcv.data import Backwards

    loader = at(way, pipelines=labels(), drop_last=False)
    loader.traversal_order = Backwards(loader)
    assert [int(label) for batch in loader for label in batch[0]] == list(range(119, 19, -1))
    assert len(loader) == 3
    with pytest.raises(SettingsError, match="TraversalOrder"):
        loader.traversal_order = [1, 2]


def test_filter_gives_a_loader_of_the_samples_that_meet_a_condition(at: Make, ops: Any) -> None:
    """Of those that take part, by their own numbers: FFCV's counts from 0 whatever the indices are."""
    loader = at("trainer", pipelines=labels(), indices=list(range(20, 60)), batch_size=4)
    odd = loader.filter("label", lambda label: int(label) % 2 == 1)
    assert sorted(int(label) for batch in odd for label in batch[0]) == list(range(21, 60, 2))
    assert odd.batch_size == 4
    odd.close()
    with pytest.raises(SettingsError, match="no sample"):
        loader.filter("label", lambda label: False)
    with pytest.raises(SettingsError, match="no pipeline"):
        loader.filter("image", bool)
