"""Every known way for FFCV to hang, crash or lie (F1 to F22, R1 to R4 of docs/ffcv.md): an error or a recovery."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safeloader import LoaderClosedError, Policy, SettingsError
from safeloader.errors import (
    BadSampleError,
    BatchTimeoutError,
    BetonError,
    ForkRefusedError,
    PipelineError,
)
from tests.runtime.harness import environment
from tests.until import is_in, until

Make = Callable[..., Any]


@pytest.fixture
def d(ffcv_is_here: None) -> Any:
    """The operations that fail; imports FFCV, so not before it is known to be there."""
    from tests.ffcv import data

    return data


def copy_of(beton: Path, folder: Path) -> Path:
    return Path(shutil.copy(beton, folder / "copy.beton"))


def ffcv_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "safeloader-ffcv"]


def test_f1_r4_a_pipeline_that_goes_back_to_compiled_code(make: Make, d: Any) -> None:
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.transforms import NormalizeImage, ToTensor, ToTorchImage

    gpu_order = [
        RandomResizedCropRGBImageDecoder((32, 32)), ToTensor(), ToTorchImage(), NormalizeImage(d.MEAN, d.STD, np.float32)
    ]  # fmt: skip
    with pytest.raises(PipelineError, match=r"(?s)NormalizeImage is compiled .* put NormalizeImage before ToTensor"):
        make(pipelines={"image": gpu_order})


def test_f2_an_operation_that_raises(make: Make, d: Any) -> None:
    loader = make(pipelines=d.pipelines(labels=(d.OnLabels(57),)))
    order = [int(sample) for sample in np.random.default_rng(3).permutation(120)]
    due = order.index(57) // 10
    iterator, got = iter(loader), []
    with pytest.raises(ValueError, match="label 57 is not liked"):
        got.extend(iterator)
    assert len(got) == due
    rest = list(iterator)  # the next ones still come
    assert d.labels_of(got + rest) == order[: 10 * due] + order[10 * due + 10 :]
    (fault,) = loader.report().faults
    assert (fault.cause, fault.batch, fault.action) == ("raised", due, "raised")
    assert 57 in fault.indices


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_f2_compiled_code_that_raises_or_cannot_be_compiled(make: Make, d: Any, num_workers: int) -> None:
    from ffcv.fields.basics import IntDecoder
    from ffcv.transforms import ToTensor

    pipelines = {**d.centered(), "label": [IntDecoder(), d.Compiled(5), ToTensor()]}
    iterator = iter(make(pipelines=pipelines, order="SEQUENTIAL", num_workers=num_workers))
    with pytest.raises(ValueError, match="compiled code does not like"):
        next(iterator)
    assert d.labels_of(iterator) == list(range(10, 120))
    with pytest.raises(PipelineError, match="cannot be compiled"):
        list(make(pipelines={**d.centered(), "label": [IntDecoder(), d.Untypable(5), ToTensor()]}))


def test_f3_stop_iteration_is_no_short_epoch(make: Make, d: Any) -> None:
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        list(make(pipelines=d.pipelines(labels=(d.Stops(57),))))
    assert isinstance(caught.value.__cause__, StopIteration)


def test_f4_next_after_the_end_and_after_close(make: Make) -> None:
    loader = make()
    iterator = iter(loader)
    assert len(list(iterator)) == 12
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(iterator)
    iterator = iter(loader)
    next(iterator)
    loader.close()
    with pytest.raises(LoaderClosedError):
        next(iterator)
    with pytest.raises(LoaderClosedError):
        iter(loader)


def test_f5_an_early_break_leaves_no_thread(make: Make) -> None:
    loader = make()
    for _ in range(5):
        for _ in loader:
            break
    assert len(ffcv_threads()) <= 1
    loader.close()
    assert not ffcv_threads()


LEAVES = """
import sys
from safeloader import Policy
from safeloader.ffcv import Loader
from tests.ffcv import data
for end in range(2):
    loader = Loader(sys.argv[1], 10, 1, pipelines=data.centered(), policy=Policy(ffcv_mode="trainer"))
    for batch in loader:
        if end: raise KeyError("the training step fails")
        break
"""


@pytest.mark.slow
def test_f5_a_program_that_breaks_or_fails_ends_as_it_should(beton: Path) -> None:
    """Bare, it aborts now and then: the thread is still at work when the interpreter ends."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVES, str(beton)], capture_output=True, text=True, timeout=110, check=False,
        env=environment(NUMBA_CACHE_DIR=os.environ["NUMBA_CACHE_DIR"]),
    )  # fmt: skip
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (1, "KeyError: 'the training step fails'")
    assert "terminate called" not in done.stderr


def test_f6_closing_while_pages_are_read(make: Make) -> None:
    before = threading.active_count()
    for _ in range(3):
        loader = make(os_cache=False, batches_ahead=8)
        next(iter(loader))
        loader.close()
    assert threading.active_count() == before


