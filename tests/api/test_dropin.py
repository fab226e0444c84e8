"""``safeloader.DataLoader`` where torch's is expected: types, arguments, errors, attributes, subclasses, copies."""

from __future__ import annotations

import copy
import inspect
import logging
import pickle
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
import torch
import torch.multiprocessing
import torch.utils.data as tud

from safeloader import DataLoader, LoaderClosedError, Policy
from tests.api.parity import data
from tests.api.parity.describe import describe

INLINE = Policy(max_processes=0)
"""No processes: for what does not depend on them."""


def _batches(loader: Any) -> list[Any]:
    torch.manual_seed(5)
    return [describe(batch) for batch in loader]


# ---------------------------------------------------------------- types


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_and_iterator_are_instances_of_torchs_classes(num_workers: int) -> None:
    loader = DataLoader(data.Items(5), num_workers=num_workers, policy=INLINE)
    assert isinstance(loader, tud.DataLoader)
    iterator = iter(loader)
    assert isinstance(iterator, tud.dataloader._BaseDataLoaderIter)
    assert iter(iterator) is iterator
    assert len(iterator) == len(loader) == 5
    with pytest.raises(NotImplementedError):
        pickle.dumps(iterator)
    loader.close()


# ---------------------------------------------------------------- arguments


def test_every_argument_can_be_given_by_position_and_is_kept() -> None:
    sampler, generator = tud.SequentialSampler(range(7)), torch.Generator()
    arguments = (
        data.Items(7), 2, False, sampler, None, 1, data.collate_identity, False, True, 7.5, data.init_seeding, "spawn",
        generator,
    )  # fmt: skip
    more: dict[str, Any] = {"prefetch_factor": 3, "persistent_workers": True, "pin_memory_device": ""}
    if "in_order" in inspect.signature(tud.DataLoader).parameters:  # from torch 2.6 on
        more["in_order"] = False
    ours: Any = DataLoader(*arguments, **more)
    torchs: Any = tud.DataLoader(*arguments, **more)
    for name, value in vars(torchs).items():
        if name != "batch_sampler":
            assert vars(ours)[name] is value or vars(ours)[name] == value, name
    assert ours.multiprocessing_context is torchs.multiprocessing_context
    assert (ours.policy, ours.name) == (None, None)


def test_tools_can_read_the_type_hints_of_every_argument() -> None:
    hints = get_type_hints(DataLoader.__init__)
    assert inspect.signature(DataLoader.__init__).parameters.keys() - hints.keys() == {"self"}


def test_policy_and_name_are_attributes() -> None:
    policy = Policy(batch_timeout=9.0)
    loader = DataLoader(data.Items(3), policy=policy, name="val")
    assert loader.policy is policy
    assert loader.name == loader.report().name == "val"


def test_loaders_without_a_name_are_told_apart() -> None:
    names = {DataLoader(data.Items(3)).report().name for _ in range(3)}
    assert len(names) == 3


def test_a_policy_of_another_kind_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"policy must be a safeloader\.Policy or None, not dict"):
        DataLoader(data.Items(3), policy={"batch_timeout": 3})  # type: ignore[arg-type]


def _as_trainers_do(loader: Any, **changes: Any) -> Any:
    """Make the same loader again from its signature and attributes, as Lightning does to change the sampler."""
    attributes = {name: value for name, value in vars(loader).items() if not name.startswith("_")}
    attributes["multiprocessing_context"] = loader.multiprocessing_context
    wanted = inspect.signature(loader.__init__).parameters
    assert wanted.keys() - attributes.keys() == {"shuffle"}, "an argument that cannot be found again"
    assert all(p.kind is not p.VAR_KEYWORD for p in wanted.values())
    arguments = {name: attributes[name] for name in wanted if name in attributes}
    arguments.update(batch_sampler=None, shuffle=False, **changes)
    return type(loader)(**arguments)


