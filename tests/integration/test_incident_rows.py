"""The rows of the incidents' table are independent: one whose program missed its cap is a row like the others."""

from __future__ import annotations

import pytest

from benchmarks.incidents.watching import Row, Run, judged


def test_a_program_that_missed_its_cap_is_a_row_and_the_others_stand(capsys: pytest.CaptureFixture[str]) -> None:
    fine = Row("1", "with", "named", "2 s", "-", True, "accuracy 0.9", True)
    silent = Run(lines=[(0.1, "epoch 1: training")], ended=False, patience=40.0)

    def empty() -> Row:
        raise ZeroDivisionError("no batches")

    def mute() -> Row:
        silent.at("epoch 2")
        raise AssertionError

    rows = judged("1", ("without", mute), ("without", empty), ("with", lambda: fine))
    assert rows[2] is fine and [row.as_claimed for row in rows] == [False, False, True]
    assert rows[0].happened == "not measured: the program never said 'epoch 2': it was silent for 40 s, and said:"
    assert rows[1].happened == "not measured: ZeroDivisionError: no batches"
    assert "epoch 1: training" in capsys.readouterr().err, "the whole story is told beside the table"


def test_each_incident_gives_its_rows_by_themselves() -> None:
    import importlib
    import inspect

    from benchmarks.incidents.__main__ import INCIDENTS

    for name in INCIDENTS:
        module = importlib.import_module(f"benchmarks.incidents.{name}")
        assert "judged(" in inspect.getsource(module.measure), name
