"""Each use of torch's private API, against torch itself: a change there is a failing test here."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data as tud
from torch.utils.data.datapipes.iter import IterableWrapper
from torch.utils.data.datapipes.map import SequenceWrapper

from safeloader import DataLoader, Policy, torch_ambient, torch_private
from tests.api.parity import data
from tests.api.parity.reference import Job
from tests.programs import program, run_script

WORKERS = Job("workers", None)


@pytest.fixture
def _generators() -> Iterator[None]:
    """Puts back what seeding a worker here changes."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    info = torch_private.get_worker_info()
    yield
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    torch_private.put_worker_info(info)


# ---------------------------------------------------------------- workers


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("_generators")
@pytest.mark.needs_reference(WORKERS)
def test_a_seeded_worker_is_what_torchs_own_worker_is(reference: Callable[[Job], Any]) -> None:
    base_seed, facts = reference(WORKERS)
    for worker in range(2):
        seed = torch_private.seed_worker(base_seed, worker)
        torch_private.set_worker_info(worker, 2, seed, "a dataset")
        assert data.worker_facts() == facts[worker]
        info: Any = tud.get_worker_info()
        assert info.dataset == "a dataset"


def test_worker_info_can_be_taken_away_and_put_back() -> None:
    assert tud.get_worker_info() is None
    torch_private.set_worker_info(1, 2, 3, None)
    info = torch_private.get_worker_info()
    assert info is tud.get_worker_info() is not None
    torch_private.set_worker_info(None)
    assert tud.get_worker_info() is None
    torch_private.put_worker_info(info)
    assert tud.get_worker_info() is info
    torch_private.put_worker_info(None)


def test_loading_in_the_trainer_seeds_no_accelerator() -> None:
    """torch.manual_seed would: now, or, as it is kept, when CUDA is first used."""
    kept = torch.cuda._lazy_seed_tracker
    torch.manual_seed(3)
    before = kept.get_calls()
    assert before, "torch no longer keeps what it would seed; look for another way to see it"
    with DataLoader(data.Items(2), num_workers=2, policy=Policy(max_processes=0)) as loader:
        list(loader)
    assert kept.get_calls() == before


# ---------------------------------------------------------------- loaders and iterators


