"""One call of a driver at a time: what lets the consumer's in, and what is done at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from safeloader.runtime.trainer.callers import closed_error, in_use_error

if TYPE_CHECKING:
    import threading

    from safeloader.runtime.trainer.loop import Loop
    from safeloader.runtime.trainer.planner import Draws
    from safeloader.runtime.trainer.shield import Shield

__all__ = ["Alone"]

_PATIENCE = 1.0  # seconds until it is looked whether the holder of a lock still lives


class _Driver(Protocol):
    closed: bool
    due: float
    loop: Loop
    pooled: bool
    shield: Shield
    _busy: threading.Lock
    _lock: threading.Lock
    _owner: int
    _whole: bool

    def _in_use(self) -> bool: ...
    def _is_attended(self) -> bool: ...
    def _let_go(self) -> None: ...


class Alone:
    """Within this context one call of a driver is under way, and no other. It is entered for every batch.

    Args:
        driver: whose.
        draws: the sampler that may be asked meanwhile.
    """

    __slots__ = ("_draws", "_driver")

    def __init__(self, driver: _Driver, draws: Draws | None = None) -> None:
        self._driver, self._draws = driver, draws

    def __enter__(self) -> None:
        driver = self._driver
        if driver.closed:
            raise closed_error(driver._owner)
        if not driver._lock.acquire(blocking=False) and driver._in_use():
            raise in_use_error()
        try:
            if not driver._busy.acquire(blocking=False):
                self._wait_for_books(driver)
            try:
                shield, planner = driver.shield, driver.loop.planner
                if shield.job is not None and not shield.job.done:
                    shield.settle()
                if driver.closed:
                    raise closed_error(driver._owner)
                if not driver._whole:
                    driver.loop.hear_again()
                driver._whole = False
                planner.draws = self._draws
                if planner.owes and self._draws is not None:
                    planner.make_up(self._draws)
            except BaseException:
                driver.loop.planner.draws = None
                driver._busy.release()
                raise
        except BaseException:
            driver._let_go()
            raise

    @staticmethod
    def _wait_for_books(driver: _Driver) -> None:
        while not driver._busy.acquire(timeout=_PATIENCE) and driver._is_attended():
            pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        driver = self._driver
        shield = driver.shield
        try:
            driver.loop.planner.draws = None
            if kind is None:
                if driver.pooled:
                    driver.due = driver.loop.supervisor.next_deadline()
                driver._whole = True
                if shield.job is not None and shield.job.is_passing:
                    shield.forget()
        finally:
            driver._busy.release()
            driver._let_go()
