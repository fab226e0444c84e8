"""``python -m safeloader.ffcv check FILE`` and ``... write FILE --dataset module:name``."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import TYPE_CHECKING, Any

from ..errors import SafeLoaderError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 for a damaged file, 2 if the command failed."""
    asked = parser().parse_args(arguments)
    try:
        return int(asked.run(asked))
    except (SafeLoaderError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m safeloader.ffcv", description="check and write .beton files")
    commands = top.add_subparsers(required=True)
    check = commands.add_parser("check", help="look for damage")
    check.add_argument("file")
    check.add_argument("--full", action="store_true", help="decode every image, too")
    check.set_defaults(run=run_check)
    write = commands.add_parser("write", help="write a dataset of images and labels")
    write.add_argument("file")
    write.add_argument("--dataset", required=True, metavar="MODULE:NAME", help="a dataset, or a function that makes it")
    write.add_argument("--mode", default="jpg", choices=("jpg", "raw"), help="how images are stored")
    write.add_argument("--quality", type=int, default=90, help="of JPEG")
    write.add_argument("--max-resolution", type=int, help="longest side in pixels")
    write.add_argument("--workers", type=int, default=-1)
    write.set_defaults(run=run_write)
    return top


def run_check(asked: Any) -> int:
    """Print what a check finds."""
    from .checking import check

    report = check(asked.file, full=asked.full, progress=bar("images"))
    print(report)  # noqa: T201
    return 0 if report.ok else 1


def run_write(asked: Any) -> int:
    """Write a dataset whose samples are (image, label)."""
    from .need import require
    from .writing import write

    require()
    from ffcv.fields import IntField, RGBImageField

    module, _, name = asked.dataset.partition(":")
    sys.path.insert(0, "")
    found = getattr(importlib.import_module(module), name)
    dataset = found() if isinstance(found, type) or not hasattr(found, "__getitem__") else found
    image = RGBImageField(asked.mode, max_resolution=asked.max_resolution, jpeg_quality=asked.quality)
    fields = {"image": image, "label": IntField()}
    count = write(asked.file, dataset, fields, num_workers=asked.workers, progress=bar("samples"))
    print(f"{asked.file}: {count:,} samples")  # noqa: T201
    return 0


def bar(unit: str) -> Callable[[int, int], None]:
    """A progress bar on standard error."""
    from tqdm import tqdm

    shown: Any = None

    def show(done: int, total: int) -> None:
        nonlocal shown
        shown = shown or tqdm(total=total, unit=f" {unit}", leave=False)
        shown.update(done - shown.n)
        if done >= total:
            shown.close()

    return show


if __name__ == "__main__":
    sys.exit(main())
