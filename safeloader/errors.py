"""Every error safeloader raises.

One base, few subclasses. Each says what happened, where, which attempt, and what to try, and carries the
story of the task it is about. Each can be built from one string alone, and survives pickle and copy: it may
cross a process boundary whole::

    sample 392 killed its process three times
      where:   train, epoch 0, batch 12, worker 1 (pid 4711)
      attempt: 3 of 3
      try:     open sample 392 alone, or set on_bad_sample="skip"
      story:
        12.003 s  batch 12 sent to worker 1
        12.100 s  process 4711 was killed by SIGKILL
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self, TypedDict, Unpack

    from safeloader.observe.report import Report

    class _Facts(TypedDict, total=False):
        """What each error may be told besides what is its own; see `SafeLoaderError`."""

        where: str
        attempt: str
        hint: str
        story: Sequence[str]
        code: str


__all__ = [
    "AuditError",
    "BadSampleError",
    "BatchTimeoutError",
    "BetonError",
    "CheckpointError",
    "ConcurrentUseError",
    "DivergenceError",
    "FFCVMissingError",
    "ForkRefusedError",
    "LoaderClosedError",
    "NonFiniteError",
    "NotCarriableError",
    "PipelineError",
    "RanksDisagreeError",
    "SafeLoaderError",
    "SettingsError",
    "StartError",
    "StateError",
]

_SHOWN_STORY_LINES, _SHOWN_STACK_LINES = 20, 40  # the ends of long ones; the attributes keep all


class SafeLoaderError(RuntimeError):
    """Base of all errors of safeloader.

    Attributes:
        what: What happened, in one line or a few.
        where: Loader, epoch, batch, worker, process; "" if it does not apply.
        attempt: Which attempt of how many, for example ``"3 of 3"``; "" if it does not apply.
        hint: What to try; "" if nothing is known.
        code: The stable code of the message, such as ``"SL206"``: see docs/messages.md.
        story: What led here, oldest line first.
        report: The loader's report at that moment, where there was a loader.
        in_torch: What torch's loader says where this ends it, for who looks for its words; "" where it says nothing.
    """

    code: str = "SL200"
    in_torch: str = ""
    what: str
    where: str
    attempt: str
    hint: str
    story: list[str]
    report: Report | None

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        attempt: str = "",
        hint: str = "",
        story: Sequence[str] = (),
        code: str = "",
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.attempt = attempt
        self.hint = hint
        self.story = list(story)
        self.report = None
        self.code = code or self.code

    def __init_subclass__(cls, code: str = "", **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.code = code or cls.code

    def __str__(self) -> str:
        from safeloader.observe.format import printable  # here: a worker's process imports this module, and not that

        ends = (("try:", self.hint), ("torch:", self.in_torch), ("code:", self.code))
        facts = (("where:", self.where), ("attempt:", self.attempt), *self._facts(), *ends)
        fields = [_field(label, text) for label, text in facts if text]
        blocks = [*self._blocks(), *_block("story:", self.story, _SHOWN_STORY_LINES)]
        return printable("\n".join([self.what, *fields, *blocks]))

    def _facts(self) -> list[tuple[str, str]]:
        """Further one-line facts of a subclass: (label with colon, text)."""
        return []

    def _blocks(self) -> list[str]:
        """Further blocks of lines of a subclass, shown before the story."""
        return []

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the constructor with `args` alone; attributes travel as the instance's dict.
        return _rebuild, (type(self), self.args), self.__dict__.copy()


class SettingsError(SafeLoaderError, ValueError, code="SL210"):
    """A setting, a policy argument or a ``SAFELOADER_*`` variable is unknown or out of range."""


class _PathError(SafeLoaderError):
    """An error about something that has a path."""

    path: str
    _label = "path:"

    def __init__(
        self,
        what: str,
        *,
        path: str = "",
        **more: Unpack[_Facts],
    ) -> None:
        super().__init__(what, **more)
        self.path = path

    def _facts(self) -> list[tuple[str, str]]:
        return [(self._label, self.path)]


class NotCarriableError(_PathError, TypeError, code="SL215"):
    """Something of the dataset or its functions cannot be carried into another process.

    Attributes:
        path: Attribute path to the offender, such as ``"dataset.transform.lock"``; "" if it was not found.
    """


class StartError(SafeLoaderError, code="SL212"):
    """A process, or a worker in it, could not be started."""


class BadSampleError(SafeLoaderError, code="SL206"):
    """A sample that kills or hangs every process that loads it.

    Attributes:
        indices: The dataset indices that are bad, as the sampler gave them.
        cause: The word of the fault: ``"died"``, ``"hung"``, ``"oom"``, ...
        stack: Python stack of the process at the last fault, or None.
        batch: Number of the batch in its epoch, or None.
        worker: Id of the worker, or None.
    """

    indices: list[Any]
    cause: str
    stack: str | None
    batch: int | None
    worker: int | None

    def __init__(
        self,
        what: str,
        *,
        indices: Sequence[Any] = (),
        cause: str = "",
        stack: str | None = None,
        batch: int | None = None,
        worker: int | None = None,
        **more: Unpack[_Facts],
    ) -> None:
        super().__init__(what, **more)
        self.indices = list(indices)
        self.cause = cause
        self.stack = stack
        self.batch = batch
        self.worker = worker

    def _facts(self) -> list[tuple[str, str]]:
        batch = "" if self.batch is None else str(self.batch)
        worker = "" if self.worker is None else str(self.worker)
        shown = ", ".join(str(index) for index in self.indices[:8])
        if len(self.indices) > 8:
            shown += f", ... ({len(self.indices)} in all)"
        return [("batch:", batch), ("worker:", worker), ("samples:", shown), ("cause:", self.cause)]

    def _blocks(self) -> list[str]:
        return _block("stack:", (self.stack or "").rstrip().splitlines(), _SHOWN_STACK_LINES)


class BatchTimeoutError(SafeLoaderError, TimeoutError, code="SL209"):
    """A batch did not come within its deadline, and policy allows no further attempt."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: D102 - as documented above
        # Only OSError's constructor, whose instances have fields in C, may make one with two such bases.
        return TimeoutError.__new__(cls, *args)


