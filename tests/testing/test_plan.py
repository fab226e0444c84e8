"""Plans of faults are read, and mistakes in them are errors that help."""

from __future__ import annotations

import logging

import pytest

from safeloader import SettingsError
from safeloader.config import resolve
from safeloader.fault_tally import handed, in_use
from safeloader.testing import KINDS, parse


def test_a_plan_is_read() -> None:
    kill, slow, rest = parse("kill:worker=1,batch=12; slow : sample=5 , seconds=0.5,times=always ;; hang:")
    assert (kill.number, kill.kind, kill.worker, kill.batch, kill.sample, kill.times) == (0, "kill", 1, 12, None, 1)
    assert (slow.number, slow.sample, slow.seconds, slow.times, slow.text) == (
        1, 5, 0.5, None, "slow : sample=5 , seconds=0.5,times=always",
    )  # fmt: skip
    assert (rest.kind, rest.batch) == ("hang", None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_the_same_places(kind: str) -> None:
    (fault,) = parse(f"{kind}:loader=train,epoch=1,batch=2,sample=3,worker=0,times=4")
    assert (fault.loader, fault.epoch, fault.batch, fault.sample, fault.worker, fault.times) == ("train", 1, 2, 3, 0, 4)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "without a fault"),
        (" ; ", "without a fault"),
        ("kil:batch=1", 'did you mean "kill"'),
        ("kill:bacth=1", 'did you mean "batch"'),
        ("kill:seconds=1", "'seconds' is no key of kill"),
        ("kill:batch", "batch has no value"),
        ("kill:batch=1,batch=2", "batch is given twice"),
        ("kill:batch=-1", "batch=-1 is not accepted: it must be a whole number, at least 0"),
        ("kill:batch=one", "batch=one is not accepted"),
        ("kill:times=0", 'at least 1, or "always"'),
        ("slow:seconds=nan", "a number of seconds"),
        ("kill batch=1", "is no fault"),
    ],
)
def test_a_mistake_is_an_error_that_names_it(text: str, match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        parse(text)


def test_the_setting_is_checked_before_anything_starts() -> None:
    assert resolve(environ={"SAFELOADER_CHAOS": "kill:batch=3"}).chaos == "kill:batch=3"
    assert resolve(environ={"SAFELOADER_CHAOS": "none"}).chaos is None
    with pytest.raises(SettingsError, match=r"SAFELOADER_CHAOS.*'kil' is no fault; did you mean .kill."):
        resolve(environ={"SAFELOADER_CHAOS": "kil:batch=3"})


def test_the_log_says_once_that_there_is_a_plan(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="safeloader"):
        in_use("kill:batch=99999", 2)
        in_use("kill:batch=99999", 2)
        assert handed("kill:batch=99999") == handed("kill:batch=99999")
    assert caplog.messages == ["faults will be made on purpose in worker processes: kill:batch=99999 [SL110]"]