def test_a_loader_made_again_from_what_tools_find_in_it_is_the_same_one() -> None:
    policy = Policy(batch_timeout=9.0, max_processes=0)
    one = DataLoader(
        data.Items(9), 2, shuffle=True, num_workers=2, prefetch_factor=3, persistent_workers=True, in_order=False,
        timeout=4.0, drop_last=True, collate_fn=data.collate_identity, policy=policy, name="train",
    )  # fmt: skip
    other = _as_trainers_do(one, sampler=tud.SequentialSampler(range(9)))
    for name in ("batch_size", "num_workers", "prefetch_factor", "persistent_workers", "in_order", "timeout",
                 "drop_last", "collate_fn", "policy", "name", "dataset"):  # fmt: skip
        assert getattr(other, name) == getattr(one, name), name
    assert [item["index"] for batch in other for item in batch] == [*range(8)]
    other.close()


class Stream(tud.IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


ERRORS: dict[str, dict[str, Any]] = {
    "no dataset": {"dataset": inspect.Parameter.empty},
    "unknown argument": {"number_of_workers": 2},
    "negative num_workers": {"num_workers": -1},
    "text for num_workers": {"num_workers": "2"},
    "negative timeout": {"timeout": -1},
    "timeout without workers": {"timeout": 5},
    "prefetch_factor without workers": {"prefetch_factor": 2},
    "negative prefetch_factor": {"prefetch_factor": -1, "num_workers": 1},
    "prefetch_factor of none": {"prefetch_factor": 0, "num_workers": 1},
    "persistent without workers": {"persistent_workers": True},
    "sampler and shuffle": {"sampler": [0, 1], "shuffle": True},
    "batch_sampler and batch_size": {"batch_sampler": [[0], [1]], "batch_size": 2},
    "batch_sampler and shuffle": {"batch_sampler": [[0], [1]], "shuffle": True},
    "batch_sampler and sampler": {"batch_sampler": [[0], [1]], "sampler": [1]},
    "batch_sampler and drop_last": {"batch_sampler": [[0], [1]], "drop_last": True},
    "drop_last without batches": {"batch_size": None, "drop_last": True},
    "stream and shuffle": {"dataset": Stream(), "shuffle": True},
    "stream and sampler": {"dataset": Stream(), "sampler": [0]},
    "stream and batch_sampler": {"dataset": Stream(), "batch_sampler": [[0]]},
    "context without workers": {"multiprocessing_context": "spawn"},
    "unknown context": {"multiprocessing_context": "spoon", "num_workers": 1},
    "no context": {"multiprocessing_context": 5, "num_workers": 1},
    "batches of none": {"batch_size": 0},
    "negative batches": {"batch_size": -2},
    "text for batch_size": {"batch_size": "2"},
    "dataset without length": {"dataset": object()},
    "dataset without length, shuffled": {"dataset": object(), "shuffle": True},
    "generator of another kind": {"generator": 5},
}


def _error(loader_class: Any, arguments: dict[str, Any]) -> tuple[str, str]:
    given = {"dataset": data.Items(4), **arguments}
    if given["dataset"] is inspect.Parameter.empty:
        del given["dataset"]
    try:
        len(loader_class(**given))
        next(iter(loader_class(**given)))
    except Exception as error:
        return type(error).__name__, str(error).replace("0x", "")
    return "", "none"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's half-made iterator's
@pytest.mark.parametrize("arguments", ERRORS.values(), ids=ERRORS.keys())
def test_wrong_arguments_are_the_same_errors_as_torchs(arguments: dict[str, Any]) -> None:
    expected = _error(tud.DataLoader, arguments)
    assert expected[0], "torch accepts this"
    kind, message = _error(DataLoader, arguments)
    assert kind == expected[0]
    assert message == expected[1] or not expected[1], "an older torch says nothing with some"


# ---------------------------------------------------------------- attributes


@pytest.mark.parametrize(
    "name", ["batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"]
)
def test_what_torch_protects_is_protected(name: str) -> None:
    messages = []
    for loader_class in (tud.DataLoader, DataLoader):
        with pytest.raises(ValueError, match=name) as caught:
            setattr(loader_class(data.Items(3)), name, None)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_what_torch_lets_be_set_can_be_set() -> None:
    loader = DataLoader(data.Items(4), 2, policy=INLINE)
    loader.num_workers = 2
    loader.prefetch_factor = 1
    loader.collate_fn = data.collate_identity
    loader.worker_init_fn = data.init_seeding
    assert [[item["index"] for item in batch] for batch in loader] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="valid start method"):
        loader.multiprocessing_context = "spoon"
    loader.multiprocessing_context = "fork"
    with pytest.warns(UserWarning, match="asks for fork"):
        list(loader)
    loader.close()


