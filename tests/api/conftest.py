"""The reference, made once for all tests that compare with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.parity.reference import Job, references
from tests.shared import computed_once


@dataclasses.dataclass
class Needed:
    """The references that the collected tests need."""

    jobs: list[Job]
    results: dict[Job, Any] = dataclasses.field(default_factory=dict)


_NEEDED = pytest.StashKey[Needed]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs_reference(job): compares with what torch's own loader does in this job")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Look through the tests that are to run for marks like ``@needs_reference(job)``."""
    jobs = (mark.args[0] for item in session.items for mark in item.iter_markers("needs_reference"))
    session.config.stash[_NEEDED] = Needed(list(dict.fromkeys(jobs)))


@pytest.fixture(scope="session")
def reference(request: pytest.FixtureRequest) -> Callable[[Job], Any]:
    """What torch's own loader does; all that is needed is asked for at once, in one program."""
    needed = request.config.stash[_NEEDED]

    def find(job: Job) -> Any:
        if not needed.results:
            needed.results = computed_once(("parity", needed.jobs), lambda: references(needed.jobs))
        result = needed.results[job]
        assert result is not None, "torch's own loader hung"
        return result

    return find
