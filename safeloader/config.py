"""Settings: what arguments, environment variables and defaults come to, by the table of `safeloader.setting_table`.

An argument wins over the environment, and that over the default. A name that is not in the table and a value out of
range are errors: a misspelt timeout must not cost a night.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from safeloader.errors import SettingsError
from safeloader.setting_table import PREFIX, TABLE, Hosts, Setting, Settings, markdown_table
from safeloader.setting_types import Explained
from safeloader.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

__all__ = ["PREFIX", "TABLE", "Policy", "Pool", "Setting", "Settings", "markdown_table", "resolve", "settings"]

_ROWS = {row.name: row for row in TABLE}


@runtime_checkable
class Pool(Protocol):
    """What a policy and a loader need of a pool: `safeloader.WorkerPool` is one."""

    processes: int
    name: str

    @property
    def closed(self) -> bool:
        """True after `close`."""

    def start(self) -> Self:
        """Start all processes now, rather than when the first loader is iterated; does not wait for them."""

    def close(self) -> None:
        """End all loaders' iterators that use the pool, and all processes, for good."""

    def shared_pool(self) -> Any:
        """What runs the processes (`safeloader.runtime.pool.shared_pool.SharedPool`); for loaders."""

    def settings_for(self, settings: Settings) -> Settings:
        """A loader's settings on this pool."""


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
        hosts: Where processes may be: ``"local"``, ``"ray"`` or a `safeloader.RayHosts`.
        preload: Modules that the fork server imports besides.
        prestart: Start the processes when the loader is built.
        standby: Processes that wait, ready, to take over from one that dies.
        shadow: Whether processes keep sleeping copies of themselves: ``"auto"``, True or False.
        sample_rng: Generators keyed by (seed, epoch, index) are set before each sample of a map-style dataset.
        stall_report: Seconds without a step, of the loader or of the program, until a line says who holds the run.
        rank_check: What differences between ranks are: ``"auto"``, ``"warn"``, ``"raise"`` or ``"off"``.
        accelerators: Leave CUDA and HIP devices visible in worker processes.
        pin_in_place: With ``pin_memory``, pin batches where the processes wrote them, instead of copying them.
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
    hosts: Literal["local", "ray"] | Hosts | None = None
    preload: tuple[str, ...] | None = None
    prestart: bool | None = None
    standby: int | None = None
    shadow: bool | Literal["auto"] | None = None
    sample_rng: bool | None = None
    stall_report: float | None = None
    rank_check: Literal["auto", "warn", "raise", "off"] | None = None
    accelerators: bool | None = None
    pin_in_place: bool | None = None
    ffcv_mode: Literal["auto", "trainer", "process"] | None = None
    strict: bool | None = None
    pool: Pool | None = None

    def __post_init__(self) -> None:
        if self.pool is not None and not isinstance(self.pool, Pool):
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
                code="SL211",
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
