"""What the main script sets in other modules at its top level holds in workers, as with torch's."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest

from safeloader.runtime.by_value.script_settings import settings_of_script
from tests.runtime.harness import end, program, run_script, start_script

PROGRAM = """
import builtins, decimal, json, logging, mimetypes, socket, sys, warnings
import numpy as np
import PIL.Image, PIL.ImageFile
import torch
import torch.utils.data._utils.collate as collate
from torch.utils.data import DataLoader as TorchLoader, Dataset
from safeloader import DataLoader, Policy
import own_settings

PIL.ImageFile.LOAD_TRUNCATED_IMAGES = True
torch.set_default_dtype(torch.float64)
np.seterr(all="raise")
decimal.getcontext().prec = 5
warnings.simplefilter("error", ResourceWarning)
logging.getLogger("mine").setLevel(logging.ERROR)
socket.setdefaulttimeout(9)
json.JSONEncoder.item_separator = ";"
sys.wrapped = getattr(sys, "wrapped", 0) + 1
for suffix in (".one", ".two"):
    mimetypes.add_type("x/y", suffix)
try:
    import not_there
except ImportError:
    builtins.SET = 3

class Point:
    def __init__(self, x):
        self.x = x

table = []
table.append(1)
collate.default_collate_fn_map[Point] = lambda batch, *, collate_fn_map=None: torch.tensor([p.x for p in batch])

class Seen(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        seen = {
            "truncated": PIL.ImageFile.LOAD_TRUNCATED_IMAGES, "dtype": str(torch.zeros(1).dtype), "over": np.geterr()["over"],
            "precision": decimal.getcontext().prec, "level": logging.getLogger("mine").level,
            "timeout": socket.getdefaulttimeout(), "separator": json.JSONEncoder.item_separator,
            "type": mimetypes.guess_type("a.two")[0], "builtin": getattr(builtins, "SET", None), "table": len(table),
            "errors": sum(f[0] == "error" and f[2] is ResourceWarning for f in warnings.filters) > 0,
            "module": np.get_printoptions()["precision"],
        }
        return {"seen": str(seen), "point": Point(index)}

if __name__ == "__main__":
    def first(loader):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = next(iter(loader))
        return batch["seen"], batch["point"].tolist()
    wanted = first(TorchLoader(Seen(), 2, num_workers=2, multiprocessing_context="spawn"))
    torch.set_default_dtype(torch.float32)
    np.seterr(all="ignore")
    for policy in (
        Policy(), Policy(start_method="forkserver"), Policy(max_processes=1), Policy(max_processes=0)
    ):
        got = first(DataLoader(Seen(), 2, num_workers=2, policy=policy))
        print(got == wanted or (got, wanted))
    print(torch.get_default_dtype(), np.geterr()["over"], sys.wrapped)
"""


def test_they_are_those_of_torchs_spawned_workers_at_every_level(tmp_path: Path) -> None:
    (tmp_path / "own_settings.py").write_text("import numpy\nnumpy.set_printoptions(precision=3)\n")
    lines = run_script(program(tmp_path, PROGRAM)).splitlines()
    assert lines == ["True"] * 4 + ["torch.float32 ignore 1"]


LATE = """
import sys
import late_package, late_package.inside
import torch
from safeloader import DataLoader
from torch.utils.data import Dataset

late_package.inside.LEVEL = 7

class Seen(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index < 2:
            return "late_package" in sys.modules
        import late_package.inside
        return late_package.inside.LEVEL

loader = DataLoader(Seen(), batch_size=None, num_workers=1)
print(list(loader))
"""


def test_a_setting_waits_until_somebody_imports_its_package(tmp_path: Path) -> None:
    """No process imports a package for it."""
    package = tmp_path / "late_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inside.py").write_text("LEVEL = 0")
    assert run_script(program(tmp_path, LATE)).split() == ["[False,", "False,", "7,", "7]"]


FAILS = """
import sys, os
import torch
import own_values
from safeloader import DataLoader
from torch.utils.data import Dataset

open_file = open(__file__)
torch.set_printoptions(precision=3 if open_file else 4)
own_values.VALUE = 5

class Seen(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return own_values.VALUE

loader = DataLoader(Seen(), batch_size=None, num_workers=1)
print(list(loader))
"""


def test_one_that_fails_is_told_and_the_others_hold(tmp_path: Path) -> None:
    (tmp_path / "own_values.py").write_text("VALUE = 1")
    code, out, err = end(start_script(program(tmp_path, FAILS)), 90)
    assert (code, out.strip()) == (0, "[5, 5]"), err
    assert "what the main script sets by 'torch.set_printoptions(precision=3 if open_file else 4)' fails here" in err
    assert "'open_file' of the main script stays in the trainer" in err


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("import cv2\ncv2.setNumThreads(0)", True),
        ("import torch as t\nt.backends.mkldnn.enabled = False", True),
        ("from pillow_heif import register_heif_opener\nregister_heif_opener()", True),
        ("from PIL import ImageFile\nif True:\n    ImageFile.LOAD_TRUNCATED_IMAGES = True", True),
        ("from config import cfg\ncfg['root'] = '/data'", True),
        ("import decord\ndecord.bridge.set_bridge('torch')", True),
        ("import shutil\nshutil.rmtree('out')", False),
        ("import os\nos.environ['A'] = '1'", False),
        ("import torch\ntorch.save(1, 'out')", False),
        ("from ranks import setup_ddp\nsetup_ddp()", False),
        ("from codes import user_of, address\naddress(user_of(1))", False),
        ("import torch\ntorch.distributed.init_process_group('gloo')", False),
        ("import torch\nif __name__ == '__main__':\n    torch.set_default_dtype(torch.float64)", False),
        ("import torch\ndef main():\n    torch.set_default_dtype(torch.float64)\nmain()", False),
        ("model = make()\nmodel.training = False\nmodel.add(3)", False),
        ("import safeloader\nsafeloader.patch()", False),
        ("import torch\nif True:\n    torch.set_default_dtype(torch.float64)\n    print('done')", False),
        ("import torch\nfor item in list_of_items:\n    total.append(item)", False),
        ("this is no Python", False),
    ],
)
def test_which_statements_are_settings(tmp_path: Path, text: str, is_one: bool) -> None:
    path = tmp_path / "script.py"
    path.write_text(text)
    settings, modules = settings_of_script(SimpleNamespace(__file__=str(path)))
    assert [statement for statement, *_ in settings] == ([ast.unparse(ast.parse(text).body[-1])] if is_one else [])
    assert modules == []


def test_a_script_without_a_file_has_none() -> None:
    assert settings_of_script(SimpleNamespace()) == ([], [])
