"""Loaders whose processes keep no copies of themselves: for tests of what is done without one."""

from __future__ import annotations

import dataclasses
from typing import Any

import safeloader
from safeloader import Policy

__all__ = ["DataLoader"]


def DataLoader(
    dataset: Any, *arguments: Any, policy: Policy | None = None, **options: Any
) -> safeloader.DataLoader[Any]:
    """``safeloader.DataLoader`` with ``shadow=False``."""
    policy = dataclasses.replace(policy or Policy(), shadow=False)
    return safeloader.DataLoader(dataset, *arguments, policy=policy, **options)
