"""The one table of settings: name, kind of value, default and meaning of each.

Every row of `TABLE` is a field of `safeloader.config.Settings`, a variable ``SAFELOADER_<NAME>``, and, unless it
belongs to the environment alone, a field of `safeloader.config.Policy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safeloader.setting_types import Kind, choice, count, faults, flag, hosts, names, path, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PREFIX", "TABLE", "Setting", "markdown_table"]

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


TABLE: tuple[Setting, ...] = (
    Setting(
        "batch_timeout",
        seconds(auto=True),
        120.0,
        "A process that works on one batch for longer, and finished no sample within that time, is hung; "
        '"auto" learns it from the slowest batch seen.',
    ),
    Setting(
        "startup_timeout",
        seconds(),
        300.0,
        "A process, or a worker in it, that is not ready by then has failed.",
    ),
    Setting(
        "max_restarts",
        count("restarts", least=0),
        4,
        "More faults than this within `restart_period`: one fallback level down (N, N/2, ..., 1, 0 processes).",
    ),
    Setting("restart_period", seconds(), 600.0, "The time within which `max_restarts` counts."),
    Setting(
        "fallback",
        choice("inline", "process", "off"),
        "inline",
        "How far the loader may go down the fallback levels N, N/2, ..., 1, 0 processes: to none, with all workers in "
        "the main process (inline); to one process; or not at all, and raise (off).",
    ),
    Setting(
        "recover_after",
        count("batches", least=1),
        1000,
        "Good batches in a row until one fallback level up.",
    ),
    Setting(
        "on_bad_sample",
        choice("raise", "skip"),
        "raise",
        "What to do with a sample that kills or hangs its processes: raise BadSampleError, or leave it out "
        "and list it in the report.",
    ),
    Setting(
        "bad_sample_attempts",
        count("attempts", least=1),
        2,
        "Attempts after the first until a sample that kills or hangs its processes is called bad.",
    ),
    Setting(
        "on_divergence",
        choice("raise", "warn"),
        "raise",
        "What to do when a worker's process is lost and its dataset, read again, gives something else than was "
        "delivered: raise DivergenceError, or go on with what comes and say so.",
    ),
    Setting(
        "trust_state",
        flag(),
        False,
        "An iterable dataset's own state_dict is exact (safeloader.audit shows whether it is): a lost worker goes on "
        "from it, instead of reading its epoch again.",
    ),
    Setting(
        "max_processes",
        count("processes", least=0, optional=True),
        None,
        "At most so many processes serve the workers, with the same bytes; 0: all workers in the main "
        "process; None: one process a worker.",
    ),
    Setting(
        "start_method",
        choice(
            "spawn",
            "forkserver",
            note='never "fork": a forked process inherits held locks and accelerator contexts',
        ),
        "spawn",
        "How processes start: each as a fresh interpreter (spawn), or forked from a clean one that imported what they "
        "need (forkserver). `multiprocessing_context` goes before the variable.",
    ),
    Setting(
        "hosts",
        hosts(),
        "local",
        "Where processes are: all on this host (local), or on others too, where a Ray cluster has room (hosts.md).",
    ),
    Setting(
        "preload",
        names(),
        (),
        "Modules that the fork server imports, besides torch, numpy and the installed packages that it sees the "
        "dataset need.",
    ),
    Setting("prestart", flag(), False, "Start the processes when the loader is built, not when iteration begins."),
    Setting(
        "standby",
        count("processes", least=0),
        0,
        "So many processes wait, ready, for another to die, and take its workers over at once.",
    ),
    Setting(
        "shadow",
        flag(auto=True),
        "auto",
        "Each process keeps a sleeping copy of itself, from which its workers go on after a fault with all that their "
        "dataset has changed in itself: where the dataset is iterable or is seen to change (auto), always, or never.",
    ),
    Setting(
        "sample_rng",
        flag(),
        False,
        "Set the random generators before each sample from (seed, epoch, index), so that augmentation depends neither "
        "on num_workers nor on the ranks (map-style datasets).",
    ),
    Setting(
        "stall_report",
        seconds(),
        300.0,
        "When no batch is asked for, or none comes, for so long, a line says who holds the run: once, and again when "
        "it goes on.",
    ),
    Setting(
        "rank_check",
        choice("auto", "warn", "raise", "off"),
        "auto",
        "Ranks that iterate a loader differently: other data (seed, dataset length, place in the epoch) is an error, "
        "another number of batches a warning (auto); both are warnings, or both errors; or nobody looks.",
    ),
    Setting(
        "board",
        flag(),
        True,
        "Of several ranks, each publishes how its loaders stand in the process group's store (see board.md).",
        environment_only=True,
    ),
    Setting(
        "board_interval",
        seconds(),
        5.0,
        "Seconds between two rows that a rank publishes; more than 1,000 ranks take longer, so that all publish "
        "at most 200 a second together.",
        environment_only=True,
    ),
    Setting("accelerators", flag(), False, "Leave CUDA and HIP devices visible in worker processes."),
    Setting(
        "pin_in_place",
        flag(),
        False,
        "With pin_memory, batches are pinned where the processes wrote them, and not copied (CUDA 12.5 or later; not "
        "where another thread captures CUDA graphs while batches are asked for).",
    ),
    Setting(
        "ffcv_mode",
        choice("auto", "trainer", "process"),
        "auto",
        "Where safeloader.ffcv.Loader runs FFCV: in the main process (trainer); in a supervised process, which may "
        "crash or hang; or (auto) in a process unless the pipelines need the main process's accelerator.",
    ),
    Setting(
        "ffcv_cache",
        path(),
        "~/.cache/safeloader/ffcv",
        "Folder for what FFCV compiles, so that it is compiled once a machine; none: compile in each process.",
        environment_only=True,
    ),
    Setting("strict", flag(), False, "Warnings, such as that of a refused fork, are errors."),
    Setting("disable", flag(), False, "Plain torch behaviour: safeloader steps aside.", environment_only=True),
    Setting(
        "log_level",
        choice("DEBUG", "INFO", "WARNING", "ERROR"),
        "WARNING",
        'Level of the logger "safeloader"; left alone unless given, so that your own logging setup holds.',
        environment_only=True,
    ),
    Setting(
        "progress",
        flag(),
        False,
        "Show a progress bar for every pass over a loader, and a line when it begins and ends.",
        environment_only=True,
    ),
    Setting(
        "events",
        path(),
        None,
        "File to which every event is appended as one line of JSON (see events.md).",
        environment_only=True,
    ),
    Setting(
        "trace",
        flag(),
        False,
        "Write an event for each batch, too, for `safeloader trace`; needs SAFELOADER_EVENTS.",
        environment_only=True,
    ),
    Setting(
        "chaos",
        faults(),
        None,
        "Faults to be made on purpose in worker processes (see chaos.md).",
        environment_only=True,
    ),
)


def markdown_table() -> str:
    """The table of all settings in Markdown, as docs/settings.md shows it."""
    return "\n".join(_markdown_lines()) + "\n"


def _markdown_lines() -> Iterator[str]:
    yield "| Policy field | environment variable | must be | default | meaning |"
    yield "|---|---|---|---|---|"
    for row in TABLE:
        name = "(environment only)" if row.environment_only else f"`{row.name}`"
        yield f"| {name} | `{row.variable}` | {row.kind.accepts} | {row.show(row.default)} | {row.meaning} |"
