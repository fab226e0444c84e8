"""Settings: one table for arguments, environment variables, defaults and documentation.

Every row of `TABLE` is a field of `Settings`, a variable ``SAFELOADER_<NAME>``, and, unless it belongs to
the environment alone, a field of `Policy`. An argument wins over the environment, and that over the default.
A name that is not in the table and a value out of range are errors: a misspelt timeout must not cost a night.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, fields
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from safeloader.errors import SettingsError
from safeloader.setting_types import (
    Explained,
    Kind,
    choice,
    count,
    faults,
    flag,
    names,
    nearest,
    path,
    seconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from safeloader.pool import WorkerPool

__all__ = ["PREFIX", "TABLE", "Policy", "Setting", "Settings", "markdown_table", "resolve", "settings"]

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
        "More faults than this within `restart_period`: one rung down the ladder.",
    ),
    Setting("restart_period", seconds(), 600.0, "The time within which `max_restarts` counts."),
    Setting(
        "fallback",
        choice("inline", "process", "off"),
        "inline",
        "How far down the ladder N, N/2, ..., 1, 0 the loader may go: to no process, with all workers in the "
        "main process (inline); to one process; or not at all, and raise (off).",
    ),
    Setting(
        "recover_after",
        count("batches", least=1),
        1000,
        "Good batches in a row until one rung up the ladder.",
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
        "ffcv_mode",
        choice("auto", "trainer", "process"),
        "auto",
        "Where safeloader.ffcv.Loader runs FFCV: in the trainer; in a supervised process, which may crash or hang; "
        "or (auto) in a process unless the pipelines need the trainer's accelerator.",
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

_ROWS = {row.name: row for row in TABLE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a loader does about faults. A field left at None is not given: environment, then default, decide.

    Values are checked when the policy is made.

    Attributes:
        batch_timeout: Seconds without a finished sample until a process counts as hung, or ``"auto"``.
        startup_timeout: Seconds until a process, or a worker in it, must be ready.
        max_restarts: Faults within `restart_period` that are met by a restart alone.
        restart_period: Seconds within which `max_restarts` counts.
        fallback: How far down the ladder of processes: ``"inline"``, ``"process"`` or ``"off"``.
        recover_after: Good batches in a row until one rung up.
        on_bad_sample: ``"raise"`` or ``"skip"``.
        bad_sample_attempts: Attempts after the first until a sample is called bad.
        on_divergence: ``"raise"`` or ``"warn"``, when a dataset gives something else when it is read again.
        trust_state: An iterable dataset's own state is exact.
        max_processes: At most so many processes, with the same workers and the same bytes; 0 is none.
        start_method: ``"spawn"`` or ``"forkserver"``.
        preload: Modules that the fork server imports besides.
        prestart: Start the processes when the loader is built.
        standby: Processes that wait, ready, to take over from one that dies.
        shadow: Whether processes keep sleeping copies of themselves: ``"auto"``, True or False.
        sample_rng: Generators keyed by (seed, epoch, index) are set before each sample of a map-style dataset.
        stall_report: Seconds without a step, of the loader or of the program, until a line says who holds the run.
        rank_check: What differences between ranks are: ``"auto"``, ``"warn"``, ``"raise"`` or ``"off"``.
        accelerators: Leave CUDA and HIP devices visible in worker processes.
        ffcv_mode: Where FFCV runs: ``"auto"``, ``"trainer"`` or ``"process"``.
        strict: Warnings are errors.
        pool: A `WorkerPool` whose processes serve this loader, together with others; None: processes of its own. It is
            no setting, and has no variable.

    Raises:
        SettingsError: A value has the wrong type or is out of range.
    """

    batch_timeout: float | Literal["auto"] | None = None
    startup_timeout: float | None = None
    max_restarts: int | None = None
    restart_period: float | None = None
    fallback: Literal["inline", "process", "off"] | None = None
    recover_after: int | None = None
    on_bad_sample: Literal["raise", "skip"] | None = None
    bad_sample_attempts: int | None = None
    on_divergence: Literal["raise", "warn"] | None = None
    trust_state: bool | None = None
    max_processes: int | None = None
    start_method: Literal["spawn", "forkserver"] | None = None
    preload: tuple[str, ...] | None = None
    prestart: bool | None = None
    standby: int | None = None
    shadow: bool | Literal["auto"] | None = None
    sample_rng: bool | None = None
    stall_report: float | None = None
    rank_check: Literal["auto", "warn", "raise", "off"] | None = None
    accelerators: bool | None = None
    ffcv_mode: Literal["auto", "trainer", "process"] | None = None
    strict: bool | None = None
    pool: WorkerPool | None = None

    def __post_init__(self) -> None:
        if self.pool is not None:
            from safeloader.pool import WorkerPool

            if not isinstance(self.pool, WorkerPool):
                raise SettingsError(
                    f"pool={self.pool!r} is not accepted: it must be a safeloader.WorkerPool",
                    where="Policy",
                    hint="pool = WorkerPool(processes=4); Policy(pool=pool)",
                )
        for item in fields(self):
            row, value = _ROWS.get(item.name), getattr(self, item.name)
            if row is None or value is None:  # A field of a subclass is not ours to judge.
                continue
            try:
                object.__setattr__(self, item.name, row.kind.check(value))
            except ValueError as reason:
                raise _refused(f"{row.name}={value!r}", row, reason, where="Policy") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in effect, with where each comes from. The fields are those of the table.

    ``str(settings)`` is the table of values and sources.

    Attributes:
        sources: For each field ``"argument"``, the variable's name, or ``"default"``.
    """

    batch_timeout: float | Literal["auto"]
    startup_timeout: float
    max_restarts: int
    restart_period: float
    fallback: Literal["inline", "process", "off"]
    recover_after: int
    on_bad_sample: Literal["raise", "skip"]
    bad_sample_attempts: int
    on_divergence: Literal["raise", "warn"]
    trust_state: bool
    max_processes: int | None
    start_method: Literal["spawn", "forkserver"]
    preload: tuple[str, ...]
    prestart: bool
    standby: int
    shadow: bool | Literal["auto"]
    sample_rng: bool
    stall_report: float
    rank_check: Literal["auto", "warn", "raise", "off"]
    board: bool
    board_interval: float
    accelerators: bool
    ffcv_mode: Literal["auto", "trainer", "process"]
    ffcv_cache: str | None
    strict: bool
    disable: bool
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]
    progress: bool
    events: str | None
    trace: bool
    chaos: str | None
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


def resolve(policy: Policy | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in effect: argument, else environment, else default.

    Args:
        policy: What the program asked for.
        environ: Environment to read; that of this process by default. An empty variable counts as not given.

    Raises:
        SettingsError: An unknown ``SAFELOADER_*`` variable, a value that is not accepted, or no Policy.
    """
    if policy is not None and not isinstance(policy, Policy):
        raise SettingsError(
            f"policy must be a safeloader.Policy, not {type(policy).__name__}",
            hint="DataLoader(..., policy=Policy(batch_timeout=60))",
        )
    given = _from_environment(os.environ if environ is None else environ)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for row in TABLE:
        argument = None if policy is None or row.environment_only else getattr(policy, row.name)
        if argument is not None:
            values[row.name], sources[row.name] = argument, "argument"
        elif row.name in given:
            values[row.name], sources[row.name] = given[row.name], row.variable
        else:
            values[row.name], sources[row.name] = row.default, "default"
    return Settings(**values, sources=sources)


