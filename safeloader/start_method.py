"""How one loader starts its processes: by which method, which of them beforehand, from which server."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing.context
import os
import sys
import types
import weakref
from typing import TYPE_CHECKING, Any, Literal

import torch.multiprocessing

from safeloader.codes import log_warning, warn
from safeloader.errors import ForkRefusedError, SettingsError
from safeloader.runtime import system
from safeloader.runtime.user_code import is_users

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from safeloader.config import Settings
    from safeloader.runtime.payload import Payload
    from safeloader.runtime.start.launcher import Launcher
    from safeloader.runtime.start.prestarted import Prestarted

__all__ = ["Starting", "of_the_library"]

Method = Literal["spawn", "forkserver"]


class Starting:
    """One loader's.

    Args:
        settings: what policy wants.
        name: the loader's; "": a pool's, whose processes are all on this host.
    """

    def __init__(self, settings: Settings, name: str = "") -> None:
        self._settings = settings
        self._name = name
        self._launcher: Launcher | None = None
        self._fork_told = False
        self.prestarted: Prestarted | None = None
        self._checked = False

    def without_fork(self, context: Any, num_workers: int, stacklevel: int) -> Any:
        """Refuse fork, whoever asks for it: the argument (name or context object), or the program's start method.

        Returns:
            The context to use.

        Raises:
            ForkRefusedError: policy is strict.
        """
        asked_by = "" if num_workers == 0 or self._settings.disable else _asks_for_fork(context)
        if not asked_by:
            return context
        text = (
            f"{asked_by} asks for fork: a forked worker inherits held locks, threads' half-done work and the "
            "accelerator's context, and hangs. safeloader starts its processes with spawn instead; to silence this, "
            'ask for "spawn"'
        )
        if self._settings.strict:
            raise ForkRefusedError(text, hint='give multiprocessing_context="spawn", or unset SAFELOADER_STRICT')
        if not self._fork_told:
            self._fork_told = True
            warn("SL101", text, stacklevel=stacklevel)
        return context if context is None or isinstance(context, types.ModuleType) else "spawn"

    def prestart(self, loader: DataLoader[Any]) -> None:
        """Start the processes of the first iteration now, if policy wants that."""
        wanted = loader.num_workers
        if self._settings.max_processes is not None:
            wanted = min(wanted, self._settings.max_processes)
        if not self._settings.prestart or self._settings.disable or wanted == 0 or self._hosts is not None:
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
        if self._hosts is not None and spec is not None:
            return self._on_hosts(spec)
        if self._settings.hosts != "local" and spec is not None:
            why = "this system has no descriptors of processes (pidfd)"
            log_warning("SL039", "%s: processes stay on this host: %s", self._name, why)
        launcher = self._chosen(context)
        if launcher.method == "forkserver":
            from safeloader.runtime.start.preload import installed

            self._preload(installed(spec.modules if spec is not None else ()))
        return launcher

    @property
    def _hosts(self) -> Any:
        wanted = self._settings.hosts
        return wanted if wanted != "local" and self._name and system.HAS_PIDFD else None

    def _on_hosts(self, spec: Payload) -> Launcher:
        if self._launcher is None:
            hosts = self._hosts
            if hosts == "ray":
                hosts = importlib.import_module("safeloader.remote.ray_hosts").RayHosts()
            self._launcher = hosts.launcher(self._name, self._settings.accelerators, self._settings.strict)
            weakref.finalize(self, self._launcher.close)
        launcher: Any = self._launcher
        launcher.serve(spec)
        return self._launcher

    def _chosen(self, context: Any) -> Launcher:
        from safeloader.runtime.start.launcher import Launcher

        method = _method(context, self._settings)
        if self._launcher is None or self._launcher.method != method:
            self._launcher = Launcher(method, self._settings.accelerators, self._settings.strict)
            weakref.finalize(self, self._launcher.close)  # a closed driver, which holds it too, may await a collection
        return self._launcher

    def check(self, loader: Any, stacklevel: int) -> None:
        """See, before an iterator is made, that what is asked for is what there will be; else warn.

        Raises:
            ForkRefusedError, SettingsError: it is not, and policy is strict.
        """
        self.without_fork(loader.multiprocessing_context, loader.num_workers, stacklevel + 1)
        self.check_preload(loader.multiprocessing_context, stacklevel + 1)

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
    if context is not None and not isinstance(context, types.ModuleType):
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


def _asks_for_fork(context: Any) -> str:
    """Who asks for fork, in words: a loader's context (name or object), or the program; "" if nobody does."""
    if isinstance(context, str):
        return "multiprocessing_context" if context == "fork" else ""
    if context is not None and not isinstance(context, types.ModuleType):  # fastai gives torch.multiprocessing itself
        method = getattr(context, "get_start_method", lambda: None)()
        return "multiprocessing_context" if method == "fork" and context is not _unasked else ""
    chosen = getattr(_default, "_actual_context", None)
    asked = chosen is not None and chosen is not _unasked and chosen.get_start_method() == "fork"
    return "the program's start method" if asked else ""


def _told_apart() -> Any:
    """Where fork is what multiprocessing takes for want of a choice, make that another object than what is asked for.

    The first lock or queue of a program, such as that of tqdm's first bar, makes multiprocessing settle on its default,
    and nothing tells that from ``set_start_method("fork")`` afterwards. What was settled on before safeloader was
    imported counts as somebody's choice if the program's own source calls that function.
    """
    unasked = getattr(_default, "_default_context", None)
    if unasked is None or getattr(unasked, "_name", "") != "fork":
        return None
    own = type(unasked)()
    if _default._actual_context is unasked and not _chosen_in_source():
        _default._actual_context = own
    _default._default_context = own
    return own


def _chosen_in_source() -> bool:
    """Whether a source file of the program calls ``set_start_method``."""
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and is_users(os.path.abspath(path)):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                if b"set_start_method" in file.read():
                    return True
    return False


_default: Any = getattr(torch.multiprocessing.get_context, "__self__", None)
_unasked = _told_apart()
