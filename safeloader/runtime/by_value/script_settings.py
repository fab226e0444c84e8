"""What the main script sets in other modules at its top level: ``ImageFile.LOAD_TRUNCATED_IMAGES = True``,
``torch.set_default_dtype(torch.float64)``, ``collate.default_collate_fn_map[Point] = ...``.

torch's spawned workers run the script again, and its forked ones inherit what it did. No process of safeloader's runs
it; so these statements, and no others, go along and are run there. The user's own modules that the script imports at
its top level, and that set something so, are imported.

A statement is one of these if it stands at the top level, also within ``if``, ``try`` or ``for`` of which all is such,
and if it

- assigns to an attribute or an element of something imported; or
- calls something imported whose name says that it sets or registers something.

Left out is what reaches beyond the process or safeloader puts there itself (`_NOT`), and the ``__main__`` guard.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import os
import re
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from safeloader.runtime.start.fork_safety import stamp
from safeloader.runtime.user_code import is_users

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Setting", "repeat_settings", "settings_of_script"]

Setting = tuple[str, list[str], list[str], list[str]]
"""A statement, the names of the script that it uses, the packages that must be there before it is run, and modules of
these that it imports by their full names."""

_Stamp: TypeAlias = "tuple[int, int] | None"

_AMBIENT = frozenset({"torch", "numpy", "decimal", "warnings", "socket", "locale", "sys"})
"""Where a worker in the trainer has states of its own."""

_VERB = re.compile(
    r"set(?!up|tl|ting)|reg(?!r)|enable|disable|use(?!r)|add(?!r)|filter|simplefilter|install|option(?!al)"
    r"|(append|extend|insert|update)$"
)
_MAYBE = re.compile(
    r"^[ \t]*[A-Za-z_][^\n#=]*[.\]][^\n#=]*(=|\()|^[ \t]*(set|reg|enable|install|use|add)\w*\(", re.MULTILINE
)
_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+(\.*[\w.]*)[ \t]+import[ \t]+([^\n#]*)|import[ \t]+([^\n#]*))", re.MULTILINE)
_NOT = (
    "os", "sys.path", "sys.argv", "sys.modules", "sys.stdin", "sys.stdout", "sys.stderr", "shutil", "subprocess",
    "atexit", "signal", "threading", "multiprocessing", "multiprocess", "logging.basicConfig", "safeloader", "wandb",
    "mlflow", "ray", "argparse", "torch.distributed", "torch.multiprocessing", "torch.cuda", "torch.xpu", "torch.mps",
    "torch.backends.cuda", "torch.backends.cudnn", "torch.set_default_device", "torch.set_num_threads",
    "torch.set_num_interop_threads", "torch._dynamo", "torch._inductor", "torch.compiler", "faulthandler", "matplotlib",
)  # fmt: skip
_LARGEST = 1 << 20  # bytes of a source file


def settings_of_script(main: Any) -> tuple[list[Setting], list[str]]:
    """Statements of a main script, and names of the user's modules that have such statements themselves."""
    path = getattr(main, "__file__", None)
    if not path or not os.path.isfile(path):  # a notebook, or the standard input
        return [], []
    spec = getattr(main, "__spec__", None)
    package = getattr(main, "__package__", None) or (spec.name.rpartition(".")[0] if spec else "")
    modules = [name for name in _imported(path, package) if _settings_of(sys.modules[name].__file__)]
    return [*_settings_of(path)], modules


def repeat_settings() -> None:
    """Make those again that a worker in the trainer has for itself: it begins without them, as a process does."""
    main = sys.modules["__main__"]
    settings, modules = settings_of_script(main)
    found: list[tuple[dict[str, Any], Sequence[Setting]]] = [(vars(main), settings)]
    found += [(vars(module), _settings_of(module.__file__)) for module in map(sys.modules.__getitem__, modules)]
    for variables, own in found:
        for text, _, packages, _ in own:
            if _AMBIENT.issuperset(packages) and _can_be_repeated(ast.parse(text).body[0]):
                with contextlib.suppress(Exception):  # the program did it before, so it is no news
                    exec(text, dict(variables))


def _imported(path: str, package: str) -> list[str]:
    """The user's modules that a file imports, and those that these import."""
    found: dict[str, None] = {}
    waiting = [(path, package)]
    while waiting:
        path, package = waiting.pop()
        for name in _names(path, stamp(path), package):
            file = getattr(sys.modules.get(name), "__file__", None)
            if name not in found and file and is_users(file):
                found[name] = None
                inside = name if os.path.basename(file) == "__init__.py" else name.rpartition(".")[0]
                waiting.append((file, inside))
    return list(found)


@functools.lru_cache(4096)
def _text(path: str, at: _Stamp) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(_LARGEST)
    except (OSError, UnicodeDecodeError):
        return ""