class Stream(tud.IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def _iter_pipe() -> Any:
    wrap: Any = IterableWrapper
    return wrap(range(12)).shuffle(buffer_size=12).sharding_filter()


def _map_pipe() -> Any:
    wrap: Any = SequenceWrapper
    return wrap(range(3))


@pytest.mark.parametrize(
    ("make", "iterable"),
    [(lambda: data.Items(3), False), (Stream, True), (_iter_pipe, True), (_map_pipe, False)],
    ids=["items", "stream", "iter pipe", "map pipe"],
)
def test_whether_a_dataset_is_iterable_is_torchs_decision(make: Callable[[], Any], iterable: bool) -> None:
    assert torch_private.is_iterable(tud.DataLoader(make())) is iterable


def test_the_index_sampler_gives_batches_or_single_indices() -> None:
    assert next(iter(torch_private.index_sampler(tud.DataLoader(data.Items(3), 2)))) == [0, 1]
    assert next(iter(torch_private.index_sampler(tud.DataLoader(data.Items(3), None)))) == 0


def test_iterators_are_torchs_where_there_are_no_workers() -> None:
    iterator = iter(tud.DataLoader(data.Items(3)))
    assert isinstance(iterator, torch_private.SingleProcessIterator)
    assert issubclass(torch_private.SingleProcessIterator, torch_private.BaseIterator)


def test_profiling_is_noticed() -> None:
    assert not torch_private.profiling()
    with torch.autograd.profiler.profile():
        assert torch_private.profiling()
    assert not torch_private.profiling()


def test_asking_for_the_length_of_a_stream_is_noticed() -> None:
    loader: Any = tud.DataLoader(data.Shards((2, 3)))
    assert not torch_private.length_was_asked(iter(loader))
    len(loader)
    assert torch_private.length_was_asked(iter(loader))


# ---------------------------------------------------------------- data pipes


@pytest.mark.parametrize("seed", [0, 12345])
def test_a_shared_seed_shuffles_a_pipe_as_torch_does(seed: int) -> None:
    generator = torch.Generator()
    generator.manual_seed(seed)
    expected = list(tud.graph_settings.apply_random_seed(_iter_pipe(), generator))
    assert sorted(expected) == [*range(12)]
    assert list(torch_private.apply_shared_seed(_iter_pipe(), seed)) == expected
    assert list(torch_private.apply_shared_seed(_iter_pipe(), seed + 1)) != expected


def test_a_shared_seed_leaves_other_datasets_alone() -> None:
    dataset = data.Items(3)
    assert torch_private.apply_shared_seed(dataset, 5) is dataset
    assert torch_private.apply_shared_seed(dataset, None) is dataset


def test_a_worker_gets_its_shard_of_a_pipe_and_then_its_init_function() -> None:
    called: list[int] = []
    got: list[int] = []
    for worker in range(3):
        pipe: Any = _iter_pipe().set_shuffle(False) if hasattr(_iter_pipe(), "set_shuffle") else _iter_pipe()
        torch_private.set_worker_info(worker, 3, 0, pipe)
        init = torch_private.sharded_init_fn(pipe, called.append, 1, 0)
        torch_private.set_worker_info(None)
        assert init is not None
        torch_private.set_worker_info(worker, 3, 0, pipe)
        init(worker)
        torch_private.set_worker_info(None)
        got += torch_private.apply_shared_seed(pipe, 4)
    assert called == [0, 1, 2]
    assert sorted(got) == [*range(12)]


def test_other_datasets_keep_their_init_function() -> None:
    assert torch_private.sharded_init_fn(data.Items(3), data.init_seeding, 1, 0) is data.init_seeding
    assert torch_private.sharded_init_fn(data.Items(3), None, 1, 0) is None


# ---------------------------------------------------------------- collating, pinning, errors


def test_default_collate_looks_into_the_table_for_every_tensor() -> None:
    table = torch_private.default_collate_fn_map
    assert table[torch.Tensor] is torch_private.torch_collate_tensor
    asked: list[Any] = []

    def collate(batch: Any, *, collate_fn_map: Any = None) -> Any:
        asked.append(batch)
        return torch_private.torch_collate_tensor(batch, collate_fn_map=collate_fn_map)

    table[torch.Tensor] = collate
    try:
        batch = tud.default_collate([{"x": torch.ones(2), "y": np.ones(3)}] * 2)
    finally:
        table[torch.Tensor] = torch_private.torch_collate_tensor
    assert len(asked) == 2
    assert batch["x"].shape == (2, 2)


class Pinnable:
    """A batch type that pins itself, as torch's documentation shows."""

    pinned = False

    def pin_memory(self) -> Pinnable:
        self.pinned = True
        return self


def test_pinning_asks_batch_types_of_the_user_at_any_depth() -> None:
    one, two = Pinnable(), Pinnable()
    pinned = torch_private.pin({"a": [one, (two, "text", 5)]}, None)
    assert pinned["a"][0] is one
    assert (one.pinned, two.pinned) == (True, True)
    assert pinned["a"][1][1:] == ["text", 5] or pinned["a"][1][1:] == ("text", 5)


def test_a_wrapped_exception_is_raised_as_from_a_torch_worker() -> None:
    try:
        data.Items(3, bad=1)[1]
    except ValueError as error:
        wrapper: Any = torch_private.wrap_exception(error, "in DataLoader worker process 5")
    with pytest.raises(ValueError, match=r"(?s)Caught ValueError in DataLoader worker process 5\..*sample 1 is bad"):
        wrapper.reraise()
    wrapper.exc_type, wrapper.exc_msg = RuntimeError, "another text"
    with pytest.raises(RuntimeError, match="another text"):
        wrapper.reraise()


class Opaque(torch.Tensor):
    """A subclass that lets nothing be done with it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TypeError("opaque")


def test_a_subclass_can_be_seen_as_a_plain_tensor_past_what_it_overrides() -> None:
    base = torch.arange(3.0)
    opaque = torch.Tensor._make_subclass(Opaque, base)
    with pytest.raises(TypeError, match="opaque"):
        opaque.detach()
    plain = torch_private.plain_tensor(opaque)
    assert type(plain) is torch.Tensor
    assert plain.data_ptr() == base.data_ptr()


@pytest.fixture(autouse=True)
def _torch_starts_no_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones start processes for it when torch.compile is first touched, and keep them."""
    monkeypatch.setenv("TORCH_WARM_POOL", "0")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile imports what torch itself deprecates
def test_the_users_model_is_found_inside_of_torchs_wrappers() -> None:
    model = torch.nn.Linear(2, 2)
    assert torch_private.unwrapped(model) is model
    assert torch_private.unwrapped(torch.nn.DataParallel(model)) is model
    assert torch_private.unwrapped(torch.compile(model)) is model
    assert torch_private.unwrapped(torch.nn.DataParallel(torch.compile(model))) is model


def test_the_default_store_is_that_of_the_process_group() -> None:
    import torch.distributed as dist

    mine = dist.HashStore()
    dist.init_process_group("gloo", store=mine, rank=0, world_size=1)
    try:
        torch_private.default_store().set("word", "kept")
        assert torch_private.default_store().get("word") == b"kept"
    finally:
        dist.destroy_process_group()


def test_the_timeout_of_the_process_group_is_the_one_it_was_given() -> None:
    import datetime

    import torch.distributed as dist

    given = datetime.timedelta(seconds=77)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=given)
    try:
        assert torch_private.group_timeout() == 77.0
    finally:
        dist.destroy_process_group()


