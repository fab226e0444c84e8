"""What the tests of patched programs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import safeloader
from safeloader import unprotected


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within it torch's DataLoader is safeloader's; what earlier tests left unprotected is not known."""
    monkeypatch.setattr(unprotected, "_kinds", {})
    monkeypatch.setattr(unprotected, "_counts", {})
    safeloader.patch()
    yield
    safeloader.unpatch()
