"""The last way: no FFCV thread, no compiled code, no mapping. A DataLoader over the same file, sample by sample.

The same samples in the same order, with the same crops and flips where their generator is keyed by the sample. Images
are decoded by OpenCV, or by Pillow where it is missing, and resized by OpenCV's INTER_AREA as FFCV does (Pillow: BOX).
Other operations run the Python that FFCV would have compiled.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from safeloader.ffcv import patches, pipelines
from safeloader.ffcv.backends import Arrived, BadHere
from safeloader.ffcv.beton import JPG, Beton
from safeloader.ffcv.operations import Attributes
from safeloader.ffcv.order import mixed
from safeloader.ffcv.pixels import decode_jpeg, resized
from safeloader.ffcv.process_backend import fetched, inner_policy
from safeloader.ffcv.require import require
from safeloader.loader import DataLoader
from safeloader.loader_state import speak_through

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safeloader.config import Settings
    from safeloader.ffcv.recipe import EnginePlace, Recipe
    from safeloader.observe import Recorder

__all__ = ["PlainSamples", "PlainWay"]


class PlainSamples:
    """The dataset: ``[i]`` is sample ``i`` as its decoders give it, ``collate`` runs the rest of the pipelines.

    Args:
        recipe: What to make.
        place: Epoch and size.
    """

    def __init__(self, recipe: Recipe, place: EnginePlace) -> None:
        self._recipe, self._place = recipe, place
        self._beton: Beton | None = None
        self._attributes: Attributes | None = None
        self._codes: dict[int, Any] = {}
        self._resumed: bytes | None = None

    def _open(self) -> Beton:
        if self._beton is None:
            require()
            self._beton = Beton(self._recipe.path, self._recipe.custom_fields)
            given, size = self._recipe.pipelines, self._place.size
            factory = pipelines.is_factory(given)
            sized = size is not None and not factory
            self._attributes = Attributes(pipelines.operations_of(given))
            if self._resumed is not None:
                self._attributes.hear(self._resumed)
            specs = pipelines.copied(pipelines.made(given, size or 0) if factory else given, self._beton, sized)
            if sized and size is not None:
                pipelines.resize_all(specs, size)
            self._file = open(self._beton.path, "rb")  # noqa: SIM115 - as long as this object
            self._graph = pipelines.graph_of(specs, self._beton, self._read)
        return self._beton

    def _read(self, pointer: Any, _: Any = None) -> np.ndarray[Any, Any]:
        assert self._beton is not None
        row = self._beton.table[int(np.searchsorted(self._beton.table["ptr"], pointer))]
        self._file.seek(int(pointer))
        return np.frombuffer(bytearray(self._file.read(int(row["size"]))), np.uint8)

    def close(self) -> None:
        """Let the file go; the next sample opens it again."""
        if self._beton is not None:
            self._beton = None
            self._codes.clear()
            self._file.close()

    # ------------------------------------------------------------ one sample

    def __getitem__(self, index: int) -> dict[str, Any]:
        beton = self._open()
        sample: dict[str, Any] = {"index": index, "why": ""}
        salts = {node.id: salt for salt, node in enumerate(self._keyed())}
        for node in self._graph.root_nodes:
            field = beton.fields[node.field_name]
            if field.kind == "image":
                sample[node.id], why = self._image(beton.column(field.name)[index], node, salts.get(node.id), index)
                sample["why"] = sample["why"] or why
            else:
                sample[node.id] = None  # made for the whole batch, by FFCV's own Python
        return sample

    def _keyed(self) -> list[Any]:
        return [node for node in self._graph.nodes if hasattr(_operation(node), "keys_at")]

    def _image(self, row: Any, node: Any, salt: int | None, index: int) -> tuple[Any, str]:
        op = _operation(node)
        height, width = int(row["height"]), int(row["width"])
        data = self._read(row["data_ptr"])
        why = ""
        try:
            pixels = decode_jpeg(data.tobytes()) if row["mode"] == JPG else data.reshape(height, width, 3)
            if pixels.shape != (height, width, 3):
                raise ValueError("its JPEG has another size than its record")
        except ValueError as reason:
            pixels, why = np.zeros((height, width, 3), np.uint8), str(reason)
        if not hasattr(op, "get_crop_generator"):
            return pixels, why
        with _generator(_key(self._recipe.seed + (salt or 0), self._place.epoch, index)):
            crop = getattr(op.get_crop_generator, "py_func", op.get_crop_generator)
            i, j, h, w = crop(height, width, op.scale, op.ratio)
        return resized(np.ascontiguousarray(pixels[i : i + h, j : j + w]), tuple(op.output_size)), why

    # ------------------------------------------------------------ a batch

    def collate(self, samples: list[dict[str, Any]]) -> tuple[tuple[Any, ...], tuple[BadHere, ...], bytes | None]:
        """A batch as FFCV makes it, its corrupt samples, and what the operations changed in themselves."""
        self._open()
        assert self._attributes is not None
        indices = np.array([sample["index"] for sample in samples], np.uint64)
        done: dict[int, Any] = {}
        with _uncompiled(), _generator(_key(self._recipe.seed, self._place.epoch, int(indices[0]))):
            for root in self._graph.root_nodes:
                self._run(root, None, None, root.field_name, indices, samples, done)
        values = tuple(done[_source(node).id] for node in self._graph.leaf_nodes.values())
        bad = tuple(BadHere(n, int(s["index"]), s["why"]) for n, s in enumerate(samples) if s["why"])
        return values, bad, self._attributes.since_start()

    def _run(
        self, node: Any, value: Any, state: Any, field: str, indices: Any, samples: Any, done: dict[int, Any]
    ) -> None:
        from ffcv.pipeline.graph import INITIAL_STATE

        op = _operation(node)
        if op is not None:
            op.accept_field(self._graph.handlers[field])
            op.accept_globals(self._graph.metadata[f"f{self._graph.fieldname_to_fix[field]}"], self._read)
            state, wanted = op.declare_state_and_memory(state or INITIAL_STATE)
            if value is None and samples[0][node.id] is not None:
                value = np.stack([sample[node.id] for sample in samples])
            else:
                value = self._apply(node, op, value, wanted, indices)
            done[node.id] = value
        for child in self._graph.adjacency_list[node]:
            self._run(child, value, state, field, indices, samples, done)

    def _apply(self, node: Any, op: Any, value: Any, wanted: Any, indices: Any) -> Any:
        count = len(indices)
        if type(op).__name__ == "NormalizeImage":  # pixel by pixel in FFCV, too slow in Python
            table = op.lookup_table.view(op.dtype)
            return np.stack([table[value[..., channel], channel] for channel in range(3)], -1)
        memory = _memory(wanted, count)
        if getattr(op, "keys_at", None) is not None:
            salt = self._keyed().index(node)
            memory[op.keys_at][:, 0] = mixed(self._recipe.seed + salt, self._place.epoch, indices)
        if node.id not in self._codes:
            self._codes[node.id] = op.generate_code()
        code = self._codes[node.id]
        shared = op.generate_code_for_shared_state()
        arguments = [indices if node.parent is None else value, memory]
        if getattr(code, "with_indices", False):
            arguments.append(indices)
        if node.parent is None:
            arguments += [self._graph.metadata[f"f{node.f_ix}"], None]
        if shared is not None:
            share = _memory(op.declare_shared_memory(None), count)
            shared(share)
            arguments.append(share)
        result = code(*arguments)
        return result[:count] if hasattr(result, "__getitem__") else result


class ChangingSamples(PlainSamples):
    """Operations that change as they run: their state is kept by the trainer, for the process that comes next."""

    def state_dict(self) -> dict[str, Any]:
        """What running changed so far."""
        return {"changes": self._resumed if self._attributes is None else self._attributes.since_start()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.close()
        self._resumed = state["changes"]


def _operation(node: Any) -> Any:
    return getattr(node, "operation", None) or getattr(node, "decoder", None)


def _source(node: Any) -> Any:
    while _operation(node) is None:
        node = node.parent
    return node


def _key(seed: int, epoch: int, number: int) -> int:
    return int(mixed(seed, epoch, np.array([number]))[0])


def _memory(wanted: Any, count: int) -> Any:
    from ffcv.pipeline.allocation_query import AllocationQuery, allocate_query

    if wanted is None:
        return None
    if isinstance(wanted, AllocationQuery):
        return allocate_query(wanted, count, 1)[0]
    return tuple(_memory(one, count) for one in wanted)


@contextmanager
def _generator(key: int) -> Iterator[None]:
    """numpy's generator, which draws what numba's would with the same key; put back afterwards."""
    before = np.random.get_state()
    np.random.seed(key)
    try:
        yield
    finally:
        np.random.set_state(before)


@contextmanager
def _uncompiled() -> Iterator[None]:
    from ffcv.pipeline.compiler import Compiler

    before = getattr(Compiler, "is_enabled", True)
    Compiler.set_enabled(False)
    try:
        yield
    finally:
        Compiler.set_enabled(before)


class PlainWay:
    """As `Way`: a DataLoader over `PlainSamples`, made anew for each epoch.

    Args:
        recipe: What to make; its ``num_workers`` are processes here.
        settings: What the inner DataLoader obeys.
        recorder: Where faults are told.
    """

    def __init__(self, recipe: Recipe, settings: Settings, recorder: Recorder) -> None:
        self._recipe = recipe
        self._policy = inner_policy(settings, fallback=settings.fallback)
        self._recorder = recorder
        self._loader: DataLoader[Any] | None = None
        self._iterator: Any = None
        self._samples: PlainSamples | None = None
        self._attributes: Attributes | None = None

    def begin(self, place: EnginePlace) -> None:
        """As `Way`."""
        from safeloader.ffcv.process_backend import HostedFacts, HostedPlan

        self.close()
        patches.threads_restored(require)
        order = self._recipe.order
        samples = order.samples(place.epoch, Beton(self._recipe.path, self._recipe.custom_fields))
        rest = samples[place.batch * order.batch_size :]
        batches = [rest[n : n + order.batch_size].tolist() for n in range(0, len(rest), order.batch_size)]
        self._attributes = Attributes(pipelines.operations_of(self._recipe.pipelines))
        changing = self._attributes.may_change
        dataset = self._samples = (ChangingSamples if changing else PlainSamples)(self._recipe, place)
        workers = min(self._recipe.num_workers, 1) if changing else self._recipe.num_workers
        plan = HostedPlan(len(order))
        plan.place = place
        self._loader = DataLoader(
            dataset, batch_sampler=batches, collate_fn=dataset.collate,  # type: ignore[arg-type]
            num_workers=workers, multiprocessing_context="spawn" if workers else None,
            policy=self._policy, name=self._recorder.name,
        )  # fmt: skip
        speak_through(self._loader, HostedFacts(self._recorder, plan, self._recipe))
        self._iterator = iter(self._loader) if batches else iter(())

    def next(self) -> Arrived:
        """As `Way`."""
        arrived = fetched(self._iterator)
        if arrived.changes is not None and self._attributes is not None:
            self._attributes.hear(arrived.changes)
        return arrived

    def stop(self) -> None:
        """As `Way`."""
        self.close()

    def close(self) -> None:
        """As `Way`."""
        self._iterator = None
        if self._loader is not None:
            self._loader.close()
            self._loader = None
        if self._samples is not None:
            self._samples.close()
