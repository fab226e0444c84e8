"""How one loader starts its processes: by which method, which of them beforehand, from which server."""

from __future__ import annotations

import importlib.util
import multiprocessing.context
import sys
import weakref
from typing import TYPE_CHECKING, Any, Literal

import torch.multiprocessing

from safeloader.codes import warn
from safeloader.errors import ForkRefusedError, SettingsError

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from safeloader.config import Settings
    from safeloader.runtime.payload import Payload
    from safeloader.runtime.start.launcher import Launcher
    from safeloader.runtime.start.prestarted import Prestarted

__all__ = ["Starting", "of_the_library", "without_fork"]

Method = Literal["spawn", "forkserver"]


class Starting:
    """One loader's.

    Args:
        settings: what policy wants.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._launcher: Launcher | None = None
        self.prestarted: Prestarted | None = None
        self._checked = False

    def prestart(self, loader: DataLoader[Any]) -> None:
        """Start the processes of the first iteration now, if policy wants that."""
        wanted = loader.num_workers
        if self._settings.max_processes is not None:
            wanted = min(wanted, self._settings.max_processes)
        if not self._settings.prestart or self._settings.disable or wanted == 0:
            return
        self.check_preload(loader.multiprocessing_context, 4)
        from safeloader.runtime.start.preload import homes, installed
        from safeloader.runtime.start.prestarted import Prestarted
        from safeloader.runtime.start.surroundings import Surroundings

        launcher = self._chosen(loader.multiprocessing_context)
        modules = homes(loader.dataset, loader.collate_fn, loader.worker_init_fn)
        if launcher.method == "forkserver":
            self._preload(installed(modules))
        self.prestarted = Prestarted(launcher, Surroundings(), wanted, modules)
        weakref.finalize(self, self.prestarted.close)

    def launcher(self, context: Any, spec: Payload | None = None) -> Launcher:
        """How the processes of an iterator come to be; those of a pool do not know yet what they will serve."""
        launcher = self._chosen(context)
        if launcher.method == "forkserver":
            from safeloader.runtime.start.preload import installed

            self._preload(installed(spec.modules if spec is not None else ()))
        return launcher

    def _chosen(self, context: Any) -> Launcher:
        from safeloader.runtime.start.launcher import Launcher

        method = _method(context, self._settings)
        if self._launcher is None or self._launcher.method != method:
            self._launcher = Launcher(method, self._settings.accelerators, self._settings.strict)
            weakref.finalize(self, self._launcher.close)  # a closed driver, which holds it too, may await a collection
        return self._launcher

    def check_preload(self, context: Any, stacklevel: int) -> None:
        """Say, once a loader, where the setting `preload` does nothing.

        Raises:
            SettingsError: it does nothing, and policy is strict.
        """
        if not self._settings.preload or self._checked:
            return
        self._checked = True
        missing, text = [name for name in self._settings.preload if not _can_be_found(name)], ""
        if missing:
            text = f"preload names what is no module that can be found: {', '.join(missing)}"
        elif _method(context, self._settings) == "spawn":
            text = "preload has no effect: processes are spawned, and only a fork server imports modules beforehand"
        if text and self._settings.strict:
            raise SettingsError(text, hint='correct preload, or give start_method="forkserver"', code="SL103")
        if text:
            warn("SL103", text, stacklevel=stacklevel)

    def _preload(self, needed: tuple[str, ...]) -> None:
        """Let the fork server import what is needed, and what the user named."""
        assert self._launcher is not None
        wanted = tuple(name for name in self._settings.preload if _can_be_found(name))
        self._launcher.preload, self._launcher.wanted = (*needed, *wanted), wanted

    def close(self) -> None:
        """No process will be needed any more. An exception from outside breaks nothing of this off."""
        if self.prestarted is not None or self._launcher is not None:
            from safeloader.runtime.trainer.shield import Shield

            Shield().do(self._close)

    def _close(self) -> None:
        if self.prestarted is not None:
            self.prestarted.close()
        if self._launcher is not None:
            self._launcher.close()


def _can_be_found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # its package is missing, or has no spec
        return module in sys.modules


def _method(context: Any, settings: Settings) -> Method:
    """The policy's argument, else the loader's context, else the environment, else the program's start method."""
    source = settings.sources["start_method"]
    if source == "argument":
        return settings.start_method
    if context is not None:
        return _of(context if isinstance(context, str) else context.get_start_method())
    if source != "default":
        return settings.start_method
    return _of(torch.multiprocessing.get_start_method(allow_none=True))


def _of(name: str | None) -> Method:
    return "forkserver" if name == "forkserver" else "spawn"


def of_the_library(context: Any) -> Any:
    """The standard library's context that does what a context of its forks would do: multiprocess's, billiard's."""
    if context is None or isinstance(context, (str, multiprocessing.context.BaseContext)):
        return context
    from safeloader.runtime.by_value.kinds import FORKS_OF_MULTIPROCESSING

    if type(context).__module__.partition(".")[0] not in FORKS_OF_MULTIPROCESSING:
        return context
    method = context.get_start_method(allow_none=True)
    return None if method is None else multiprocessing.get_context(method)


def without_fork(context: Any, num_workers: int, settings: Settings, stacklevel: int) -> Any:
    """Refuse fork, whoever asks for it: the argument (name or context object), or the program's start method."""
    if num_workers == 0 or settings.disable:
        return context
    asked_by = ""
    if context is not None:
        method = context if isinstance(context, str) else getattr(context, "get_start_method", lambda: None)()
        asked_by = "multiprocessing_context" if method == "fork" else ""
    elif torch.multiprocessing.get_start_method(allow_none=True) == "fork":
        asked_by = "the program's start method"
    if not asked_by:
        return context
    text = (
        f"{asked_by} asks for fork: a forked worker inherits held locks, threads' half-done work and the accelerator's "
        'context, and hangs. safeloader starts its processes with spawn instead; to silence this, ask for "spawn"'
    )
    if settings.strict:
        raise ForkRefusedError(text, hint='give multiprocessing_context="spawn", or unset SAFELOADER_STRICT')
    warn("SL101", text, stacklevel=stacklevel)
    return "spawn" if context is not None else None
