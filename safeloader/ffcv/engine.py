"""FFCV in this process: one compiled pipeline and, at a time, one thread that runs it.

::

    Engine ──epoch──▶ Producer (a thread): decode, transform ─▶ queue ─▶ Batches.next(): checked, leased
       │ set_size: in place, or through the factory with everything compiled once
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import numpy as np

from safeloader.errors import PipelineError
from safeloader.ffcv import numba_cache, patches, pipelines
from safeloader.ffcv.batches import Batches
from safeloader.ffcv.beton import Beton, unchanged
from safeloader.ffcv.leases import Pool, Slots
from safeloader.ffcv.recipe import EnginePlace, Recipe
from safeloader.ffcv.require import require

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Engine", "EnginePlace", "Recipe", "threading_layer"]


class Engine:
    """Runs a recipe in this process.

    Args:
        recipe: What to run.
        size: Image size to begin with; None: as the pipelines say.

    Raises:
        FFCVMissingError: FFCV cannot be imported.
        BetonError: The file was changed since the recipe was written.
        PipelineError: The pipelines cannot work.
    """

    def __init__(self, recipe: Recipe, size: int | None) -> None:
        require()
        if recipe.cache:
            numba_cache.keep_in(recipe.cache)
        self.recipe = recipe
        self.size: int | None = None
        unchanged(recipe.path, recipe.print)
        self.beton = Beton(recipe.path, recipe.custom_fields)
        self.loader: Any = patches.threads_restored(self._bare_loader)
        self._memory_read = self.loader.memory_manager.compile_reader()
        self._pools: dict[tuple[Any, ...], Pool] = {}
        self._specs: dict[str, Any] = {}
        self._codes: dict[tuple[str, int], tuple[Any, Any]] = {}  # what runs, and what it was made from
        self._anew = 0
        self.told: Callable[[], bytes | None] | None = None  # where operations may change: what changed
        self._batches: Batches | None = None
        self.compile(size)

    def _bare_loader(self) -> Any:
        """FFCV's loader with no pipeline yet: its reader, its memory manager."""
        from ffcv.loader import Loader

        recipe = self.recipe
        return Loader(
            recipe.path, recipe.order.batch_size, num_workers=recipe.num_workers, os_cache=recipe.os_cache, seed=0,
            pipelines=dict.fromkeys(self.beton.fields), custom_fields=recipe.custom_fields, drop_last=False,
            batches_ahead=recipe.batches_ahead,
        )  # fmt: skip

    # ------------------------------------------------------------ size

    def compile(self, size: int | None) -> None:
        """Make the pipeline of a size; what was compiled before is compiled no more."""
        from ffcv.pipeline.compiler import Compiler

        given = self.recipe.pipelines
        factory = pipelines.is_factory(given)
        if factory:
            given = pipelines.made(given, size or 0)
        sized = size is not None and not factory
        self._specs = pipelines.copied(given, self.beton, sized)
        if sized and size is not None:
            pipelines.resize_all(self._specs, size)
        Compiler.set_num_threads(self.recipe.num_workers)
        self.loader.graph = pipelines.graph_of(self._specs, self.beton, self._memory_read)
        self._codes.clear()
        self._generate(self.loader.graph.collect_requirements()[1])
        self.size = size

    def _generate(self, code: Any, anew: bool = False) -> None:
        """Use new code where an attribute that went into it was changed since; other code stays, with what it keeps."""
        changed = False
        for kind, by_node in code.items():
            for node, function in by_node.items():
                key = numba_cache.named(function, by_identity=False)
                if anew or (kind, node) not in self._codes or self._codes[kind, node][1] != key:
                    self._codes[kind, node] = function, key
                    changed = True
                by_node[node] = self._codes[kind, node][0]
        if changed:
            self.loader.code = self.loader.graph.codegen_all(code)

    def set_size(self, size: int | None) -> None:
        """Change the size: in place, or by making the pipeline anew where a factory was given."""
        if size == self.size or size is None:
            return
        if pipelines.is_factory(self.recipe.pipelines):
            self.compile(size)
        else:
            pipelines.resize_all(self._specs, size)
            self.size = size

    # ------------------------------------------------------------ memory

    def allocate(self, anew: bool | None) -> tuple[Any, list[Slots], list[tuple[Any, int | None, int | None]]]:
        """Memory for an epoch: FFCV's buffers, those of them that are leased, and who wants keys or gives verdicts.

        The operations are asked what they need, and for their code, as they are now.

        Args:
            anew: Take all code anew; None: none of it.
        """
        count, batch = self.loader.batches_ahead + 2, self.loader.batch_size
        graph = self.loader.graph
        asked = graph.collect_requirements()
        if anew is not None:
            self._generate(asked[1], anew)
        graph.collect_requirements = lambda: asked
        try:
            buffers = graph.allocate_memory(batch, count)
        finally:
            del graph.collect_requirements
        pools, self._pools = self._pools, {}
        leased = []
        if self.recipe.copy:
            for node in self._ends(buffers["operation"]):
                slots = self._lease(buffers["operation"], node, count, pools)
                leased += [slots] if slots is not None else []
        guards = [
            (node, getattr(op, "verdicts_at", None), getattr(op, "keys_at", None))
            for node, op in self._nodes()
            if hasattr(op, "keys_at")
        ]
        return buffers, leased, guards

    def _nodes(self) -> list[tuple[int, Any]]:
        return [
            (node.id, getattr(node, "operation", None) or getattr(node, "decoder", None))
            for node in self.loader.graph.nodes
        ]

    def _ends(self, buffers: Any) -> list[int]:
        """The nodes whose memory comes out of a pipeline: the last of each that has any."""
        found: dict[int, None] = {}
        for node in self.loader.graph.leaf_nodes.values():
            while node is not None and buffers.get(node.id) is None:
                node = node.parent
            if node is not None:
                found[node.id] = None
        return list(found)

    def _lease(self, buffers: Any, node: int, count: int, pools: dict[tuple[Any, ...], Pool]) -> Slots | None:
        """Put leased slots in the place of FFCV's; of a pool that is there, if it fits."""
        whole = buffers[node]
        if isinstance(whole, tuple) and not hasattr(dict(self._nodes())[node], "keys_at"):
            return None  # which of them comes out is not known: copied, if need be
        first = whole[0] if isinstance(whole, tuple) else whole
        if not isinstance(first, np.ndarray):
            return None
        key = (node, first.shape[1:], first.dtype)
        self._pools[key] = pools[key] if key in pools else Pool(first.shape[1:], first.dtype, spare=count)
        slots = Slots(self._pools[key], count)
        buffers[node] = (slots, *whole[1:]) if isinstance(whole, tuple) else slots
        return slots

    # ------------------------------------------------------------ running

    def begin(self, place: EnginePlace) -> Batches:
        """The batches from a place to the end of its epoch. The ones before are ended."""
        from safeloader.ffcv.producer import Producer

        self.stop()
        unchanged(self.recipe.path, self.recipe.print)
        self.set_size(place.size)
        anew = self.recipe.recompile or place.anew != self._anew
        self._anew = place.anew
        order = self.recipe.order.samples(place.epoch, self.beton)
        start = place.batch * self.recipe.order.batch_size
        self._batches = Batches(Producer(self, order[start:], place, anew))
        return self._batches

    def stop(self) -> None:
        """End what runs."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def close(self) -> None:
        """End, and let the file go."""
        self.stop()
        self.loader = self._memory_read = None
        self._pools.clear()
        self._specs.clear()
        gc.collect(0)

    def warm_up(self) -> None:
        """Compile everything by running the compiled code over one sample; operations in Python are not run.

        What goes wrong here goes wrong again, with its name.
        """
        from safeloader.ffcv.producer import Producer

        stages, outputs = self.loader.code
        self.loader.code = stages[:1], []
        try:
            batches = Batches(Producer(self, self.recipe.order.indices[:1], EnginePlace(0, 0, self.size), anew=None))
            try:
                batches.next(None)
            except Exception:
                pass
            finally:
                batches.close()
        finally:
            self.loader.code = stages, outputs


def threading_layer(num_workers: int) -> str:
    """The library by which numba runs more than one thread; "" with one.

    Raises:
        PipelineError: It is ``workqueue``, which ends the program when two loaders run at the same time.
    """
    import numba

    if num_workers <= 1:
        return ""
    layer = _layer(numba)
    if layer == "workqueue":
        raise PipelineError(
            "numba would run FFCV's workers by its layer workqueue, which ends the whole program as soon as two "
            "loaders run at the same time",
            hint="install TBB (apt-get install libtbb12, or pip install tbb) or libgomp1, or unset "
            "NUMBA_THREADING_LAYER; or num_workers=1, or Policy(ffcv_mode='process')",
        )
    return layer


def _layer(numba: Any) -> str:
    try:
        return str(numba.threading_layer())
    except ValueError:  # none was needed so far
        pass
    asked = numba.config.THREADING_LAYER
    if asked in ("tbb", "omp", "workqueue"):
        return str(asked)
    for name in numba.config.THREADING_LAYER_PRIORITY:
        try:
            __import__(f"numba.np.ufunc.{ {'tbb': 'tbbpool', 'omp': 'omppool'}.get(name, name) }")
        except ImportError:
            continue
        return str(name)
    return "workqueue"
