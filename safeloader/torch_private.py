"""What torch keeps private is touched here and in `torch_ambient` only.

Each use names the test that would notice its change.

Parity tests: ``tests/api/test_torch_private.py``.
"""

from __future__ import annotations

import random
import types
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import IterDataPipe, MapDataPipe
from torch.utils.data._utils import worker as _torch_worker
from torch.utils.data._utils.collate import collate_numpy_array_fn as torch_collate_array
from torch.utils.data._utils.collate import collate_tensor_fn as torch_collate_tensor
from torch.utils.data._utils.collate import default_collate_fn_map
from torch.utils.data.dataloader import (
    _BaseDataLoaderIter,
    _DatasetKind,
    _MultiProcessingDataLoaderIter,
    _SingleProcessDataLoaderIter,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch.utils.data import DataLoader

__all__ = [
    "BaseIterator",
    "ExceptionWrapper",
    "MultiProcessingIterator",
    "SingleProcessIterator",
    "apply_shared_seed",
    "default_store",
    "group_timeout",
    "queue_names",
    "default_collate_fn_map",
    "has_modes",
    "index_sampler",
    "is_iterable",
    "leave_operators_at_exit",
    "norms",
    "plain_tensor",
    "profiling",
    "seed_worker",
    "set_worker_info",
    "sharded_init_fn",
    "torch_collate_array",
    "torch_collate_tensor",
    "unwrapped",
]

BaseIterator = _BaseDataLoaderIter
MultiProcessingIterator = _MultiProcessingDataLoaderIter
SingleProcessIterator = _SingleProcessDataLoaderIter


def names_in(cls: type) -> set[str]:
    """All names of globals and attributes in the code of a class; of a class that is mentioned, its own name, too."""
    names: set[str] = set()
    for function in (getattr(found, "__func__", found) for found in vars(cls).values()):
        if isinstance(function, types.FunctionType):
            mentioned = _names_in(function.__code__)
            held = [function.__globals__.get(name) for name in mentioned]
            held += [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
            names |= mentioned | {found.__name__ for found in held if isinstance(found, type)}
    return names


def _names_in(code: types.CodeType) -> set[str]:
    inner = [_names_in(found) for found in code.co_consts if isinstance(found, types.CodeType)]
    return set(code.co_names).union(*inner)


def queue_names() -> set[str]:
    """What torch's multiprocess iterator has, for its queues and processes, that its base class has not."""
    own = {*names_in(MultiProcessingIterator), *vars(MultiProcessingIterator)} - names_in(BaseIterator)
    return {name for name in own if name.startswith("_") and not name.startswith("__")} - {"_reset"}


def is_iterable(loader: DataLoader[Any]) -> bool:
    """True if the loader's dataset is iterable-style, by torch's own decision."""
    return bool(loader._dataset_kind == _DatasetKind.Iterable)


def index_sampler(loader: DataLoader[Any]) -> Any:
    """The sampler that gives batches of indices (or single indices without automatic batching)."""
    return loader._index_sampler


def seed_worker(base_seed: int, worker: int) -> int:
    """Seed the three generators of a worker as torch does. Returns the worker's seed."""
    seed = base_seed + worker
    random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the trainer's accelerators
    if _torch_worker.HAS_NUMPY:  # type: ignore[attr-defined]
        import numpy

        numpy.random.seed(_torch_worker._generate_state(base_seed, worker))  # type: ignore[no-untyped-call]
    return seed


def set_worker_info(worker: int | None, num_workers: int = 0, seed: int = 0, dataset: Any = None) -> None:
    """Make ``torch.utils.data.get_worker_info()`` speak of this worker; of none with ``None``."""
    info = None
    if worker is not None:
        info = _torch_worker.WorkerInfo(id=worker, num_workers=num_workers, seed=seed, dataset=dataset)
    _torch_worker._worker_info = info


def get_worker_info() -> Any:
    """The info object itself, to be put back later."""
    return _torch_worker._worker_info


def put_worker_info(info: Any) -> None:
    """Put back what ``get_worker_info`` gave."""
    _torch_worker._worker_info = info


def sharded_init_fn(
    dataset: Any, init_fn: Callable[[int], None] | None, world_size: int, rank: int
) -> Callable[[int], None] | None:
    """torch shards its data pipes in the worker's init function; other datasets keep theirs."""
    if not isinstance(dataset, (IterDataPipe, MapDataPipe)):
        return init_fn
    import functools

    from torch.utils.data.dataloader import _sharding_worker_init_fn

    return functools.partial(_sharding_worker_init_fn, init_fn, world_size, rank)


def apply_shared_seed(dataset: Any, shared_seed: int | None) -> Any:
    """Seed the shuffling of an IterDataPipe for an epoch, alike in all workers; other datasets pass through."""
    if not isinstance(dataset, IterDataPipe) or shared_seed is None:
        return dataset
    from torch.utils.data.graph_settings import apply_random_seed

    generator = torch.Generator()
    generator.manual_seed(shared_seed)
    return apply_random_seed(dataset, generator)


def plain_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A detached view of a tensor as a plain one, past whatever a subclass overrides."""
    if type(tensor) is torch.Tensor:
        return tensor.detach()
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.detach().as_subclass(torch.Tensor)


_BY_ROW, _BY_COLUMN = ("crow_indices", "col_indices", "values"), ("ccol_indices", "row_indices", "values")
SPARSE_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: _BY_ROW,
    torch.sparse_bsr: _BY_ROW,
    torch.sparse_csc: _BY_COLUMN,
    torch.sparse_bsc: _BY_COLUMN,
}
"""The methods that give the tensors of which a sparse one is made."""


def parts_of(plain: torch.Tensor) -> Iterable[torch.Tensor]:
    """The strided tensors of which any detached one is made."""
    if plain.layout in SPARSE_PARTS:
        return [getattr(plain, part)() for part in SPARSE_PARTS[plain.layout]]
    if plain.is_nested:
        return plain.unbind()
    if plain.is_quantized:
        return (plain.int_repr(),)
    return (plain.resolve_conj().resolve_neg(),) if plain.is_conj() or plain.is_neg() else (plain,)


def is_compiled_module(thing: object) -> bool:
    """True for what lies under a module of TorchScript; its attributes are C++'s."""
    return isinstance(thing, torch._C.ScriptModule)


profiling: Callable[[], bool] = torch.autograd._profiler_enabled  # type: ignore[attr-defined]
"""True while torch's profiler records; its ranges are worth their cost only then."""


def has_modes() -> bool:
    """True while something stands between torch's functions and what they do: a default device, say."""
    return bool(torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack())


def length_was_asked(iterator: _BaseDataLoaderIter) -> bool:
    """True if torch counts an iterable dataset's batches against the length it told."""
    return iterator._IterableDataset_len_called is not None  # type: ignore[redundant-expr, unused-ignore]


def wrap_exception(error: BaseException, where: str) -> ExceptionWrapper:
    """What torch's workers send for an exception; its ``reraise`` makes the error that torch's users know."""
    return ExceptionWrapper((type(error), error, error.__traceback__), where=where)  # type: ignore[no-untyped-call]


def pin(batch: Any, device: str | None) -> Any:
    """Copy a batch into pinned memory, as torch's pin-memory thread does."""
    from torch.utils.data._utils.pin_memory import pin_memory

    return pin_memory(batch, device)  # type: ignore[no-untyped-call]


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The user's model inside of torch's wrappers: compiled, DistributedDataParallel, DataParallel."""
    parallel = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    while True:
        inner = model.module if isinstance(model, parallel) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, torch.nn.Module):
            return model
        model = inner


def norms(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The 2-norm of each of at least one tensor, in one call, without history; of half precision, in single.

    Source: ``torch.nn.utils.get_total_norm``, which finds them so.
    """
    recorded = torch.is_grad_enabled()
    torch._C._set_grad_enabled(False)  # torch.no_grad takes as long as five norms
    try:
        if not any(tensor.dtype in _HALVES for tensor in tensors):
            return list(torch._foreach_norm(tensors))
        return [torch.linalg.vector_norm(t, dtype=torch.float32 if t.dtype in _HALVES else None) for t in tensors]
    finally:
        torch._C._set_grad_enabled(recorded)


_HALVES = (torch.float16, torch.bfloat16)


def sent_to_cpu(tensor: torch.Tensor) -> tuple[torch.Tensor, Callable[[], object]]:
    """A copy in the main memory that is on its way, and what waits until it is there."""
    if tensor.device.type != "cuda":
        return tensor.cpu(), int
    copied = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copied.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(tensor.device))
    return copied, arrived.synchronize


def on_registration(hook: Callable[..., None]) -> None:
    """Call a function whenever any module gets a parameter, a buffer or a module, for as long as the program runs."""
    torch.nn.modules.module.register_module_parameter_registration_hook(hook)
    torch.nn.modules.module.register_module_buffer_registration_hook(hook)
    torch.nn.modules.module.register_module_module_registration_hook(hook)


def is_unscaled(scaler: Any, optimizer: torch.optim.Optimizer) -> bool:
    """Whether a GradScaler has taken its scale out of an optimizer's gradients in this step.

    Source: ``torch.amp.GradScaler.unscale_``.
    """
    state = scaler._per_optimizer_states.get(id(optimizer))
    return state is not None and state["stage"].name != "READY"


def on_optimizer_steps(hook: Callable[[torch.optim.Optimizer, Any, Any], None]) -> None:
    """Call a function before each step of any optimizer, for as long as the program runs."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    register_optimizer_step_pre_hook(hook)


def leave_operators_at_exit() -> None:
    """Keep torch from taking back, when this process ends, the operators that Python code has defined.

    That is nothing to a process that is gone, and takes longer than all else there is to do at an end; in a fork it
    also copies what was shared until then.

    Source: ``torch.library.Library``, which registers ``_del_library`` as a finalizer.
    """
    takes_back = getattr(torch.library, "_del_library", None)
    registered: Any = getattr(weakref.finalize, "_registry", ())
    for finalizer in list(registered):
        found = finalizer.peek()
        if found is not None and found[1] is takes_back:
            finalizer.atexit = False


# ---------------------------------------------------------------- storages: tests/runtime/test_by_value_shared.py


def untyped(storage: Any) -> torch.UntypedStorage:
    """The memory under a typed storage, without torch's warning that typed storages will go."""
    memory: torch.UntypedStorage = storage._untyped_storage
    return memory


def share_storage_by_name(storage: torch.UntypedStorage) -> Any:
    """Share memory under a name (sharing strategy ``file_system``): manager, handle and bytes."""
    return storage._share_filename_cpu_()


def open_named_storage(manager: bytes, handle: bytes, size: int) -> torch.UntypedStorage:
    """Open what ``share_storage_by_name`` shared."""
    opening: Any = torch.UntypedStorage._new_shared_filename_cpu
    opened: torch.UntypedStorage = opening(manager, handle, size)
    return opened


def default_store() -> Any:
    """The key-value store of the default process group."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


def group_timeout() -> float | None:
    """Seconds for which a collective operation of the default process group may take; None where torch does not tell.

    torch has a setter and no getter. Each backend has options with the timeout; the store was given the same.
    """
    from torch.distributed.distributed_c10d import _get_default_group

    group = _get_default_group()
    known = []
    for device in group._device_types:
        try:
            known.append(group._get_backend(device).options._timeout.total_seconds())
        except (AttributeError, RuntimeError):  # a backend without options, such as MPI, or from elsewhere
            continue
    return min(known, default=None)
