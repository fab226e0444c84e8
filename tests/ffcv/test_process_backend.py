"""FFCV in a supervised process: what kills it costs a replacement, and the batches stay the same."""

from __future__ import annotations

import functools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from safeloader.errors import BadSampleError, BetonError, PipelineError

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def hosted(beton: Path, compiled_code: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One loader for all rows: (loader, its orders). Whatever the orders name is done at label 57."""
    from safeloader import Policy
    from safeloader.ffcv import Loader
    from tests.ffcv import data

    folder = tmp_path_factory.mktemp("orders")
    faults = {name: folder / name for name in ("SIGKILL", "SIGABRT", "SIGBUS", "hang")}
    labels = [data.Dies(57, faults[name], getattr(signal, name)) for name in ("SIGKILL", "SIGABRT", "SIGBUS")]
    pipelines = data.pipelines(labels=(*labels, data.Hangs(57, faults["hang"])))
    policy = Policy(ffcv_mode="process", fallback="off", batch_timeout=4.0, max_restarts=100)
    with Loader(beton, 10, 1, order="RANDOM", seed=3, pipelines=pipelines, policy=policy, name="hosted") as loader:
        yield loader, faults


@pytest.fixture(scope="module")
def expected(beton: Path, compiled_code: Path) -> list[Any]:
    """The same in the trainer, undisturbed."""
    from safeloader import Policy
    from safeloader.ffcv import Loader
    from tests.ffcv import data

    policy = Policy(ffcv_mode="trainer", fallback="off")
    with Loader(beton, 10, 1, order="RANDOM", seed=3, pipelines=data.pipelines(), policy=policy) as loader:
        return list(loader)


def same(got: list[Any], expected: list[Any]) -> bool:
    return len(got) == len(expected) and all(
        torch.equal(a, b) for one, other in zip(got, expected, strict=True) for a, b in zip(one, other, strict=True)
    )


def process_of(loader: Any) -> psutil.Process:
    (iterator,) = loader._ladder.way._loader._safe.iterators
    (process,) = iterator._driver.processes.values()
    return psutil.Process(process.pid)


@pytest.mark.ffcv
def test_an_undisturbed_epoch_is_that_of_the_trainer_to_the_byte(hosted: Any, expected: list[Any]) -> None:
    loader, _ = hosted
    loader.set_epoch(0)
    assert same(list(loader), expected)
    assert not loader.report().faults
    assert loader.report().way == "FFCV in a process with 1 worker"


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "fault", ["SIGKILL", pytest.param("SIGABRT", marks=SLOW), pytest.param("SIGBUS", marks=SLOW), "hang"]
)
def test_a_fault_costs_a_replacement_and_no_byte(hosted: Any, expected: list[Any], fault: str) -> None:
    loader, orders = hosted
    known = len(loader.report().faults)
    orders[fault].touch()
    loader.set_epoch(0)
    assert same(list(loader), expected)
    (row,) = loader.report().faults[known:]
    due = next(n for n, batch in enumerate(expected) if 57 in batch[1])
    assert row.cause == ("hung" if fault == "hang" else "died")
    assert due - 5 <= row.batch <= due, "FFCV works so many batches ahead"
    assert len(row.indices) == 10


@pytest.mark.ffcv
def test_batches_of_tasks_that_wait_are_made_in_their_leases(make: Make, expected: list[Any]) -> None:
    from safeloader.ffcv.engine import EnginePlace
    from safeloader.ffcv.process_backend import HostedBatches
    from safeloader.runtime.child import lookahead

    reserved: dict[int, list[torch.Tensor]] = {}
    recalls = []

    def six_more(recall: Callable[[], None]) -> list[lookahead.WaitingTask]:
        def reserve(batch: int, sizes: list[int]) -> list[torch.Tensor]:
            reserved[batch] = [torch.empty(size, dtype=torch.uint8) for size in sizes]
            return reserved[batch]

        recalls.append(recall)
        return [
            lookahead.WaitingTask(EnginePlace(0, batch, None), functools.partial(reserve, batch))
            for batch in range(number + 1, min(number + 7, len(expected)))
            if batch not in reserved
        ]

    dataset = HostedBatches(make(order="RANDOM", seed=3)._recipe, EnginePlace(0, 0, None))
    dataset.open()
    in_leases = []
    with lookahead.showing(six_more):
        for number in range(len(expected)):
            values, _, _ = dataset[EnginePlace(0, number, None)]
            assert same([values], [expected[number]])
            if number in reserved:
                starts = {memory.data_ptr() for memory in reserved[number]}
                in_leases.append({value.data_ptr() for value in values} == starts)
        assert len(in_leases) == len(expected) - 1
        assert all(in_leases[5:]), "FFCV's thread is never six batches ahead: it knew the leases when it began these"
        number = 2
        dataset[EnginePlace(0, 2, None)]
        thread = dataset._batches._producer
        recalls[-1]()
        assert not thread.is_alive()
        assert same([dataset[EnginePlace(0, 3, None)][0]], [expected[3]])
    dataset._engine.close()


@pytest.mark.slow
def test_a_kill_from_outside(hosted: Any, expected: list[Any]) -> None:
    loader, _ = hosted
    loader.set_epoch(0)
    got = []
    for number, batch in enumerate(loader):
        got.append(batch)
        if number == 3:
            process_of(loader).kill()
    assert same(got, expected)


def test_a_break_and_a_resume_at_the_batch_that_is_due(hosted: Any, expected: list[Any]) -> None:
    loader, _ = hosted
    loader.set_epoch(0)
    iterator = iter(loader)
    head = [next(iterator) for _ in range(5)]
    state = loader.state_dict()
    del iterator
    assert (state["epoch"], state["batch"]) == (0, 5)
    loader.load_state_dict(state)
    assert same(head + list(loader), expected)


@pytest.mark.slow
@pytest.mark.ffcv
def test_a_file_cut_off_under_the_process_is_a_clear_error(make: Make, tmp_path: Path, beton: Path) -> None:
    """F17: the mapping is gone, SIGBUS ends the process; its replacement says why."""
    file = Path(shutil.copy(beton, tmp_path / "cut.beton"))
    loader = make(file, mode="process", batches_ahead=1)
    iterator = iter(loader)
    next(iterator)
    os.truncate(file, 8192)
    with pytest.raises(BetonError, match="cut off from"):
        for _ in iterator:
            pass


@pytest.mark.slow
def test_a_batch_that_always_kills_goes_down_the_ladder_to_an_error_that_names_it(make: Make) -> None:
    from tests.ffcv import data

    loader = make(
        mode="process", pipelines=data.pipelines(labels=(data.Dies(57),)), num_workers=2,
        rules={"fallback": "inline", "bad_sample_attempts": 1},
    )  # fmt: skip
    with pytest.raises(BadSampleError) as caught:
        list(loader)
    assert 57 in caught.value.indices
    assert loader.report().fallbacks == 2


@pytest.mark.slow
def test_what_kills_every_process_ends_in_the_plain_way_with_the_same_samples_in_the_same_order(make: Make) -> None:
    from tests.ffcv import data

    loader = make(
        mode="process", pipelines=data.pipelines(labels=(data.DiesInThreads(57),)),
        rules={"fallback": "inline", "max_restarts": 1, "bad_sample_attempts": 100},
    )  # fmt: skip
    order = [int(sample) for sample in np.random.default_rng(3).permutation(120)]
    assert data.labels_of(loader) == order
    report = loader.report()
    assert (report.way, report.fallbacks) == ("a plain DataLoader with 1 worker", 1)
    assert set(report.causes) == {"died"}


@pytest.mark.slow
def test_corrupt_images_are_noticed_in_a_process_too(make: Make, tmp_path: Path, beton: Path) -> None:
    from tests.ffcv import data
    from tests.ffcv.test_matrix import corrupted, zero_half

    bad = corrupted(beton, tmp_path / "bad.beton", zero_half, (3, 50))
    loader = make(bad, mode="process", rules={"on_bad_sample": "skip"}, pipelines=data.centered())
    assert sorted(data.labels_of(loader)) == [n for n in range(120) if n not in (3, 50)]
    assert sorted(index for _, _, index in loader.report().skipped) == [3, 50]


@pytest.mark.slow
def test_rebuilds_and_breaks_leave_nothing_in_the_process(make: Make) -> None:
    from safeloader.ffcv import ProgressiveResize
    from tests.ffcv import data

    sizes = (24, 40, 16)
    loader = make(
        mode="process",
        pipelines=lambda size: data.pipelines(size),
        resize=ProgressiveResize(lambda epoch: sizes[epoch % 3]),
    )

    def cycles(count: int) -> None:
        for number in range(count):
            for place, _ in enumerate(loader):
                if number % 2 and place == 1:
                    break
        assert len(list(loader)) == 12  # so that nothing of an epoch that was broken off is still at work

    cycles(12)
    process = process_of(loader)
    before, memory = (process.num_threads(), process.num_fds()), process.memory_info().rss
    cycles(60)
    assert process_of(loader) == process
    assert (process.num_threads(), process.num_fds()) == before
    assert process.memory_info().rss < memory + (40 << 20), "bare FFCV keeps 11 MB of each rebuild"


@pytest.mark.slow
def test_an_error_of_the_pipeline_arrives_whole(make: Make) -> None:
    from tests.ffcv import data

    loader = make(mode="process", pipelines=data.pipelines(labels=(data.OnLabels(57),)))
    with pytest.raises(ValueError, match="label 57 is not liked"):
        list(loader)
    untypable = {**data.centered(), "label": [data.IntDecoder(), data.Untypable(5), data.ToTensor()]}
    with pytest.raises(PipelineError, match="cannot be compiled"):
        list(make(mode="process", pipelines=untypable))