def test_norms_are_those_of_each_tensor() -> None:
    tensors = [torch.tensor([3.0, 4.0]), torch.tensor(2.0, dtype=torch.float64), torch.zeros(0)]
    assert [norm.item() for norm in torch_private.norms(tensors)] == [5.0, 2.0, 0.0]
    (norm,) = torch_private.norms([torch.ones(3, requires_grad=True)])
    assert not norm.requires_grad
    assert torch.is_grad_enabled()
    with pytest.raises(RuntimeError):
        torch_private.norms([])
    assert torch.is_grad_enabled()


def test_a_flag_of_torchs_is_read_and_set_and_one_that_is_not_there_is_none() -> None:
    found = torch_ambient.flag("_get_cudnn_benchmark", "_set_cudnn_benchmark")
    assert found is not None
    get, put = found
    before = torch.backends.cudnn.benchmark
    try:
        put(not before)
        assert get() == torch.backends.cudnn.benchmark == (not before)
    finally:
        put(before)
    assert torch_ambient.flag("_get_nothing_of_this_name", "_set_nothing_of_this_name") is None


def test_operators_are_left_as_they_are_at_the_end_and_other_finalizers_run(tmp_path: Path) -> None:
    text = """
        import atexit, weakref
        import torch
        from safeloader import torch_private

        class Thing:
            pass

        things = [Thing(), Thing()]
        weakref.finalize(things[0], print, "finalized")
        with torch.library._scoped_library("of_a_test", "DEF") as scoped:
            scoped.define("gone(Tensor x) -> Tensor")
        library = torch.library.Library("of_a_test", "DEF")
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: 2 * x, "CPU")
        torch_private.leave_operators_at_exit()
        atexit._run_exitfuncs()
        print(int(torch.ops.of_a_test.twice(torch.tensor(4))))
        """
    assert run_script(program(tmp_path, text)).split() == ["finalized", "8"]
