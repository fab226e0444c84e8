"""Each kind of fault happens where it was planned, once; and the stream is torch's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset

from safeloader import BadSampleError, DataLoader, Policy
from safeloader.testing import ChaosError, chaos
from tests.fixtures_data import Draws, DrawsAtOnce, Stream
from tests.runtime.harness import COUNT, make, reference, run_epoch, run_script

pytestmark = pytest.mark.usefixtures("forked")

PATIENT = Policy(batch_timeout=60.0, max_restarts=100)
QUICK = Policy(batch_timeout=3.0, max_restarts=100)  # where something hangs


def _causes(loader: DataLoader[Any]) -> list[tuple[str, int | None, int | None]]:
    return [(fault.cause, fault.worker, fault.batch) for fault in loader.report().faults]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("kill:batch=3", [("died", 1, 3)]),
        ("hang:batch=4", [("hung", 0, 4)]),
        pytest.param("kill:worker=0", [("died", 0, 0)], marks=pytest.mark.slow),
        pytest.param("exit:batch=2,code=7", [("died", 0, 2)], marks=pytest.mark.slow),
        pytest.param("oom:batch=5,megabytes=16", [("died", 1, 5)], marks=pytest.mark.slow),
        pytest.param("stop:batch=1", [("stopped", 1, 1)], marks=pytest.mark.slow),
        pytest.param("slow:batch=1,seconds=0.1", [], marks=pytest.mark.slow),
    ],
)
def test_the_stream_is_torchs_after_it(plan: str, expected: list[tuple[str, int, int]]) -> None:
    waits = plan.startswith(("hang", "stop"))
    with chaos(plan) as faults, make(Draws(COUNT), policy=QUICK if waits else PATIENT) as loader:
        assert run_epoch(loader) == reference()[0]
        assert faults.all_done and list(faults.done().values()) == [1]
        causes = [(("died" if cause == "oom" else cause), *where) for cause, *where in _causes(loader)]
        assert causes[:1] == expected and (waits or causes == expected)


@pytest.mark.parametrize("dataset", [Draws, pytest.param(DrawsAtOnce, marks=pytest.mark.slow)])
def test_a_sample_is_found_wherever_the_sampler_puts_it(dataset: type[Draws]) -> None:
    with chaos("kill:sample=17; kill:sample=30") as faults, make(dataset(COUNT), policy=PATIENT) as loader:
        assert run_epoch(loader) == reference()[0]
        assert list(faults.done().values()) == [1, 1]
        found = [
            (fault.cause, 17 in (fault.indices or []) or 30 in (fault.indices or []))
            for fault in loader.report().faults
        ]
        assert found == [("died", True), ("died", True)]


@pytest.mark.slow
def test_an_iterable_dataset_suffers_too() -> None:
    with chaos("kill:worker=1,batch=3") as faults, make(Stream(COUNT), policy=PATIENT) as loader:
        assert run_epoch(loader) == reference("stream")[0]
        assert faults.all_done and _causes(loader) == [("died", 1, 3)]


@pytest.mark.slow
def test_a_later_epoch_can_be_meant_with_persistent_workers_and_with_new_ones() -> None:
    for persistent in (True, False):
        options = {"persistent_workers": True} if persistent else {}
        expected = reference(epochs=2, **options)
        with chaos("kill:epoch=1,batch=2") as faults, make(Draws(COUNT), policy=PATIENT, **options) as loader:
            assert run_epoch(loader, 0) == expected[0] and not faults.all_done
            assert run_epoch(loader, 1) == expected[1]
            assert list(faults.done().values()) == [1] and _causes(loader) == [("died", 0, 2)]


@pytest.mark.slow
def test_a_sample_that_always_kills_is_a_bad_sample() -> None:
    with chaos("kill:sample=9,times=always") as faults, make(Draws(COUNT), policy=PATIENT) as loader:
        with pytest.raises(BadSampleError) as caught:
            run_epoch(loader)
        assert caught.value.indices == [9] and list(faults.done().values()) == [3]


def test_it_raises_at_its_batchs_turn_and_may_be_skipped() -> None:
    with (
        chaos("raise:sample=9"),
        make(Draws(COUNT), policy=PATIENT) as loader,
        pytest.raises(ChaosError, match="made on purpose"),
    ):
        run_epoch(loader)
    policy = Policy(on_bad_sample="skip")
    with chaos("raise:sample=9"), make(Draws(COUNT), policy=policy) as loader:
        run_epoch(loader)
        assert [index for _, _, index in loader.report().skipped] == [9]


class Ones(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((3,), float(index))


def test_a_nan_is_put_into_one_sample_and_nothing_else() -> None:
    clean = list(TorchLoader(Ones(), batch_size=4))
    with chaos("nan:sample=9; nan:batch=4"), DataLoader(Ones(), batch_size=4, num_workers=2) as loader:
        for number, (batch, expected) in enumerate(zip(loader, clean, strict=True)):
            bad = [row for row in range(4) if torch.isnan(batch[row]).any()]
            assert bad == {2: [1], 4: [0]}.get(number, [])
            assert torch.equal(batch[~torch.isnan(batch)], expected[~torch.isnan(batch)])


@pytest.mark.slow
def test_only_the_loader_that_is_meant_suffers() -> None:
    with chaos("kill:loader=val,batch=0") as faults:
        with make(Draws(COUNT), policy=PATIENT, name="train") as loader:
            assert run_epoch(loader) == reference()[0] and not faults.all_done
        with make(Draws(COUNT), policy=PATIENT, name="val") as loader:
            assert run_epoch(loader) == reference()[0] and faults.all_done


def test_the_trainer_itself_comes_to_no_harm() -> None:
    with chaos("kill:batch=0; exit:sample=0"):
        assert len(list(make(Draws(COUNT), num_workers=0, policy=PATIENT))) == 12
        with make(Draws(COUNT), policy=Policy(max_processes=0)) as loader:
            assert run_epoch(loader) == reference()[0]


@pytest.mark.slow
def test_the_context_puts_the_environment_back_and_the_same_plan_begins_anew() -> None:
    for _ in range(2):
        with chaos("kill:batch=1") as faults, make(Draws(COUNT), policy=PATIENT) as loader:
            assert os.environ["SAFELOADER_CHAOS"] == "kill:batch=1"
            run_epoch(loader)
            assert faults.all_done and len(loader.report().faults) == 1
    assert "SAFELOADER_CHAOS" not in os.environ


PROGRAM = """
import torch
from torch.utils.data import TensorDataset
from safeloader import DataLoader
for epoch in range(2):
    loader = DataLoader(TensorDataset(torch.arange(40.0)), batch_size=4, num_workers=2, name="train")
    total = sum(float(batch[0].sum()) for batch in loader)
    print(total, [fault.cause for fault in loader.report().faults])
"""


def test_the_variable_hurts_a_program_that_knows_nothing_of_it_and_a_new_loader_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(PROGRAM)
    out = run_script(path, SAFELOADER_CHAOS="kill:batch=3", TMPDIR=str(tmp_path))
    assert out.splitlines() == ["780.0 ['died']", "780.0 []"]
    assert [file.name for file in tmp_path.iterdir()] == ["train.py"], "the tally's file is gone"


def test_without_a_plan_a_worker_imports_nothing_of_it() -> None:
    code = (
        "import sys, safeloader.runtime.child.process_main, safeloader.runtime.child.loop, safeloader.config; safeloader.config.resolve()\n"
        "print([name for name in sys.modules if name.startswith(('safeloader.testing', 'safeloader.training', 'safeloader.fault'))])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "[]"
