"""What a carried stream calls when it is read: the reading half of `pickler`.

A worker process imports this module before anything else of the user's, so it imports only the standard
library, and torch only where the stream holds a tensor (which then could not be read without it).
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import types
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

    import torch


class _Reading(threading.local):
    """What the stream that this thread is reading refers to by number."""

    descriptors: Sequence[int] = ()
    classes: Sequence[type] | None = None
    gathered: Gathered | None = None
    script: dict[str, Any] | None = None
    handles: Sequence[tuple[str, str]] = ()


class Gathered:
    """What the streams read in a block of `gathering` hold that somebody looks after.

    Attributes:
        generators: The random generator objects, in the streams' order.
        opened: What was opened again for the reader.
        script: In the trainer: the variables of the main script that functions use, as they were sent.
    """

    def __init__(self) -> None:
        self.script: dict[str, Any] = {}
        self.generators: list[Any] = []
        self.opened: list[Any] = []

    def close(self) -> None:
        """Close what was opened, the last first. Nobody uses it any more."""
        while self.opened:
            made = self.opened.pop()
            try:
                (getattr(made, "close", None) or made.release)()
            except Exception:  # somebody looks into it still, or its own code fails
                pass


_reading = _Reading()


@contextmanager
def reading(
    descriptors: Sequence[int],
    classes: Sequence[type] | None,
    script: dict[str, Any] | None = None,
    handles: Sequence[tuple[str, str]] = (),
) -> Iterator[None]:
    """Let streams read in this block find `descriptors` and `classes` by their numbers.

    Args:
        descriptors: File descriptors of this process, in the order in which the stream numbers them.
        classes: The classes to use in place of those in the stream; None to make new ones.
        script: The namespace of the main script.
        handles: Attribute path, and words, of each open thing that the stream opens again.
    """
    before = _reading.descriptors, _reading.classes, _reading.script, _reading.handles
    _reading.descriptors, _reading.classes, _reading.script, _reading.handles = descriptors, classes, script, handles
    try:
        yield
    finally:
        _reading.descriptors, _reading.classes, _reading.script, _reading.handles = before


@contextmanager
def gathering() -> Iterator[Gathered]:
    """Gather what the streams read in this block hold; if reading fails, what was opened is closed again."""
    before = _reading.gathered
    _reading.gathered = found = Gathered()
    try:
        yield found
    except BaseException:
        found.close()
        raise
    finally:
        _reading.gathered = before


def function(
    code: types.CodeType, variables: dict[str, Any], name: str | None, defaults: Any, closure: Any
) -> types.FunctionType:
    """A function without its content. In the trainer, those of the main script share the script's own variables, as
    the methods of its classes do."""
    if _shares_script() and variables.get("__name__") in ("__main__", "__mp_main__"):
        variables = script_globals()
    variables["__builtins__"] = __builtins__
    return types.FunctionType(code, variables, name, defaults, closure)


def fill_function(made: types.FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Its attributes, cells and variables."""
    from cloudpickle.cloudpickle import _function_setstate

    attributes, slots = state
    if _shares_script() and made.__globals__ is script_globals() and _reading.gathered is not None:
        _reading.gathered.script.update(slots["__globals__"])
        slots = {**slots, "__globals__": {}}
    _function_setstate(made, (attributes, slots))


def _shares_script() -> bool:
    return _reading.gathered is not None and _reading.classes is not None


