"""The one table of settings: the fields of `Settings`, each with its type, kind of value, default and meaning.

Every one is a row of `TABLE` and of docs/settings.md, a variable ``SAFELOADER_<NAME>``, and, unless it belongs to the
environment alone, a field of `safeloader.config.Policy`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol

from safeloader.setting_types import Kind, choice, count, faults, flag, host_choice, names, path, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PREFIX", "TABLE", "Hosts", "Setting", "Settings", "markdown_table"]

PREFIX = "SAFELOADER_"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        name: Name of the field of `Settings` and `Policy`.
        kind: What its value may be.
        default: Its value if nobody gives one.
        meaning: One sentence for the documentation.
        environment_only: Not a field of `Policy`.
    """

    name: str
    kind: Kind
    default: Any
    meaning: str
    environment_only: bool = False

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return PREFIX + self.name.upper()

    def show(self, value: object) -> str:
        """A value of this setting with its unit, for people."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return f"{value:.12g} {self.kind.unit}"
        return str(value)


class Hosts(Protocol):
    """What a policy needs of other hosts: `safeloader.RayHosts` is such."""

    def launcher(self, name: str, accelerators: bool, strict: bool) -> Any:
        """What starts the processes of the loader that is called so."""


def _setting(kind: Kind, default: Any, meaning: str, environment_only: bool = False) -> Any:
    return field(metadata={"row": (kind, default, meaning, environment_only)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in effect, with where each comes from. The fields are those of the table in docs/settings.md.

    ``str(settings)`` is the table of values and sources.

    Attributes:
        sources: For each field ``"argument"``, the variable's name, or ``"default"``.
    """

    batch_timeout: float | Literal["auto"] = _setting(
        seconds(auto=True),
        120.0,
        "A process that works on one batch for longer, and finished no sample within that time, is hung; "
        '"auto" learns it from the slowest batch seen.',
    )
    startup_timeout: float = _setting(
        seconds(), 300.0, "A process, or a worker in it, that is not ready by then has failed."
    )
    max_restarts: int = _setting(
        count("restarts", least=0),
        4,
        "More faults than this within `restart_period`: one fallback level down (N, N/2, ..., 1, 0 processes).",
    )
    restart_period: float = _setting(seconds(), 600.0, "The time within which `max_restarts` counts.")
    fallback: Literal["inline", "process", "off"] = _setting(
        choice("inline", "process", "off"),
        "inline",
        "How far the loader may go down the fallback levels N, N/2, ..., 1, 0 processes: to none, with all workers in "
        "the main process (inline); to one process; or not at all, and raise (off).",
    )
    recover_after: int = _setting(count("batches", least=1), 1000, "Good batches in a row until one fallback level up.")
    on_bad_sample: Literal["raise", "skip"] = _setting(
        choice("raise", "skip"),
        "raise",
        "What to do with a sample that kills or hangs its processes: raise BadSampleError, or leave it out "
        "and list it in the report.",
    )
    bad_sample_attempts: int = _setting(
        count("attempts", least=1),
        2,
        "Attempts after the first until a sample that kills or hangs its processes is called bad.",
    )
    on_divergence: Literal["raise", "warn"] = _setting(
        choice("raise", "warn"),
        "raise",
        "What to do when a worker's process is lost and its dataset, read again, gives something else than was "
        "delivered: raise DivergenceError, or go on with what comes and say so.",
    )
    trust_state: bool = _setting(
        flag(),
        False,
        "An iterable dataset's own state_dict is exact (safeloader.audit shows whether it is): a lost worker goes on "
        "from it, instead of reading its epoch again.",
    )
    max_processes: int | None = _setting(
        count("processes", least=0, optional=True),
        None,
        "At most so many processes serve the workers, with the same bytes; 0: all workers in the main "
        "process; None: one process a worker.",
    )
    start_method: Literal["spawn", "forkserver"] = _setting(
        choice(
            "spawn", "forkserver", note='never "fork": a forked process inherits held locks and accelerator contexts'
        ),
        "spawn",
        "How processes start: each as a fresh interpreter (spawn), or forked from a clean one that imported what they "
        "need (forkserver). `multiprocessing_context` goes before the variable.",
    )
    hosts: Literal["local", "ray"] | Hosts = _setting(  # noqa: RUF009 - a field, as all are
        host_choice(),
        "local",
        "Where processes are: all on this host (local), or on others too, where a Ray cluster has room (hosts.md).",
    )
    preload: tuple[str, ...] = _setting(
        names(),
        (),
        "Modules that the fork server imports, besides torch, numpy and the installed packages that it sees the "
        "dataset need.",
    )
    prestart: bool = _setting(flag(), False, "Start the processes when the loader is built, not when iteration begins.")
    standby: int = _setting(
        count("processes", least=0),
        0,
        "So many processes wait, ready, for another to die, and take its workers over at once.",
    )
    shadow: bool | Literal["auto"] = _setting(
        flag(auto=True),
        "auto",
        "Each process keeps a sleeping copy of itself, from which its workers go on after a fault with all that their "
        "dataset has changed in itself: where the dataset is iterable or is seen to change (auto), always, or never.",
    )
    sample_rng: bool = _setting(
        flag(),
        False,
        "Set the random generators before each sample from (seed, epoch, index), so that augmentation depends neither "
        "on num_workers nor on the ranks (map-style datasets).",
    )
    stall_report: float = _setting(
        seconds(),
        300.0,
        "When no batch is asked for, or none comes, for so long, a line says who holds the run: once, and again when "
        "it goes on.",
    )
    rank_check: Literal["auto", "warn", "raise", "off"] = _setting(
        choice("auto", "warn", "raise", "off"),
        "auto",
        "Ranks that iterate a loader differently: other data (seed, dataset length, place in the epoch) is an error, "
        "another number of batches a warning (auto); both are warnings, or both errors; or nobody looks.",
    )
    board: bool = _setting(
        flag(),
        True,
        "Of several ranks, each publishes how its loaders stand in the process group's store (see board.md).",
        environment_only=True,
    )
    board_interval: float = _setting(
        seconds(),
        5.0,
        "Seconds between two rows that a rank publishes; more than 1,000 ranks take longer, so that all publish "
        "at most 200 a second together.",
        environment_only=True,
    )
    accelerators: bool = _setting(flag(), False, "Leave CUDA and HIP devices visible in worker processes.")
    pin_in_place: bool = _setting(
        flag(),
        False,
        "With pin_memory, batches are pinned where the processes wrote them, and not copied (CUDA 12.5 or later; not "
        "where another thread captures CUDA graphs while batches are asked for).",
    )
    ffcv_mode: Literal["auto", "trainer", "process"] = _setting(
        choice("auto", "trainer", "process"),
        "auto",
        "Where safeloader.ffcv.Loader runs FFCV: in the main process (trainer); in a supervised process, which may "
        "crash or hang; or (auto) in a process unless the pipelines need the main process's accelerator.",
    )
    ffcv_cache: str | None = _setting(
        path(),
        "~/.cache/safeloader/ffcv",
        "Folder for what FFCV compiles, so that it is compiled once a machine; none: compile in each process.",
        environment_only=True,
    )
    strict: bool = _setting(flag(), False, "Warnings, such as that of a refused fork, are errors.")
    disable: bool = _setting(flag(), False, "Plain torch behaviour: safeloader steps aside.", environment_only=True)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = _setting(
        choice("DEBUG", "INFO", "WARNING", "ERROR"),
        "WARNING",
        'Level of the logger "safeloader"; left alone unless given, so that your own logging setup holds.',
        environment_only=True,
    )
    progress: bool = _setting(
        flag(),
        False,
        "Show a progress bar for every pass over a loader, and a line when it begins and ends.",
        environment_only=True,
    )
    events: str | None = _setting(
        path(),
        None,
        "File to which every event is appended as one line of JSON (see events.md).",
        environment_only=True,
    )
    trace: bool = _setting(
        flag(),
        False,
        "Write an event for each batch, too, for `safeloader trace`; needs SAFELOADER_EVENTS.",
        environment_only=True,
    )
    chaos: str | None = _setting(
        faults(), None, "Faults to be made on purpose in worker processes (see chaos.md).", environment_only=True
    )
    sources: dict[str, str] = field(compare=False)

    def describe(self) -> str:
        """A text table: one line a setting, with value, unit and source."""
        lines = [("setting", "value", "from")]
        for row in TABLE:
            lines.append((row.name, row.show(getattr(self, row.name)), self.sources[row.name]))
        wide = [max(len(line[column]) for line in lines) for column in range(2)]
        return "\n".join(f"{name:<{wide[0]}}  {value:<{wide[1]}}  {source}" for name, value, source in lines)

    def __str__(self) -> str:
        return self.describe()


TABLE = tuple(Setting(field.name, *field.metadata["row"]) for field in fields(Settings) if field.metadata)


def markdown_table() -> str:
    """The table of all settings in Markdown, as docs/settings.md shows it."""
    return "\n".join(_markdown_lines()) + "\n"


def _markdown_lines() -> Iterator[str]:
    yield "| Policy field | environment variable | must be | default | meaning |"
    yield "|---|---|---|---|---|"
    for row in TABLE:
        name = "(environment only)" if row.environment_only else f"`{row.name}`"
        yield f"| {name} | `{row.variable}` | {row.kind.accepts} | {row.show(row.default)} | {row.meaning} |"
