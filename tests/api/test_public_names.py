"""What the package shows, and what it costs to import."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.data

import safeloader

PACKAGE = Path(safeloader.__file__).parent


def test_the_public_names_are_these() -> None:
    assert sorted(safeloader.__all__) == [
        "AuditError", "AuditReport", "BadSampleError", "BatchTimeoutError", "ConcurrentUseError", "DataLoader",
        "DivergenceError", "Fault", "ForkRefusedError", "LoaderClosedError", "NotCarriableError", "Policy", "RanksDisagreeError",
        "RayHosts", "Report", "SafeLoaderError",
        "Settings", "SettingsError", "StartError", "StateError", "WorkerPool", "audit", "carry", "patch", "progress", "settings", "unpatch",
    ]  # fmt: skip


@pytest.mark.parametrize("name", safeloader.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(safeloader, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Dataloader'"):
        safeloader.Dataloader  # noqa: B018


def test_importing_the_package_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, safeloader; print(sorted({'torch', 'numpy', 'cloudpickle'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "[]"


def test_what_a_worker_imports_holds_nothing_of_the_trainer() -> None:
    code = (
        "import sys\n"
        "from safeloader.runtime.child import process_main\n"
        "process_main.learn()\n"
        "trainers = ('safeloader.loader', 'safeloader.iterators', 'safeloader.observe', 'safeloader.config', 'safeloader.core')\n"
        "print([m for m in sys.modules if m.startswith(trainers)])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert said.stdout.strip() == "[]"


def test_the_signature_is_torchs_and_three_more() -> None:
    ours = inspect.signature(safeloader.DataLoader.__init__).parameters
    torchs = inspect.signature(torch.utils.data.DataLoader.__init__).parameters
    later = {"in_order"} - set(torchs)  # torch has it since 2.6
    assert set(ours) - set(torchs) - later == {"policy", "name", "snapshot_every_n_steps"}
    assert set(torchs) <= set(ours)
    for name, parameter in torchs.items():
        assert ours[name].default == parameter.default, name
        assert ours[name].kind == parameter.kind, name
    assert [n for n in ours if n in torchs and torchs[n].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD] == [
        n for n, p in torchs.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]


def _private_uses(path: Path) -> list[str]:
    """Attributes of torch's modules, and imports from them, that begin with an underscore."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found += [n for n in names if n.startswith("_") and not n.startswith("__")]
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id == "torch":
                found.append(node.attr)
    return found


def test_private_torch_is_touched_in_two_modules_only() -> None:
    users = {str(path.relative_to(PACKAGE)): names for path in PACKAGE.rglob("*.py") if (names := _private_uses(path))}
    assert set(users) == {"torch_private.py", "torch_ambient.py"}, users