def settings(policy: Policy | None = None) -> Settings:
    """The settings in effect in this process; ``print(safeloader.settings())`` shows them with their sources.

    Args:
        policy: Arguments to put before the environment.

    Raises:
        SettingsError: As `resolve`.
    """
    return resolve(policy)


def markdown_table() -> str:
    """The table of all settings in Markdown, as docs/settings.md shows it."""
    return "\n".join(_markdown_lines()) + "\n"


def _markdown_lines() -> Iterator[str]:
    yield "| Policy field | environment variable | must be | default | meaning |"
    yield "|---|---|---|---|---|"
    for row in TABLE:
        name = "(environment only)" if row.environment_only else f"`{row.name}`"
        yield f"| {name} | `{row.variable}` | {row.kind.accepts} | {row.show(row.default)} | {row.meaning} |"


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    rows = {row.variable: row for row in TABLE}
    found: dict[str, Any] = {}
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        text = environ[variable].strip()
        row = rows.get(variable)
        if row is None:
            guess = nearest(variable, rows)
            raise SettingsError(
                f"{variable} is not a setting of safeloader" + (f"; {guess}" if guess else ""),
                where="environment",
                hint="correct or unset it; known are " + ", ".join(rows),
            )
        if text:
            try:
                found[row.name] = row.kind.read(text)
            except ValueError as reason:
                raise _refused(f"{variable}={text!r}", row, reason, where="environment") from None
    return found


def _refused(given: str, row: Setting, reason: ValueError, *, where: str) -> SettingsError:
    helps = isinstance(reason, Explained) or str(reason).startswith("did you mean")
    guess = f"; {reason}" if helps else ""
    leave_out = "unset the variable" if where == "environment" else "leave it out"
    return SettingsError(
        f"{given} is not accepted: it must be {row.kind.accepts}{guess}",
        where=where,
        hint=f"{leave_out} for the default, {row.show(row.default)}",
    )


class _CallableModule(ModuleType):
    """Importing this module puts it where users expect the function ``safeloader.config``: it is both."""

    def __call__(self, policy: Policy | None = None) -> Settings:
        return settings(policy)


sys.modules[__name__].__class__ = _CallableModule
