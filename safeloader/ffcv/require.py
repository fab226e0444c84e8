"""FFCV, imported with its patches, or an error that says exactly how to install it."""

from __future__ import annotations

from safeloader.errors import FFCVMissingError

__all__ = ["HOW_TO_INSTALL", "require"]

HOW_TO_INSTALL = (
    "in a checkout of safeloader: make ffcv (or python tools/install_ffcv.py). By hand, as root: "
    "apt-get install g++ pkg-config libopencv-dev libturbojpeg0-dev; then: "
    "pip install ffcv==1.0.2 numba pillow setuptools"
)


def require() -> None:
    """Import FFCV and mend it, once.

    Raises:
        FFCVMissingError: It is not installed, or a library that it needs is missing.
    """
    from safeloader.ffcv import patches

    try:
        patches.apply()
    except ImportError as reason:
        raise FFCVMissingError(
            f"safeloader.ffcv needs FFCV, which cannot be imported: {reason}", hint=HOW_TO_INSTALL
        ) from reason
