"""The user's pipelines as a loader keeps them, and a look at their operations before each epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safeloader import codes
from safeloader.errors import NotCarriableError, SettingsError
from safeloader.ffcv import pipelines as pipes
from safeloader.ffcv.operations import Factory
from safeloader.runtime import by_value

if TYPE_CHECKING:
    from safeloader.ffcv.beton import Beton

__all__ = ["OperationWatch", "frozen", "travels"]


def frozen(given: Any, beton: Beton) -> Any:
    """What the user gave, as the loader keeps it.

    Raises:
        PipelineError: It is no pipeline.
    """
    return Factory(given) if pipes.is_factory(given) else pipes.completed(given, beton)


def travels(completed: Any, name: str) -> bool:
    """Whether another process can have the pipelines; if not, the log says why."""
    try:
        by_value.pack(completed).close()
    except NotCarriableError as error:
        what = error.what.replace("obj", "pipelines", 1).splitlines()[0]
        codes.log_warning(
            "SL150",
            "%s: FFCV runs in the trainer, since its pipelines cannot be sent to a process: %s",
            name,
            what,
        )
        return False
    return True


class OperationWatch:
    """Looks at the user's operations before each epoch: whether FFCV can run them as they are now.

    Args:
        given: The user's pipelines.
        completed: What the loader made of them.
        sized: A schedule sets the sizes.
        name: The loader's.
    """

    def __init__(self, given: Any, completed: Any, sized: bool, name: str) -> None:
        self._given, self._name = given, name
        self._operations = [] if isinstance(completed, Factory) else pipes.operations_of(completed)
        self._lists = self._in_lists()
        self._sizes = [getattr(op, "output_size", None) if sized else None for op in self._operations]
        self._sized = sized

    def look(self) -> None:
        """Look at them.

        Raises:
            PipelineError: FFCV would abort at a size or a crop.
            SettingsError: A size was set by hand where a schedule sets it.
        """
        for operation, before in zip(self._operations, self._sizes, strict=True):
            pipes.validate(operation)
            if self._sized and getattr(operation, "output_size", None) != before:
                raise SettingsError(
                    f"{type(operation).__name__}.output_size was set to {operation.output_size}, but resize= decides "
                    "the size of each epoch",
                    where=self._name,
                    hint="set it by hand, or give resize=, not both",
                )
        now = self._in_lists()
        if now != self._lists:
            self._lists = now
            codes.log_warning(
                "SL151",
                "%s: the list of operations of a pipeline was changed after the loader was made; as in FFCV, the "
                "loader keeps the operations that it was made with",
                self._name,
            )

    def _in_lists(self) -> dict[str, list[int]]:
        if callable(self._given) or self._given is None:
            return {}
        return {
            name: [id(op) for op in (getattr(given, "transforms", given) if given is not None else ())]
            for name, given in self._given.items()
        }
