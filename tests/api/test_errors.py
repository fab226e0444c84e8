"""Errors say what, where, which attempt and what to try, and cross process boundaries whole."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from safeloader import errors
from safeloader.observe import Fault, Report

CLASSES = [getattr(errors, name) for name in errors.__all__]


def _bad_sample() -> errors.BadSampleError:
    return errors.BadSampleError(
        "sample 392 killed its process three times",
        indices=[392],
        cause="died",
        stack='Traceback (most recent call last):\n  File "photos.py", line 41, in __getitem__\n',
        batch=12,
        worker=1,
        where="train, epoch 0",
        attempt="3 of 3",
        hint='load sample 392 alone, or set on_bad_sample="skip"',
        story=["12.003 s  batch 12 sent to worker 1", "12.100 s  process 4711 was killed by SIGKILL"],
    )


def test_an_error_reads_as_a_short_text_with_everything_it_knows() -> None:
    assert str(_bad_sample()) == (
        "sample 392 killed its process three times\n"
        "  where:   train, epoch 0\n"
        "  attempt: 3 of 3\n"
        "  batch:   12\n"
        "  worker:  1\n"
        "  samples: 392\n"
        "  cause:   died\n"
        '  try:     load sample 392 alone, or set on_bad_sample="skip"\n'
        "  code:    SL206\n"
        "  stack:\n"
        "    Traceback (most recent call last):\n"
        '      File "photos.py", line 41, in __getitem__\n'
        "  story:\n"
        "    12.003 s  batch 12 sent to worker 1\n"
        "    12.100 s  process 4711 was killed by SIGKILL"
    )


def test_an_error_that_knows_nothing_more_says_what_and_its_code() -> None:
    assert [str(cls("it broke")) for cls in CLASSES] == [f"it broke\n  code:    {cls.code}" for cls in CLASSES]


def test_a_field_of_several_lines_stays_in_its_column() -> None:
    assert str(errors.StartError("no", hint="one\ntwo")) == "no\n  try:     one\n           two\n  code:    SL212"


def test_a_long_story_shows_its_end_and_keeps_all() -> None:
    error = errors.SafeLoaderError("it broke", story=[f"line {n}" for n in range(50)])
    lines = str(error).splitlines()
    assert lines[3:5] == ["    ... (30 earlier lines)", "    line 30"]
    assert lines[-1] == "    line 49"
    assert len(error.story) == 50


def test_many_bad_samples_are_cut_short_in_the_text_alone() -> None:
    error = errors.BadSampleError("bad", indices=range(100))
    assert "samples: 0, 1, 2, 3, 4, 5, 6, 7, ... (100 in all)" in str(error)
    assert error.indices == list(range(100))


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_is_one_of_ours_and_takes_one_string(cls: type[errors.SafeLoaderError]) -> None:
    error = cls("it broke")
    assert isinstance(error, errors.SafeLoaderError)
    assert isinstance(error, RuntimeError)
    assert error.args == ("it broke",)
    assert error.story == []
    assert error.report is None


@pytest.mark.parametrize(
    ("cls", "base"),
    [
        (errors.SettingsError, ValueError),
        (errors.NotCarriableError, TypeError),
        (errors.BatchTimeoutError, TimeoutError),
        (errors.ForkRefusedError, ValueError),
    ],
)
def test_an_error_can_be_caught_by_the_builtin_it_resembles(cls: type[Exception], base: type[Exception]) -> None:
    with pytest.raises(base, match="it broke"):
        raise cls("it broke")


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    "through",
    [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_errors_survive_pickle_and_copy_whole(cls: type[errors.SafeLoaderError], through) -> None:  # type: ignore[no-untyped-def]
    error = cls("it broke", where="train", attempt="1 of 2", hint="a\nb", story=["x", "y"])
    error.report = Report("train", faults=[Fault(1.0, "train", "died", stack="s")])
    twin = through(error)
    assert type(twin) is cls
    assert twin.args == error.args
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)


def test_attributes_of_subclasses_survive_pickle_too() -> None:
    twin = pickle.loads(pickle.dumps(_bad_sample()))
    assert (twin.indices, twin.cause, twin.batch, twin.worker) == ([392], "died", 12, 1)
    assert str(twin) == str(_bad_sample())
    assert pickle.loads(pickle.dumps(errors.NotCarriableError("no", path="a.b"))).path == "a.b"


def test_what_is_imported_before_the_first_batch_needs_no_torch_and_no_numpy() -> None:
    code = (
        "import sys, safeloader.errors, safeloader.config, safeloader.observe\n"
        "print([name for name in ('torch', 'numpy', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
