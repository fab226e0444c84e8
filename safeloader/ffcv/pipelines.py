"""The user's pipelines: copied, never changed (libffcv/ffcv issue 316), and looked through before anything is compiled.

What FFCV meets with an abort (a size of 0, a crop ratio above 1), an endless constructor, or a thread that dies, is an
error here that names the operation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from safeloader.errors import PipelineError
from safeloader.ffcv.resize import whole
from safeloader.spelling import nearest

if TYPE_CHECKING:
    from safeloader.ffcv.beton import Beton
    from safeloader.ffcv.resize import ProgressiveResize

__all__ = [
    "Pipelines",
    "completed",
    "copied",
    "examined",
    "graph_of",
    "is_factory",
    "looked_through",
    "made",
    "operations_of",
    "resize_all",
    "validate",
    "with_decoder",
]

Pipelines = Mapping[str, Any]


def is_factory(pipelines: Any) -> bool:
    """Whether these are ``pipelines(size)`` and not pipelines.

    Raises:
        PipelineError: Neither.
    """
    if isinstance(pipelines, Mapping):
        return False
    if callable(pipelines):
        return True
    raise PipelineError(
        f"pipelines must be a mapping, or a function of the size that returns one, not {type(pipelines).__name__}"
    )


def made(factory: Callable[[int], Pipelines], size: int) -> Pipelines:
    """The pipelines of a size.

    Raises:
        PipelineError: The factory returns no mapping, or pays no heed to the size.
    """
    pipelines = factory(size)
    if not isinstance(pipelines, Mapping):
        raise PipelineError(f"pipelines({size}) returned a {type(pipelines).__name__}, not a mapping")
    return pipelines


def completed(pipelines: Pipelines, beton: Beton) -> dict[str, Any]:
    """The pipelines as they are now, each a specification of the user's own operations; lists may change afterwards.

    Fields that are not named get their default, as FFCV gives it to them.

    Raises:
        PipelineError: A name that is no field, or something that is no pipeline.
    """
    from ffcv.pipeline import PipelineSpec
    from ffcv.transforms import ToTensor

    specs = {name: given if given is None else _spec(name, given, beton) for name, given in pipelines.items()}
    handlers = _handlers(beton)
    for name in beton.fields:
        if name not in pipelines:
            specs[name] = PipelineSpec(name, transforms=[_default(name, handlers[name]), ToTensor()])
    if not any(spec is not None for spec in specs.values()):
        raise PipelineError("every field is disabled, so that there is nothing to load")
    ordered = [*(name for name in beton.fields if name in specs), *(name for name in specs if name not in beton.fields)]
    return {name: specs[name] for name in ordered}


def copied(pipelines: Pipelines, beton: Beton, sized: bool = False, apart: bool = False) -> dict[str, Any]:
    """FFCV's specifications, of views of the operations.

    Args:
        pipelines: The user's, or completed ones.
        beton: The file.
        sized: A schedule sets the size of each operation that has one.
        apart: Only to look at: nothing that is done to them reaches the operations.

    Raises:
        PipelineError: A name that is no field, something that is no pipeline, or a size that would abort.
    """
    from ffcv.pipeline import PipelineSpec

    views = _Views(sized, apart)
    specs = {}
    for name, spec in completed(pipelines, beton).items():
        if spec is not None:
            source = spec.source if isinstance(spec.source, str) else views.of(spec.source)
            specs[name] = PipelineSpec(source, views.of(spec.decoder), [views.of(op) for op in spec.transforms])
    for op in operations_of(specs):
        validate(op)
    return specs


def _spec(name: str, given: Any, beton: Beton) -> Any:
    from ffcv.pipeline import PipelineSpec

    if isinstance(given, PipelineSpec):
        spec = PipelineSpec(given.source, given.decoder, list(given.transforms))
    elif isinstance(given, Sequence) and not isinstance(given, str):
        spec = PipelineSpec(name, transforms=list(given))
    else:
        raise PipelineError(f"the pipeline of {name!r} must be a sequence of operations, not {given!r}", where=name)
    if isinstance(spec.source, str) and spec.source not in beton.fields:
        guess = nearest(spec.source, beton.fields)
        raise PipelineError(
            f"{beton.path} has no field {spec.source!r}" + (f"; {guess}" if guess else ""),
            where=name,
            hint=f"its fields are {', '.join(beton.fields)}",
        )
    return spec


def with_decoder(spec: Any, beton: Beton) -> Any:
    """A specification as FFCV's graph completes it: its decoder by itself."""
    from ffcv.pipeline import PipelineSpec

    whole = PipelineSpec(spec.source, spec.decoder, list(spec.transforms))
    if isinstance(spec.source, str):
        whole.accept_decoder(_handlers(beton)[spec.source].get_decoder_class(), spec.source)
    return whole


