"""A Ray cluster for ``Policy(hosts=...)``: what a user says of it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from safeloader.errors import SettingsError
from safeloader.remote.agent import SILENCE
from safeloader.remote.launcher import HostLauncher, Placing
from safeloader.remote.ray_placer import Placer
from safeloader.remote.ray_placing import RayPlacing, Wanted

__all__ = ["RayHosts"]

_PATIENCE = 20.0


@dataclass(frozen=True, kw_only=True)
class RayHosts:
    """Where a Ray cluster has room, a loader's processes are there: ``Policy(hosts=RayHosts(...))``.

    A program that is not connected to the cluster stays so: a small process beside it is. Where there is no Ray, no
    cluster, or no room, processes are on this host, and one line of the log says why.

    Attributes:
        num_cpus_per_worker: Processors that Ray reserves for each process.
        workers_local: So many processes at a time stay on this host.
        strategy: Ray's scheduling strategy: ``"SPREAD"`` or ``"DEFAULT"``.
        resources: Ray's custom resources that a node must have, and how much of each a process takes.
        address: Of the cluster, if the program is not connected: None is ``RAY_ADDRESS``, or the cluster of this host.
        patience: Seconds that Ray may take to find room.
        silence: Seconds without a word from the other host after which the link counts as cut.
        tls: Encrypts the links, both ends of which show a certificate: the paths of a certificate, its key, and the CA
            that the other end's is signed by; or a directory with ``tls.crt``, ``tls.key`` and ``ca.crt``. The same
            paths on all hosts. None: the cluster's network is trusted.

    Raises:
        SettingsError: A value is out of range.
    """

    num_cpus_per_worker: float = 1.0
    workers_local: int = 0
    strategy: str = "SPREAD"
    resources: tuple[tuple[str, float], ...] | dict[str, float] = ()
    address: str | None = None
    patience: float = _PATIENCE
    silence: float = SILENCE
    tls: str | os.PathLike[str] | tuple[str, str, str] | None = None

    def __post_init__(self) -> None:
        wrong = {
            "num_cpus_per_worker": not self.num_cpus_per_worker >= 0,
            "workers_local": self.workers_local < 0,
            "strategy": self.strategy not in ("SPREAD", "DEFAULT"),
            "patience": not self.patience > 0,
            "silence": not self.silence > 0,
        }
        for name, is_wrong in wrong.items():
            if is_wrong:
                raise SettingsError(
                    f"{name}={getattr(self, name)!r} is not accepted", where="RayHosts", hint="see hosts.md"
                )
        _tls(self.tls)

    def launcher(self, name: str, accelerators: bool, strict: bool) -> HostLauncher:
        """What starts one loader's processes; the loader asks for it.

        Args:
            name: The loader's.
            accelerators: Leave devices visible in processes on this host.
            strict: Raise where processes could not start as they were asked to.
        """
        return HostLauncher(_placing(self), name, accelerators, strict)


def _tls(given: Any) -> tuple[str, str, str] | None:
    """The files, which are there, and what they should be.

    Raises:
        SettingsError: they are not.
    """
    if given is None:
        return None
    from safeloader.remote.tls import TlsError, server_context, tls_files

    try:
        files = tls_files(given)
        server_context(files)
    except (TlsError, ValueError, TypeError) as error:
        raise SettingsError(f"tls={given!r} is not accepted: {error}", where="RayHosts", hint="see hosts.md") from error
    return files.certificate, files.key, files.ca


def _placing(hosts: RayHosts) -> Placing:
    """Ray is asked beside this program, not in it: of some questions to a head that was started again, Ray aborts."""
    wanted = Wanted(
        hosts.num_cpus_per_worker, hosts.workers_local, hosts.strategy, dict(hosts.resources), hosts.address,
        hosts.patience, hosts.silence, _tls(hosts.tls),
    )  # fmt: skip
    ray: Any = sys.modules.get("ray")
    if not getattr(ray, "is_initialized", bool)():  # another thread may be about to import it
        return Placer(wanted)
    context = ray.get_runtime_context()
    try:
        return Placer(wanted._replace(address=context.gcs_address, runtime_env=context.get_runtime_env_string()))
    except AttributeError:  # a client of a cluster that this host is not in (``ray://``) knows no such address
        return RayPlacing(wanted, os.urandom(32))
