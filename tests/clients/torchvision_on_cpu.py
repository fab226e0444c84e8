"""Lets torchvision's wheel for CUDA be imported beside a torch without it: its own operators are missing, the rest works.

Imported by every interpreter of the clients' environment (a ``.pth`` file does that).
"""

from __future__ import annotations

import sys
from typing import Any


class _Before:
    """Declares, before torchvision is imported, the operators that it cannot be imported without."""

    library: Any = None

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torchvision" and cls.library is None:
            import torch

            cls.library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                cls.library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, _Before)  # type: ignore[arg-type]