class _Views:
    """One view of each operation, so that pipelines that share one still do.

    Args:
        sized: See `copied`.
        apart: See `copied`.
    """

    def __init__(self, sized: bool, apart: bool) -> None:
        self._sized, self._apart = sized, apart
        self._of: dict[int, Any] = {}

    def of(self, operation: Any) -> Any:
        from ffcv.pipeline.operation import Operation

        from safeloader.ffcv.decoders import guarded

        if not isinstance(operation, Operation):
            return operation  # a torch module is shared: it may hold weights
        if id(operation) not in self._of:
            self._of[id(operation)] = guarded(copy.copy(operation) if self._apart else operation, self._sized)
        return self._of[id(operation)]


def _handlers(beton: Beton) -> dict[str, Any]:
    from ffcv.types import get_handlers

    handlers = dict(zip(beton.fields, get_handlers(beton.descriptors), strict=True))
    return handlers | beton.custom_handlers


def _default(name: str, handler: Any) -> Any:
    try:
        return handler.get_decoder_class()()
    except Exception as reason:
        raise PipelineError(f"field {name!r} has no default decoder; give it a pipeline ({reason})") from reason


def validate(op: Any) -> None:
    """Look whether FFCV can run an operation as it is now.

    Raises:
        PipelineError: It is none, or has a size or a crop at which FFCV aborts.
    """
    import torch
    from ffcv.pipeline.operation import Operation

    name = type(op).__name__
    if not isinstance(op, (Operation, torch.nn.Module)):
        raise PipelineError(f"{op!r} is neither an operation of FFCV nor a torch.nn.Module")
    size = getattr(op, "output_size", None)
    if size is not None and not (
        isinstance(size, (tuple, list)) and len(size) == 2 and all((whole(side) or 0) > 0 for side in size)
    ):
        raise PipelineError(
            f"{name}: output_size={size!r} is not accepted: it must be (height, width), positive whole numbers",
            where=name,
        )
    ratio = getattr(op, "ratio", None)
    if type(op).__name__ == "CenterCropRGBImageDecoder" and not (isinstance(ratio, Real) and 0 < float(ratio) <= 1):
        raise PipelineError(
            f"{name}: ratio={ratio!r} is not accepted: the crop is this share of the shorter side, above 0 and at "
            "most 1; FFCV would abort",
            where=name,
        )


def resize_all(specs: Mapping[str, Any], size: int) -> int:
    """Set the size of every operation that has one, in place; nothing is compiled. Returns how many there are."""
    count = 0
    for op in operations_of(specs):
        if hasattr(op, "output_size"):
            op.output_size = (size, size)
            count += 1
        elif type(op).__name__ == "RandomResizedCrop" and hasattr(op, "size"):
            op.size = size
            count += 1
    return count


def operations_of(specs: Any) -> list[Any]:
    """Each operation once, in order; a function that makes the pipelines is its own."""
    if callable(specs):
        return [specs]
    found: dict[int, Any] = {}
    for spec in specs.values():
        for op in (spec.decoder, *spec.transforms) if spec is not None else ():
            if op is not None:
                found[id(op)] = op
    return list(found.values())


