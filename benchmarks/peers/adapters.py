"""How each peer loads batches of a map-style dataset in order, with two workers and its own defaults.

Each is a function of a `Job` that gives an iterator over collated batches; what it needs, it imports itself.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.peers import stored
from benchmarks.peers.job import WORKERS, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Indexed:
    """The job as a sequence, or as an iterable, of batches: what Grain and SPDL are given."""

    job: Job

    def __len__(self) -> int:
        return self.job.batches

    def __getitem__(self, number: int) -> Any:
        return self.job(number)


def _loader(kind: Any, job: Job, start: str | None = "spawn", **more: Any) -> Iterator[Any]:
    if start is not None:
        more = {"num_workers": WORKERS, "multiprocessing_context": start, **more}
    yield from kind(job.dataset, job.batch, collate_fn=job.collate, **more)


def _torch_loader(job: Job, start: str | None = "spawn") -> Iterator[Any]:
    from torch.utils.data import DataLoader

    if start == "forkserver":
        multiprocessing.set_forkserver_preload(["torch"])
    return _loader(DataLoader, job, start)


def _safe_loader(job: Job, start: Literal["spawn", "forkserver"] = "spawn") -> Iterator[Any]:
    from safeloader import DataLoader, Policy

    return _loader(
        DataLoader, job, None, num_workers=WORKERS, policy=Policy(start_method=start, batch_timeout=job.deadline)
    )


def _stateful(job: Job) -> Iterator[Any]:
    return _loader(import_module("torchdata.stateful_dataloader").StatefulDataLoader, job)


def _nodes(job: Job) -> Iterator[Any]:
    from torch.utils.data import SequentialSampler

    nodes = import_module("torchdata.nodes")
    numbers = nodes.SamplerWrapper(SequentialSampler(range(job.batches)))
    mapper = nodes.ParallelMapper(numbers, job, WORKERS, method="process", multiprocessing_context="spawn")
    yield from nodes.Loader(mapper)


def _ahead(executor: Executor, job: Job) -> Iterator[Any]:
    """Two batches a worker ahead, as torch's loader has them."""
    waiting: deque[Any] = deque(executor.submit(job, number) for number in range(min(2 * WORKERS, job.batches)))
    for number in itertools.count(len(waiting)):
        if not waiting:
            return
        batch = waiting.popleft().result()
        if number < job.batches:
            waiting.append(executor.submit(job, number))
        yield batch


def _threads(job: Job) -> Iterator[Any]:
    with ThreadPoolExecutor(WORKERS) as executor:
        yield from _ahead(executor, job)


def _futures(job: Job) -> Iterator[Any]:
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as executor:
        yield from _ahead(executor, job)


def _loky(job: Job) -> Iterator[Any]:
    yield from _ahead(import_module("loky").get_reusable_executor(WORKERS), job)


def _joblib(job: Job) -> Iterator[Any]:
    joblib = import_module("joblib")
    calls = (joblib.delayed(job)(number) for number in range(job.batches))
    yield from joblib.Parallel(WORKERS, return_as="generator")(calls)


def _imap(job: Job) -> Iterator[Any]:
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        yield from pool.imap(job, range(job.batches))


def _spdl_drop_in(job: Job) -> Iterator[Any]:
    yield from import_module("spdl.dataloader").get_pytorch_dataloader(
        job.dataset, batch_size=job.batch, num_workers=WORKERS, collate_fn=job.collate,
        multiprocessing_context="spawn", in_order=True,
    )  # fmt: skip


def _spdl_threads(job: Job) -> Iterator[Any]:
    builder = (
        import_module("spdl.pipeline")
        .PipelineBuilder()
        .add_source(range(job.batches))
        .pipe(job, concurrency=WORKERS, output_order="input")
    )
    pipeline = builder.add_sink(2).build(num_threads=WORKERS)
    with pipeline.auto_stop():
        yield from pipeline.get_iterator()


def _grain(job: Job) -> Iterator[Any]:
    grain = import_module("grain")
    batches: Any = Indexed(job)
    sampler = grain.samplers.SequentialSampler(job.batches, shard_options=grain.sharding.NoSharding())
    yield from grain.DataLoader(data_source=batches, sampler=sampler, worker_count=WORKERS)


def _ray_data(job: Job) -> Iterator[Any]:
    """Of batches that become arrays."""
    ray = import_module("ray")
    import_module("ray.data")
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    numbers = ray.data.range(job.batches, override_num_blocks=job.batches)
    for row in numbers.map(lambda row: {"batch": job(row["id"]).numpy()}).iter_rows():
        yield row["batch"]


PEERS: dict[str, Callable[[Job], Iterator[Any]]] = {
    "torch, spawn": _torch_loader,
    "safeloader": _safe_loader,
    "safeloader, forkserver": lambda job: _safe_loader(job, "forkserver"),
    "torch, fork": lambda job: _torch_loader(job, "fork"),
    "torch, forkserver with preload": lambda job: _torch_loader(job, "forkserver"),
    "torch, no workers": lambda job: _torch_loader(job, None),
    "StatefulDataLoader": _stateful,
    "torchdata.nodes, processes": _nodes,
    "SPDL, drop-in": _spdl_drop_in,
    "SPDL, threads": _spdl_threads,
    "Grain DataLoader": _grain,
    "concurrent.futures": _futures,
    "loky": _loky,
    "joblib": _joblib,
    "multiprocessing.Pool.imap": _imap,
    "Ray Data": _ray_data,
    "WebDataset": stored.webdataset,
    "LitData": stored.litdata,
    "FFCV, threads": stored.ffcv,
    "2 threads": _threads,
}
IN_PROCESS = frozenset({"torch, no workers", "SPDL, threads", "2 threads", "FFCV, threads"})
"""A fault in a sample of these is one of the program itself."""
OF_ARRAYS = frozenset({"Ray Data"})
"""Their batches are arrays: not comparable in speed."""
