"""Which settings of a configuration reached nobody: incident 3's new key was never read, and the mend did nothing."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from safeloader import codes
from safeloader.spelling import nearest

__all__ = ["SettingsCheck", "settings_check"]

_REFERENCE = re.compile(r"\$\{(\.*)([A-Za-z_][\w.]*)\}")


def settings_check(config: Any) -> SettingsCheck:
    """Note what is read of a configuration.

    Args:
        config: a dict, argparse's Namespace, OmegaConf's DictConfig, or any object with attributes.

    ::

        check = settings_check(config)         # a dict, argparse's Namespace, OmegaConf's DictConfig, a dataclass
        config = check.config                  # the same in use; give this to the trainer
        ...                                    # build everything, run an epoch
        check.tell()                           # warmup_epochs was never read; did you mean "warm_up_epochs"?

    What is read as a whole (``**config``, ``json.dumps``) counts as read.
    """
    return SettingsCheck(config)


class SettingsCheck:
    """What of a configuration was read.

    Args:
        config: The configuration.

    Attributes:
        config: What to use in its place.
    """

    def __init__(self, config: Any) -> None:
        self._read: set[str] = set()
        self._asked: set[str] = set()
        self._root = config
        self.config: Any = self.watched(config, "")

    def watched(self, value: Any, name: str) -> Any:
        """A part of the configuration, as a reader gets it.

        Args:
            value: the part.
            name: its name, dotted; "" for the whole.
        """
        if isinstance(value, MutableMapping) and not hasattr(value, "_metadata"):
            return _WatchedSetting(value, self, name)
        if _keys(value):
            return _WatchedObject(value, self, name)
        return value

    def note(self, name: str, there: bool) -> None:
        """Something was asked for.

        Args:
            name: the setting, dotted.
            there: whether the configuration has it.
        """
        (self._read if there else self._asked).add(name)

    def unread(self) -> list[str]:
        """The settings that were never read, dotted."""
        read = _with_what_they_refer_to(self._root, self._read)
        return [name for name in _leaves(self._root, "") if name not in read]

    def tell(self) -> list[str]:
        """Warn of each setting that was never read, with the name that was asked for in vain, if one is near."""
        unread = self.unread()
        for name in unread:
            guess = nearest(name, self._asked - set(unread))
            codes.log_warning("SL143", "setting %s was never read%s", name, f"; {guess}" if guess else "")
        return unread


def _keys(value: Any) -> list[str]:
    """The settings inside of a value; none if it is a leaf."""
    if isinstance(value, Mapping) or type(value).__module__.startswith("omegaconf.dictconfig"):
        return [str(key) for key in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [field.name for field in dataclasses.fields(value)]
    if type(value).__module__ in ("argparse", "types") and hasattr(value, "__dict__"):  # Namespace, SimpleNamespace
        return [key for key in vars(value) if not key.startswith("_")]
    return []


def _with_what_they_refer_to(root: Any, read: set[str]) -> set[str]:
    """What was read, and what OmegaConf looked up for it: ``${optimizer.lr}``, ``${.lr}``."""
    if not type(root).__module__.startswith("omegaconf."):
        return read
    known, todo = set(read), list(read)
    raw = importlib.import_module("omegaconf").OmegaConf.to_container(root, resolve=False)
    while todo:
        name = todo.pop()
        for dots, path in _REFERENCE.findall(str(_at(raw, name))):
            above = name.split(".")[: -len(dots)] if dots else []
            found = ".".join([*above, path])
            if found not in known:
                known.add(found)
                todo.append(found)
    return known


def _at(raw: Any, name: str) -> Any:
    for key in name.split("."):
        raw = raw.get(key) if isinstance(raw, dict) else None
    return "" if isinstance(raw, (dict, list)) else raw


def _get(value: Any, key: str) -> Any:
    return value[key] if not hasattr(value, "__dict__") or isinstance(value, Mapping) else getattr(value, key)


def _leaves(value: Any, name: str) -> Iterator[str]:
    keys = _keys(value)
    if not keys:
        if name:
            yield name
        return
    for key in keys:
        yield from _leaves(_get(value, key), f"{name}.{key}" if name else key)


class _WatchedSetting(dict[Any, Any]):
    """A dict (or another mapping) whose reads are noted."""

    def __init__(self, inner: Mapping[Any, Any], check: SettingsCheck, name: str) -> None:
        prefix = f"{name}." if name else ""
        super().__init__({key: check.watched(value, f"{prefix}{key}") for key, value in inner.items()})
        self._check, self._prefix = check, prefix

    def _note(self, key: Any, there: bool) -> None:
        self._check.note(f"{self._prefix}{key}", there)

    def __getitem__(self, key: Any) -> Any:
        self._note(key, key in self.keys())
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        """As a dict's."""
        self._note(key, there := dict.__contains__(self, key))
        return super().__getitem__(key) if there else default

    def pop(self, key: Any, *default: Any) -> Any:
        """As a dict's."""
        self._note(key, dict.__contains__(self, key))
        return super().pop(key, *default)

    def __iter__(self) -> Iterator[Any]:
        return super().__iter__()  # of its own, so that ``**config`` asks for each key

    def __contains__(self, key: object) -> bool:
        there = dict.__contains__(self, key)
        if not there:
            self._note(key, there)
        return there

    def items(self) -> Any:
        """As a dict's: all is read."""
        self._all()
        return super().items()

    def values(self) -> Any:
        """As a dict's: all is read."""
        self._all()
        return super().values()

    def _all(self) -> None:
        for key in dict.keys(self):
            self._note(key, there=True)


class _WatchedObject:
    """A namespace, or OmegaConf's, whose reads are noted."""

    def __init__(self, inner: Any, check: SettingsCheck, name: str) -> None:
        object.__setattr__(self, "_safeloader", (inner, check, f"{name}." if name else ""))

    def __getattr__(self, key: str) -> Any:
        inner, check, prefix = self._safeloader
        if key.startswith("__"):
            return getattr(inner, key)
        known = key in _keys(inner)
        if known or not hasattr(type(inner), key):
            check.note(f"{prefix}{key}", known)
        return check.watched(getattr(inner, key), f"{prefix}{key}") if known else getattr(inner, key)

    def __getitem__(self, key: Any) -> Any:
        inner, check, prefix = self._safeloader
        check.note(f"{prefix}{key}", key in _keys(inner))
        return check.watched(inner[key], f"{prefix}{key}")

    def get(self, key: str, default: Any = None) -> Any:
        """As OmegaConf's."""
        inner, check, prefix = self._safeloader
        check.note(f"{prefix}{key}", there := key in _keys(inner))
        return check.watched(_get(inner, key), f"{prefix}{key}") if there else default

    def __setattr__(self, key: str, value: Any) -> None:
        setattr(self._safeloader[0], key, value)

    def __contains__(self, key: object) -> bool:
        return key in _keys(self._safeloader[0])

    def __iter__(self) -> Iterator[str]:
        inner, check, prefix = self._safeloader
        for key in _keys(inner):
            check.note(f"{prefix}{key}", True)
            yield key

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """``vars(args)``: all is read."""
        inner, _, _ = self._safeloader
        return {key: getattr(self, key) for key in _keys(inner)}

    def __repr__(self) -> str:
        return repr(self._safeloader[0])