def random_generator(make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Build a random generator object; its state, if it comes apart from ``args``, follows in the stream."""
    made = make(*args)
    if _reading.gathered is not None:
        _reading.gathered.generators.append(made)
    return made


def reopened(number: int, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Open again what was open in the trainer.

    Raises:
        NotCarriableError: it cannot be opened here; named by its attribute path.
    """
    try:
        made = make(*args)
    except Exception as error:
        from safeloader.errors import NotCarriableError

        path, words = _reading.handles[number] if number < len(_reading.handles) else ("", "an open handle")
        text = " ".join(str(error).split())
        raise NotCarriableError(
            f"{path or 'something'} ({words}) cannot be opened again in a worker process: "
            f"{type(error).__name__}{': ' if text else ''}{text}",
            path=path,
            hint=getattr(error, "hint", "") or _OPENING,
        ) from error
    if _reading.gathered is None or getattr(make, "shared", False):
        return made
    if hasattr(made, "close") or hasattr(made, "release"):
        _reading.gathered.opened.append(made)
    return made


def descriptor(number: int) -> int:
    """The inherited descriptor with this number in the stream."""
    return _reading.descriptors[number]


_OPENING = "put back what it was opened from, or open it in the first __getitem__ of each process"


class Inherited:
    """Stands for a descriptor that the reading process inherited; used as multiprocessing's `DupFd` is."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def detach(self) -> int:
        """Return a descriptor of its own for each reader, so that one stream can be read many times."""
        return os.dup(_reading.descriptors[self.number])


def numbered_class(number: int) -> type:
    """Return a class that both sides know by `number`."""
    if _reading.classes is None or number >= len(_reading.classes):
        raise LookupError(f"class {number} of the carried classes is unknown here")
    return _reading.classes[number]


def make_class(number: int, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """Build the still empty class `number`, or return the reader's own class of that number."""
    return make(*args) if _reading.classes is None else _reading.classes[number]


def fill_class(cls: Any, state: tuple[Callable[[type, Any], object], Any, Any]) -> None:
    """Give a class built by `make_class` its methods; the reader's own class stays as it is."""
    if _reading.classes is not None:
        return
    fill, contents, of_enum = state
    fill(cls, contents)
    aliases, attributes = of_enum or ({}, {})
    for name, member in aliases.items():
        type.__setattr__(cls, name, cls[member])  # an Enum class itself does not let its members be set
        cls._member_map_[name] = cls[member]
    for name, found in attributes.items():
        vars(cls[name]).update(found)


def empty_cell() -> types.CellType:
    """Build the place of a captured variable, which functions may share."""
    return types.CellType()


def fill_cell(cell: types.CellType, contents: tuple[object]) -> None:
    """Give a captured variable its value."""
    (cell.cell_contents,) = contents


def make_module(name: str) -> types.ModuleType:
    """Build a module that no file of the reading process could give; it does not enter `sys.modules`."""
    return types.ModuleType(name)


def fill_module(module: types.ModuleType, contents: Mapping[str, object]) -> None:
    """Give a module built by `make_module` its variables."""
    module.__dict__.update(contents)


def lru_cached(function: Callable[..., Hashable], maxsize: int | None, typed: bool) -> Callable[..., Any]:
    """Wrap `function` by an empty `functools.lru_cache`."""
    return functools.lru_cache(maxsize=maxsize, typed=typed)(function)


def cached_property(function: Callable[..., Any], name: str | None) -> functools.cached_property[Any]:
    """Build a `functools.cached_property` that is bound to the attribute `name`."""
    made = functools.cached_property(function)
    made.attrname = name
    return made


def type_variable(name: str, constraints: tuple[Any, ...], bound: Any, covariant: bool, contravariant: bool) -> Any:
    """Build a `typing.TypeVar`."""
    make: Any = TypeVar
    return make(name, *constraints, bound=bound, covariant=covariant, contravariant=contravariant)


def weak_dictionary(cls: type, items: Iterable[tuple[Any, Any]]) -> Any:
    """Build a weak dictionary; entries stay whose weak half lives elsewhere in the same stream."""
    made = cls()
    for key, value in items:
        made[key] = value
    return made


class _Gone:
    """What a weak reference meant that is dead."""


def weak_reference(target: Any, callback: Callable[..., object] | None = None) -> weakref.ref[Any]:
    """Build a weak reference; dead at once if there is no target, or nothing else in the stream holds it."""
    return weakref.ref(_Gone() if target is None else target, callback)


def weak_method(method: Any, callback: Callable[..., object] | None) -> weakref.WeakMethod[Any]:
    """Build a weak reference to a bound method."""
    return weakref.WeakMethod(_Gone().__init__ if method is None else method, callback)  # type: ignore[misc]


def weak_proxy(target: Any) -> Any:
    """Build a weak proxy."""
    return weakref.proxy(_Gone() if target is None else target)


def memory_view(whole: Any, start: int, size: int, kind: str, shape: tuple[int, ...], readonly: bool) -> memoryview:
    """Build a view of some bytes of an object."""
    view: Any = memoryview(whole)
    if (view.format, view.shape, view.nbytes) != (kind, shape, size):
        view = view.cast("B")[start : start + size]
        view = view.cast(kind, shape) if size else view.cast(kind)
    return view.toreadonly() if readonly else view  # type: ignore[no-any-return]


def storage_over(buffer: Any) -> torch.UntypedStorage:
    """Return a torch storage that lies over `buffer`, without a copy where the buffer is writable."""
    import torch

    view = memoryview(buffer)
    if not view.nbytes:
        return torch.empty(0, dtype=torch.uint8).untyped_storage()
    # torch knows no read-only tensor: writing through one would end the process by SIGSEGV.
    writable = bytearray(view) if view.readonly else view
    return torch.frombuffer(writable, dtype=torch.uint8).untyped_storage()


def storage_by_name(manager: bytes, handle: bytes, size: int) -> torch.UntypedStorage:
    """Open a storage that torch shares under a name (sharing strategy ``file_system``)."""
    from safeloader import torch_private

    # torch's own rebuild function also gives up the sender's reference, which is right for one reader only.
    return torch_private.open_named_storage(manager, handle, size)


def tensor_over(
    storage: torch.UntypedStorage,
    dtype: torch.dtype,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
) -> torch.Tensor:
    """Return the plain, strided tensor that looks so into `storage` (offset and strides in elements)."""
    import torch

    tensor = torch.empty(0, dtype=dtype).set_(storage, offset, size, stride)
    return tensor.requires_grad_() if requires_grad else tensor


def adopt_tracker(number: int) -> None:
    """Use the trainer's resource tracker, as a process that multiprocessing spawned does.

    Without it, a process that attaches to a `multiprocessing.shared_memory.SharedMemory` before Python 3.13
    starts a tracker of its own, which unlinks the segment under everybody's feet when that process ends.

    Args:
        number: The inherited descriptor of the trainer's tracker.
    """
    from multiprocessing import resource_tracker

    tracker: Any = resource_tracker._resource_tracker
    if tracker._fd is None:
        tracker._fd = os.dup(number)


def script_globals() -> dict[str, Any]:
    """The namespace of the main script, which functions of it share."""
    return vars(sys.modules["__main__"]) if _reading.script is None else _reading.script