def on_cpu(specs: Mapping[str, Any]) -> bool:
    """Whether nothing here needs the trainer's accelerator."""
    import torch

    for op in operations_of(specs):
        device = getattr(op, "device", None)
        if device is not None and torch.device(device).type != "cpu":
            return False
        if isinstance(op, torch.nn.Module) and any(p.device.type != "cpu" for p in op.parameters()):
            return False
    return True


def graph_of(specs: Mapping[str, Any], beton: Beton, memory_read: Any) -> Any:
    """FFCV's graph of these specifications, which it changes: they are used up."""
    from ffcv.pipeline.graph import Graph

    places = {name: number for number, name in enumerate(beton.fields)}
    return Graph(dict(specs), _handlers(beton), places, beton.metadata, memory_read)


def examined(specs: Mapping[str, Any], beton: Beton) -> dict[str, Any]:
    """What comes out of each pipeline (FFCV's `State`: shape, type, device), found without compiling anything.

    Raises:
        PipelineError: The pipeline cannot run on the CPU in this order, or an operation refuses what it is given.
    """
    graph = graph_of(specs, beton, None)
    leaves: dict[str, Any] = {}
    for root in graph.root_nodes:
        _walk(graph, root, None, root.field_name, [], leaves)
    return leaves


def _walk(graph: Any, node: Any, state: Any, field: str, before: list[str], leaves: dict[str, Any]) -> None:
    from ffcv.pipeline.graph import INITIAL_STATE, RefNode

    after = state
    if not isinstance(node, RefNode):
        op = getattr(node, "operation", None) or node.decoder
        name = type(getattr(op, "module", op)).__name__
        op.accept_field(graph.handlers[field])
        op.accept_globals(graph.metadata[f"f{graph.fieldname_to_fix[field]}"], None)
        try:
            after, _ = op.declare_state_and_memory(INITIAL_STATE if state is None else state)
        except Exception as reason:
            raise PipelineError(
                f"field {field!r}: {name} cannot follow {' -> '.join(before) or 'nothing'}: {reason}", where=field
            ) from reason
        if state is not None and not state.jit_mode and after.jit_mode:
            raise PipelineError(
                f"field {field!r}: {name} is compiled and works on arrays, but comes after {' -> '.join(before)}, "
                "which gives a tensor",
                where=field,
                hint=f"on the CPU put {name} before ToTensor (ffcv-imagenet's order is that of a GPU pipeline)",
            )
        before = [*before, name]
    for output, leaf in graph.leaf_nodes.items():
        if leaf is node:
            leaves[output] = after
    for child in graph.adjacency_list[node]:
        _walk(graph, child, after, field, before, leaves)


def looked_through(given: Any, beton: Beton, resize: ProgressiveResize | None, name: str) -> bool:
    """Look at a loader's pipelines before anything is compiled. Returns whether they can run without an accelerator.

    Raises:
        PipelineError: They cannot work, or do not fit the schedule.
    """
    factory = is_factory(given)
    if factory and resize is None:
        raise PipelineError(
            "pipelines is a function of the size, but there is no resize= to say which size",
            where=name,
            hint="give resize=ProgressiveResize([(0, 128), ...]), or pipelines(128)",
        )
    size = None if resize is None else resize.size_at(0)
    shapes, cpu = [], True
    for probe in (size, (size or 0) + 32) if factory else (size,):
        specs = copied(made(given, probe or 0) if factory else given, beton, sized=resize is not None, apart=True)
        if probe is not None and not factory and not resize_all(specs, probe):
            raise PipelineError(
                "resize= was given, but no operation of the pipelines has a size to set",
                where=name,
                hint="use RandomResizedCropRGBImageDecoder or CenterCropRGBImageDecoder, or give a function "
                "pipelines(size)",
            )
        shapes.append({output: tuple(state.shape or ()) for output, state in examined(specs, beton).items()})
        cpu = on_cpu(specs)
    if factory and shapes[0] == shapes[1]:
        raise PipelineError(f"pipelines(size) ignores the size: {shapes[0]} for any", where=name)
    return cpu