class ForkRefusedError(SafeLoaderError, ValueError, code="SL101"):
    """A fork start method was asked for while ``strict`` is on."""


class LoaderClosedError(SafeLoaderError, code="SL218"):
    """The loader, or an iterator of it, was used after ``close()``."""


class StateError(SafeLoaderError, ValueError, code="SL220"):
    """A state cannot be taken, or it is not one that this loader can go on from."""


class AuditError(SafeLoaderError, ValueError, code="SL223"):
    """A loader cannot be rehearsed for an audit."""


class DivergenceError(SafeLoaderError, code="SL208"):
    """A worker's process was lost, and what its dataset gives when it is read again is not what was delivered.

    Attributes:
        worker: Id of the worker, or None.
        at: The first of its batches in this epoch that differs, from 0, or None.
        of: How many it had loaded.
        how: ``"differs"``, ``"ended"``, ``"raised"`` or ``"refused"``.
    """

    worker: int | None
    at: int | None
    of: int
    how: str

    def __init__(
        self,
        what: str,
        *,
        worker: int | None = None,
        at: int | None = None,
        of: int = 0,
        how: str = "",
        **more: Unpack[_Facts],
    ) -> None:
        super().__init__(what, **more)
        self.worker = worker
        self.at = at
        self.of = of
        self.how = how


class ConcurrentUseError(SafeLoaderError, code="SL219"):
    """One iterator was used from two threads at the same time."""


class BetonError(SafeLoaderError, ValueError, code="SL270"):
    """A ``.beton`` file is damaged, unfinished, or was changed while it was read."""


class PipelineError(SafeLoaderError, ValueError, code="SL271"):
    """An FFCV pipeline cannot work: an order that the CPU cannot compile, a size, a field that the file lacks."""


class RanksDisagreeError(SafeLoaderError, code="SL250"):
    """Ranks of a distributed run were given different data, seeds or sizes, or one of them did not come."""


class FFCVMissingError(SafeLoaderError, ImportError, code="SL272"):
    """FFCV is not installed, or cannot be imported."""


class NonFiniteError(SafeLoaderError, ArithmeticError, code="SL261"):
    """A NaN or an infinity in a batch, a loss, gradients, weights, or in what was to be saved.

    Attributes:
        kind: What it was found in first: ``"batch"``, ``"weights"``, ``"loss"``, ``"gradients"`` or ``"checkpoint"``.
        names: Parameters, buffers, or places in the batch such as ``"[0]['image']"``.
        batch: Number of the batch, from 0, or None.
        indices: Dataset indices of the samples, where the loader tells them; else None.
    """

    kind: str
    names: list[str]
    batch: int | None
    indices: list[Any] | None

    def __init__(
        self,
        what: str,
        *,
        kind: str = "",
        names: Sequence[str] = (),
        batch: int | None = None,
        indices: Sequence[Any] | None = None,
        **more: Unpack[_Facts],
    ) -> None:
        super().__init__(what, **more)
        self.kind = kind
        self.names = list(names)
        self.batch = batch
        self.indices = None if indices is None else list(indices)


class CheckpointError(_PathError, code="SL260"):
    """A checkpoint could not be written, is damaged, belongs to something else, or does not fit.

    Attributes:
        path: Its file; "" if there is none.
    """

    _label = "file:"


def _rebuild(cls: type[SafeLoaderError], args: tuple[Any, ...]) -> SafeLoaderError:
    return cls.__new__(cls, *args)


def _field(label: str, text: str) -> str:
    first, *rest = text.splitlines()
    return "\n".join([f"  {label:<8} {first}", *(f"  {'':<8} {line}" for line in rest)])


def _block(label: str, lines: Sequence[str], most: int) -> list[str]:
    if not lines:
        return []
    left_out = len(lines) - most
    head = [f"    ... ({left_out} earlier lines)"] if left_out > 0 else []
    return [f"  {label}", *head, *(f"    {line}" for line in lines[-most:])]