def test_f7_a_consumer_that_pauses(make: Make, d: Any) -> None:
    loader, got = make(batches_ahead=1), []
    for number, batch in enumerate(loader):
        got.append(batch)
        if number == 2:
            until(loader._ladder.way._batches._producer.output_queue.full)
    assert sorted(d.labels_of(got)) == list(range(120))


def test_f9_f10_a_fork_of_the_trainer_is_refused(make: Make) -> None:
    loader = make()
    iterator = iter(loader)
    next(iterator)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            next(iterator)
        except ForkRefusedError:
            try:
                iter(loader)
            except ForkRefusedError:
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(iterator)) == 11


@pytest.mark.slow
def test_f11_the_workqueue_layer_is_refused() -> None:
    program = (
        "from safeloader.ffcv.require import require; require()\n"
        "from safeloader.ffcv.engine import threading_layer\n"
        "assert threading_layer(1) == ''\n"
        "try: threading_layer(2)\n"
        "except ValueError as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True,
        env=environment(NUMBA_THREADING_LAYER="workqueue"),
    )  # fmt: skip
    assert "libtbb12" in said.stdout


def test_f12_a_file_that_is_not_there(make: Make, tmp_path: Path, beton: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make(tmp_path / "none.beton")
    gone = copy_of(beton, tmp_path)
    loader = make(gone)
    gone.unlink()
    with pytest.raises(FileNotFoundError):
        list(loader)


@pytest.mark.parametrize("os_cache", [True, False])
def test_f13_a_file_deleted_during_an_epoch(make: Make, tmp_path: Path, beton: Path, os_cache: bool) -> None:
    gone = copy_of(beton, tmp_path)
    loader = make(gone, os_cache=os_cache)
    iterator = iter(loader)
    next(iterator)
    gone.unlink()
    assert len(list(iterator)) == 11
    with pytest.raises(FileNotFoundError):
        list(loader)


@pytest.mark.parametrize("left", [0.5, 0.99, 4096, 10, 0])
def test_f14_a_file_that_is_cut_off(make: Make, tmp_path: Path, beton: Path, left: float) -> None:
    cut = copy_of(beton, tmp_path)
    size = cut.stat().st_size
    os.truncate(cut, int(size * left) if 0 < left < 1 else int(left))
    with pytest.raises(BetonError, match=r"cut off|less than a header"):
        make(cut)


def test_f14_noise(make: Make, tmp_path: Path) -> None:
    noise = tmp_path / "noise.beton"
    noise.write_bytes(np.random.default_rng(1).bytes(20_000))
    with pytest.raises(BetonError, match="version"):
        make(noise)


@pytest.mark.parametrize("less", [13, 24 * 30])
def test_f15_an_allocation_table_that_is_cut_off(make: Make, tmp_path: Path, beton: Path, less: int) -> None:
    cut = copy_of(beton, tmp_path)
    os.truncate(cut, cut.stat().st_size - less)
    with pytest.raises(BetonError, match=r"middle of a row|not in the allocation table"):
        make(cut)


def test_f16_a_file_that_was_never_finished(make: Make, tmp_path: Path, beton: Path) -> None:
    unfinished = copy_of(beton, tmp_path)
    with open(unfinished, "r+b") as file:
        file.seek(16)
        file.write(b"\0" * 8)
    with pytest.raises(BetonError, match="never finished"):
        make(unfinished)


def test_f17_a_file_cut_off_or_replaced_between_epochs(make: Make, tmp_path: Path, beton: Path) -> None:
    file = copy_of(beton, tmp_path)
    loader = make(file)
    assert len(list(loader)) == 12
    shutil.copy(beton, tmp_path / "new.beton")
    os.replace(tmp_path / "new.beton", file)
    with pytest.raises(BetonError, match="replaced after it was opened"):
        list(loader)


def test_f17_a_page_that_is_not_all_there(make: Make, tmp_path: Path, beton: Path) -> None:
    file = copy_of(beton, tmp_path)
    loader = make(file, os_cache=False)
    iterator = iter(loader)
    loader._ladder.way._engine.loader.memory_manager.reader._fname = str(tmp_path / "cut.beton")
    (tmp_path / "cut.beton").write_bytes(beton.read_bytes()[:100_000])
    assert next(iterator)
    iterator.close()
    with pytest.raises(OSError, match="in the middle of a page"):
        list(loader)


def corrupted(beton: Path, path: Path, how: Callable[[bytearray, int, int], None], samples: tuple[int, ...]) -> Path:
    from safeloader.ffcv import Beton

    whole, data = Beton(beton), bytearray(beton.read_bytes())
    for row in whole.table:
        if int(row["sample"]) in samples and int(row["size"]) > 24:  # not the array
            how(data, int(row["ptr"]), int(row["size"]))
    path.write_bytes(data)
    return path


def zero_half(data: bytearray, start: int, size: int) -> None:
    data[start + size // 2 : start + size - 2] = bytes(size - 2 - size // 2)


def noisy_half(data: bytearray, start: int, size: int) -> None:
    noise = np.random.default_rng(start).bytes(size - 2 - size // 2)
    data[start + size // 2 : start + size - 2] = noise


@pytest.mark.parametrize("how", [zero_half, noisy_half])
def test_f18_corrupt_jpegs_are_noticed(make: Make, d: Any, tmp_path: Path, beton: Path, how: Any) -> None:
    bad = corrupted(beton, tmp_path / "bad.beton", how, (3, 50, 51, 119))
    loader = make(bad, rules={"on_bad_sample": "skip"})
    assert sorted(d.labels_of(loader)) == [n for n in range(120) if n not in (3, 50, 51, 119)]
    assert sorted(index for _, _, index in loader.report().skipped) == [3, 50, 51, 119]
    raising = make(bad, order="SEQUENTIAL")
    iterator = iter(raising)
    with pytest.raises(BadSampleError, match=r"sample 3 .* corrupt") as caught:
        next(iterator)
    assert caught.value.indices == [3]
    assert d.labels_of([next(iterator)]) == list(range(10, 20))


def test_f18_a_jpeg_without_its_markers_is_found_before_the_first_batch(
    make: Make, tmp_path: Path, beton: Path
) -> None:
    def zero(data: bytearray, start: int, size: int) -> None:
        data[start : start + size] = bytes(size)

    with pytest.raises(BetonError, match=r"sample 7, field 'image'.* marker"):
        make(corrupted(beton, tmp_path / "zero.beton", zero, (7,)))


@pytest.mark.parametrize(("column", "value"), [("width", 60_000), ("height", 41), ("data_ptr", 77)])
def test_f18_f19_records_that_are_wrong(make: Make, tmp_path: Path, beton: Path, column: str, value: int) -> None:
    from safeloader.ffcv import Beton
    from safeloader.ffcv.beton import FIELD, HEADER

    whole = Beton(beton)
    whole.metadata["f0"][column][9] = value
    data = bytearray(beton.read_bytes())
    start = HEADER.itemsize + 4 * FIELD.itemsize
    data[start : start + whole.metadata.nbytes] = whole.metadata.tobytes()
    wrong = tmp_path / "wrong.beton"
    wrong.write_bytes(data)
    with pytest.raises(BetonError, match="sample 9, field 'image'"):
        make(wrong)


class Unwilling:
    """A dataset with a bad sample."""

    def __init__(self, count: int, kill: bool) -> None:
        self.count, self.kill = count, kill

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        from tests.ffcv.data import Photographs

        if index == 17:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("sample 17 is not liked")
        return Photographs(self.count)[index]


def test_f20_a_dataset_that_raises_while_it_is_written(tmp_path: Path, d: Any) -> None:
    target = tmp_path / "new.beton"
    target.write_bytes(b"old")
    with pytest.raises(ValueError, match="sample 17 is not liked"):
        d.write_file(target, Unwilling(30, kill=False))
    assert [path.name for path in tmp_path.iterdir()] == ["new.beton"]
    assert target.read_bytes() == b"old"


@pytest.mark.slow
def test_f20_a_worker_that_dies_while_a_file_is_written(tmp_path: Path, d: Any) -> None:
    with pytest.raises(BadSampleError) as caught:
        d.write_file(tmp_path / "new.beton", Unwilling(30, kill=True), num_workers=1)
    assert caught.value.indices == [17]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_f20_a_file_without_the_samples_that_kill(make: Make, tmp_path: Path, d: Any) -> None:
    rules = Policy(on_bad_sample="skip", bad_sample_attempts=1)
    d.write_file(tmp_path / "new.beton", Unwilling(30, kill=True), num_workers=1, policy=rules)
    loader = make(tmp_path / "new.beton", order="SEQUENTIAL", pipelines=d.centered(), drop_last=False)
    assert d.labels_of(loader) == [n for n in range(30) if n != 17]
    assert loader.check().ok


def test_f21_ctrl_c_reaches_who_waits_and_the_loader_goes_on(make: Make, d: Any, tmp_path: Path) -> None:
    orders = tmp_path / "orders"
    orders.touch()
    loader = make(pipelines=d.pipelines(labels=(d.Hangs(0, orders),)), order="SEQUENTIAL")
    iterator = iter(loader)

    trainer = threading.get_ident()

    def interrupt() -> None:
        until(lambda: not orders.exists() and is_in(trainer, "__next__"))  # the operation hangs, the trainer waits
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        next(iterator)


def test_a_thread_that_hangs_ends_in_an_error_with_its_stack(make: Make, d: Any, tmp_path: Path) -> None:
    orders = tmp_path / "orders"
    orders.touch()
    loader = make(
        pipelines=d.pipelines(labels=(d.Hangs(15, orders),)), order="SEQUENTIAL", rules={"batch_timeout": 1.0}
    )
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(BatchTimeoutError, match=r"no batch for") as caught:
        next(iterator)
    assert "in act" in str(caught.value)
    assert loader.report().causes == {"hung": 1}


def test_f22_two_loaders_in_two_threads(make: Make, d: Any) -> None:
    loaders = [make(name="train"), make(name="val", order="SEQUENTIAL")]
    got: dict[str, list[int]] = {}

    def run(loader: Any) -> None:
        got[loader.name] = sorted(d.labels_of(loader))

    threads = [threading.Thread(target=run, args=(loader,)) for loader in loaders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {"train": list(range(120)), "val": list(range(120))}


@pytest.mark.slow
def test_f11_validation_inside_training(make: Make, d: Any) -> None:
    train, val = make(num_workers=2), make(num_workers=2, order="SEQUENTIAL")
    seen = []
    for number, batch in enumerate(train):
        seen.append(batch)
        if number in (0, 6):
            assert d.labels_of(val) == list(range(120))
    assert sorted(d.labels_of(seen)) == list(range(120))


def test_r1_pipelines_are_never_changed(make: Make, d: Any) -> None:
    from safeloader.ffcv import ProgressiveResize

    pipelines = d.pipelines(48)
    lists = {name: list(operations) for name, operations in pipelines.items()}
    attributes = [dict(vars(op)) for operations in lists.values() for op in operations]
    loaders = [make(pipelines=pipelines, resize=ProgressiveResize([(0, size)])) for size in (24, 40)]
    assert [next(iter(loader))[0].shape[-1] for loader in loaders] == [24, 40]
    assert pipelines == lists
    kept = [dict(vars(op)) for operations in lists.values() for op in operations]
    assert all(a[name] is k[name] for a, k in zip(attributes, kept, strict=True) for name in a)
    assert pipelines["image"][0].output_size == (48, 48)


@pytest.mark.parametrize("size", [(0, 0), (32, -1), (32.0, 32), 32, (True, 8)])
def test_r2_sizes_that_would_abort(make: Make, d: Any, size: Any) -> None:
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder

    with pytest.raises(PipelineError, match="output_size"):
        make(pipelines={"image": [RandomResizedCropRGBImageDecoder(size)]})


@pytest.mark.parametrize("ratio", [0, 1.01, -1, None])
def test_r2_crops_that_would_abort(make: Make, ratio: Any) -> None:
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder

    with pytest.raises(PipelineError, match="ratio"):
        make(pipelines={"image": [CenterCropRGBImageDecoder((32, 32), ratio)]})


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize("indices", [[0, 120], [-1], [5, 10**9]])
def test_indices_out_of_range(make: Make, indices: list[int]) -> None:
    with pytest.raises(SettingsError, match="not in the file, which has 120 samples"):
        make(indices=indices, batch_size=1)


def test_indices_are_the_samples_that_come(make: Make, d: Any) -> None:
    assert d.labels_of(make(indices=[5, 3, 99], batch_size=2, drop_last=False, order="SEQUENTIAL")) == [5, 3, 99]


def test_an_epoch_without_a_batch(make: Make) -> None:
    with pytest.raises(SettingsError, match="an epoch has no batch"):
        make(batch_size=200)
    with pytest.raises(SettingsError, match="an epoch has no batch"):
        make(indices=[])


def test_drop_last_says_what_it_drops(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    assert len(make(batch_size=50)) == 2
    assert "drop_last leaves out 20 of 120 samples in each epoch (batch size 50)" in caplog.text


def test_more_workers_than_cores(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    assert make(num_workers=1000).num_workers <= (os.cpu_count() or 1)
    assert "num_workers=1000, but there are" in caplog.text


def test_fields_that_the_file_lacks(make: Make, d: Any) -> None:
    with pytest.raises(PipelineError, match=r"no field 'imgae'; did you mean \"image\""):
        make(pipelines={"imgae": d.pipelines()["image"]})


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batches_ahead": 0}, {"seed": -1}, {"seed": 1.5}, {"order": "BACKWARDS"}]
)
def test_arguments_out_of_range(make: Make, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="is not accepted"):
        make(**options)


def test_torchs_threads_are_as_they_were(make: Make) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        for _ in make(num_workers=1):
            assert torch.get_num_threads() == before + 1
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_the_policy_is_checked() -> None:
    with pytest.raises(SettingsError, match="ffcv_mode"):
        Policy(ffcv_mode="gpu")  # type: ignore[arg-type]