def test_the_warning_about_fork_points_to_the_line_that_asks() -> None:
    with pytest.warns(UserWarning, match="asks for fork") as warned:
        DataLoader(data.Items(3), num_workers=1, multiprocessing_context="fork")
    assert warned[0].filename == __file__


# ---------------------------------------------------------------- subclasses


class _Repeat:
    """Ultralytics' sampler: batches of all epochs in one stream."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from iter(self.sampler)


def _endless(loader_class: Any) -> Any:
    class Endless(loader_class):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            object.__setattr__(self, "batch_sampler", _Repeat(self.batch_sampler))
            self.iterator = super().__iter__()

        def __len__(self) -> int:
            return len(self.batch_sampler.sampler)

        def __iter__(self) -> Iterator[Any]:
            for _ in range(len(self)):
                yield next(self.iterator)

        def __del__(self) -> None:
            if not hasattr(self, "iterator") or not hasattr(self.iterator, "_workers"):
                return  # as Ultralytics' own does; safeloader's processes are its own affair
            for worker in self.iterator._workers:
                worker.terminate()

        def reset(self) -> None:
            self.iterator = self._get_iterator()

    return Endless


def test_a_subclass_that_replaces_its_batch_sampler_repeats_for_ever() -> None:
    drawn = []
    for loader_class, more in ((tud.DataLoader, {}), (DataLoader, {"num_workers": 2, "policy": INLINE})):
        torch.manual_seed(3)
        loader: Any = _endless(loader_class)(data.Items(10), 4, shuffle=True, **more)
        assert issubclass(type(loader), loader_class)
        drawn.append([[batch["index"].tolist() for batch in loader] for _ in range(3)])
        loader.reset()
        again = [index for batch in loader for index in batch["index"].tolist()]
        assert sorted(again) == [*range(10)]
        del loader.iterator
    assert drawn[0] == drawn[1]


class _Named(DataLoader[Any]):
    """A subclass with a constructor of its own."""

    def __init__(self, length: int, **more: Any) -> None:
        self.note = "set before torch's constructor"
        super().__init__(data.Items(length), **more)


def test_a_subclass_may_have_another_constructor_and_be_copied() -> None:
    loader = copy.deepcopy(_Named(4, batch_size=2, name="own", num_workers=1, policy=INLINE))
    assert (loader.note, loader.name, len(list(loader))) == ("set before torch's constructor", "own", 2)
    loader.close()


# ---------------------------------------------------------------- copies


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_is_a_loader_of_its_own_with_an_empty_report(duplicate: Any) -> None:
    loader = DataLoader(
        data.Items(7), 2, shuffle=True, num_workers=2, persistent_workers=True, policy=INLINE, name="train"
    )
    expected = _batches(loader)
    other = duplicate(loader)
    loader.close()
    assert (other.name, other.policy, other.report().batches) == ("train", INLINE, 0)
    assert _batches(other) == expected
    assert (other.report().batches, loader.report().batches) == (4, 4)
    other.close()


@pytest.mark.usefixtures("forked")
def test_a_closed_loader_says_so_and_can_be_closed_again() -> None:
    with DataLoader(data.Items(7), 2, num_workers=1, policy=INLINE) as loader:
        iterator = iter(loader)
        next(iterator)
    loader.close()
    for ask in (lambda: iter(loader), lambda: next(iterator)):
        with pytest.raises(LoaderClosedError, match="closed"):
            ask()


# ---------------------------------------------------------------- the main process


class _Watching(tud.Sampler[int]):
    """Notes at each step what the main process believes about itself."""

    seen: list[Any]

    def __init__(self) -> None:
        self.seen = []

    def __len__(self) -> int:
        return 8

    def __iter__(self) -> Iterator[int]:
        for index in range(8):
            self.seen.append((tud.get_worker_info(), torch.get_num_threads()))
            yield index


class _Listening(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append((tud.get_worker_info(), torch.get_num_threads()))


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("max_processes", [1, 0], ids=["process", "inline"])
def test_the_main_process_never_takes_itself_for_a_worker(max_processes: int) -> None:
    mine = (None, torch.get_num_threads())
    sampler, handler = _Watching(), _Listening()
    logging.getLogger("safeloader").addHandler(handler)
    try:
        loader = DataLoader(
            data.Items(8, bad=3), 2, sampler=sampler, num_workers=2, worker_init_fn=data.init_seeding,
            policy=Policy(max_processes=max_processes),
        )  # fmt: skip
        iterator = iter(loader)
        for number in range(4):
            if number == 1:
                with pytest.raises(ValueError, match="sample 3 is bad"):
                    next(iterator)
            else:
                next(iterator)
            assert (tud.get_worker_info(), torch.get_num_threads()) == mine
        with pytest.raises(StopIteration):
            next(iterator)
    finally:
        logging.getLogger("safeloader").removeHandler(handler)
    loader.close()
    assert sampler.seen == [mine] * 8
    assert handler.seen
    assert set(handler.seen) == {mine}


def test_default_collate_is_torchs_again_after_inline_loading() -> None:
    before = dict(tud._utils.collate.default_collate_fn_map)
    with DataLoader(data.Items(4), 2, num_workers=1, policy=INLINE) as loader:
        list(loader)
    assert tud._utils.collate.default_collate_fn_map == before


@pytest.mark.usefixtures("forked")
def test_a_profile_shows_torchs_names() -> None:
    names = set()
    for num_workers in (0, 1):
        with torch.autograd.profiler.profile() as profile:
            list(DataLoader(data.Items(2), num_workers=num_workers, policy=INLINE))
        names |= {event.name for event in profile.function_events if "DataLoader" in event.name}
    assert names == {
        f"enumerate(DataLoader)#_{kind}DataLoaderIter.__next__" for kind in ("SingleProcess", "MultiProcessing")
    }


# ---------------------------------------------------------------- through a process


class _Errors(tud.Dataset[Any]):
    """Sample by sample another error."""

    ERRORS = (
        ValueError("plain"),
        KeyError("a key"),
        data.OddError(7, "odd"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "no"),
    )

    def __len__(self) -> int:
        return len(self.ERRORS)

    def __getitem__(self, index: int) -> Any:
        raise self.ERRORS[index]


def _said(loader_class: Any, **more: Any) -> list[tuple[str, str, str]]:
    iterator = iter(loader_class(_Errors(), num_workers=1, **more))
    said = []
    for _ in _Errors.ERRORS:
        with pytest.raises(Exception, match="Caught") as caught:
            next(iterator)
        lines = str(caught.value).replace("\\n", "\n").strip().split("\n")
        said.append((type(caught.value).__name__, lines[0], lines[-1]))
    assert next(iterator, None) is None  # torch's workers take five seconds to end where they are left before
    return said


@pytest.mark.usefixtures("forked")
def test_errors_come_out_as_torchs_do(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "safeloader")
    assert _said(DataLoader) == _said(tud.DataLoader, multiprocessing_context="forkserver")


class _Many(tud.Dataset[int]):
    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.usefixtures("forked")
def test_lists_of_indices_larger_than_a_socket_buffer_arrive(caplog: pytest.LogCaptureFixture) -> None:
    wanted = [[1 << 20] * 200_000, [5], [1 << 20] * 300_000, []]
    with DataLoader(_Many(), batch_sampler=wanted, num_workers=1, collate_fn=len) as loader:
        assert list(loader) == [200_000, 1, 300_000, 0]
    assert caplog.records == [], "a process was taken for a hung one"


class _WithoutLength(torch.utils.data.Sampler[int]):
    """Its length raises something else than TypeError."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(5))

    def __len__(self) -> int:
        raise ValueError("nobody may ask")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_length_of_a_sampler_is_not_asked(num_workers: int) -> None:
    loader = DataLoader(range(5), 2, sampler=_WithoutLength(), num_workers=num_workers)  # type: ignore[arg-type]
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