@functools.lru_cache(4096)
def _names(path: str, at: _Stamp, package: str) -> tuple[str, ...]:
    found: list[str] = []
    for origin, names, plain in _IMPORT.findall(_text(path, at)):
        heads = [part.split()[0] for part in (names or plain).strip("() \\").split(",") if part.split()]
        if origin:
            try:
                base = importlib.util.resolve_name(origin, package)
            except ImportError:
                continue
            found += [base, *(f"{base}.{head}" for head in heads)]
        else:
            for head in heads:
                parts = head.split(".")
                found += [".".join(parts[: end + 1]) for end in range(len(parts))]
    return tuple(found)


def _settings_of(path: Any) -> tuple[Setting, ...]:
    return _settings(path, stamp(path))


@functools.lru_cache(4096)
def _settings(path: str, at: _Stamp) -> tuple[Setting, ...]:
    text = _text(path, at)
    if not _MAYBE.search(text):
        return ()
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return ()
    finder = _Finder(tree)
    return tuple(finder.told(node) for node in tree.body if finder.sets(node))


class _Finder:
    """Knows which names of a file come from elsewhere."""

    def __init__(self, tree: ast.Module) -> None:
        self._origins: dict[str, str] = {}
        self._modules: dict[str, list[str]] = {}  # by the name that stands for the package of each
        for node in _top_level(tree.body):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    head = alias.name.partition(".")[0]
                    self._origins[alias.asname or head] = alias.name if alias.asname else head
                    if head != alias.name and not alias.asname:
                        self._modules.setdefault(head, []).append(alias.name)
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                for alias in node.names:
                    self._origins[alias.asname or alias.name] = f"{base}.{alias.name}"

    def sets(self, node: ast.stmt) -> bool:
        """True for a statement that sets something elsewhere, and does nothing else."""
        if isinstance(node, ast.Expr):
            return isinstance(node.value, ast.Call) and self._is_setter(node.value.func)
        if isinstance(node, ast.Assign):
            return all(map(self._is_elsewhere, node.targets))
        if isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            return node.value is not None and self._is_elsewhere(node.target)
        if isinstance(node, (ast.If, ast.Try, ast.For)) and not _is_guard(node):
            inner = _inside(node)
            return any(map(self.sets, inner)) and all(self.sets(part) or _is_harmless(part) for part in inner)
        return False

    def told(self, node: ast.stmt) -> Setting:
        """What a process has to know of a statement."""
        names = sorted({part.id for part in ast.walk(node) if isinstance(part, ast.Name)})
        packages = {self._origins[name].partition(".")[0] for name in names if name in self._origins}
        modules = [module for name in names for module in self._modules.get(name, ())]
        return ast.unparse(node), names, sorted(package for package in packages if package), modules

    def _is_setter(self, called: ast.expr) -> bool:
        dotted = self._dotted(called)
        return dotted is not None and not _left_out(dotted) and bool(_VERB.match(dotted.rpartition(".")[2].lstrip("_")))

    def _is_elsewhere(self, target: ast.expr) -> bool:
        if not isinstance(target, (ast.Attribute, ast.Subscript)):
            return False
        dotted = self._dotted(target)
        return dotted is not None and not _left_out(dotted)

    def _dotted(self, node: ast.expr) -> str | None:
        """``numpy.seterr`` for ``np.seterr``; calls and elements on the way are passed over."""
        parts: list[str] = []
        while not isinstance(node, ast.Name):
            if isinstance(node, ast.Attribute):
                parts.append(node.attr)
                node = node.value
            elif isinstance(node, ast.Subscript):
                node = node.value
            elif isinstance(node, ast.Call):
                node = node.func
            else:
                return None
        origin = self._origins.get(node.id)
        return None if origin is None else ".".join([origin, *reversed(parts)])


def _left_out(dotted: str) -> bool:
    return any(dotted == name or dotted.startswith(f"{name}.") for name in _NOT)


def _inside(node: ast.If | ast.Try | ast.For) -> list[ast.stmt]:
    handlers = [part for handler in node.handlers for part in handler.body] if isinstance(node, ast.Try) else []
    return [*node.body, *handlers, *node.orelse, *(node.finalbody if isinstance(node, ast.Try) else ())]


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try, ast.For)):
            yield from _top_level(_inside(node))


def _is_harmless(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Name) for target in node.targets)
    return isinstance(node, (ast.Import, ast.ImportFrom, ast.Pass)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _can_be_repeated(node: ast.stmt) -> bool:
    """False where a second time makes another thing of it, like a wrapper around what is there."""
    if isinstance(node, (ast.If, ast.Try, ast.For)):
        return all(map(_can_be_repeated, _inside(node)))
    return not isinstance(node, ast.AugAssign) and (
        not isinstance(node, (ast.Assign, ast.AnnAssign)) or isinstance(node.value, (ast.Constant, ast.Attribute))
    )


def _is_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test)
    )
