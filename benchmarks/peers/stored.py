"""Peers that read a format of their own: the samples are written to it first, which is not measured.

Faults strike where their documentation puts the user's code: in a function that is mapped over what was read.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.peers.job import WORKERS, Job

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ffcv", "litdata", "webdataset"]


@dataclass(frozen=True)
class Touched:
    """A sample as it was read, while a fault strikes if its index is the one; what is mapped."""

    dataset: Any

    def __call__(self, sample: Any) -> Any:
        if getattr(self.dataset, "fault", ""):
            return self.dataset[int(sample[0])]
        return torch.as_tensor(sample)


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="stored-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _samples(job: Job) -> Iterator[torch.Tensor]:
    """All samples, while nothing strikes."""
    fault, vars(job.dataset)["fault"] = getattr(job.dataset, "fault", ""), ""
    try:
        yield from (job.dataset[index] for index in range(len(job.dataset)))
    finally:
        vars(job.dataset)["fault"] = fault


def webdataset(job: Job) -> Iterator[Any]:
    """A shard a batch, so that two workers that share the shards give torch's order."""
    wds = import_module("webdataset")
    with _folder() as folder:
        with wds.ShardWriter(f"{folder}/%06d.tar", maxcount=job.batch, verbose=0) as writer:
            for index, sample in enumerate(_samples(job)):
                writer.write({"__key__": f"{index:09d}", "x.npy": sample.numpy()})
        shards = sorted(str(shard) for shard in folder.iterdir())
        read = wds.WebDataset(shards, shardshuffle=False).decode().to_tuple("x.npy").map(_First(Touched(job.dataset)))
        yield from wds.WebLoader(
            read, batch_size=job.batch, num_workers=WORKERS, collate_fn=job.collate, multiprocessing_context="spawn"
        )


@dataclass(frozen=True)
class _First:
    then: Touched

    def __call__(self, row: Any) -> Any:
        return self.then(row[0])


def litdata(job: Job) -> Iterator[Any]:
    """Chunks of a batch each."""
    lit = import_module("litdata")
    writer = import_module("litdata.streaming.writer")
    with _folder() as folder:
        cache = writer.BinaryWriter(str(folder), chunk_size=job.batch)
        for index, sample in enumerate(_samples(job)):
            cache.add_item(index, sample)
        cache.done()
        cache.merge()
        read = lit.StreamingDataset(str(folder), shuffle=False, transform=Touched(job.dataset))
        yield from lit.StreamingDataLoader(
            read, batch_size=job.batch, num_workers=WORKERS, collate_fn=job.collate, multiprocessing_context="spawn"
        )


def ffcv(job: Job) -> Iterator[Any]:
    """Threads of the program that read a .beton file, of arrays."""
    sample = job.dataset[0].numpy()
    fields, loader = import_module("ffcv.fields"), import_module("ffcv.loader")
    with _folder() as folder:
        path = str(folder / "samples.beton")
        field = fields.NDArrayField(sample.dtype, sample.shape)
        writer = import_module("ffcv.writer").DatasetWriter(path, {"x": field}, num_workers=WORKERS)
        writer.from_indexed_dataset(_Rows(job.dataset))
        decode = import_module("ffcv.fields.decoders").NDArrayDecoder()
        pipeline = [decode, import_module("ffcv.transforms").ToTensor()]
        order = loader.OrderOption.SEQUENTIAL
        yield from loader.Loader(
            path, job.batch, num_workers=WORKERS, order=order, drop_last=False, pipelines={"x": pipeline}
        )


@dataclass(frozen=True)
class _Rows:
    """Samples as tuples of arrays."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return (self.dataset[index].numpy(),)
