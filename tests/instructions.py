"""A hook that is called before each instruction of some files, in this thread."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

__all__ = ["each_instruction"]

_TOOL = 4  # of `sys.monitoring`: none of those that have a name


@contextlib.contextmanager
def each_instruction(within: tuple[str, ...], hook: Callable[[FrameType], None]) -> Iterator[None]:
    """Call ``hook`` with the frame before each instruction; what it raises is raised there.

    Args:
        within: How the names of the files begin.
        hook: What is called.
    """
    if sys.version_info < (3, 12):
        sys.settrace(_tracer(within, hook))
        try:
            yield
        finally:
            sys.settrace(None)
        return
    # There a trace function is not told of the instructions of a function's first run.
    thread, monitoring = threading.get_ident(), sys.monitoring

    def at_instruction(code: CodeType, _: int) -> Any:
        if not code.co_filename.startswith(within):
            return monitoring.DISABLE
        if threading.get_ident() == thread:
            hook(sys._getframe(1))
        return None

    monitoring.use_tool_id(_TOOL, "instructions")
    monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, at_instruction)
    monitoring.restart_events()
    monitoring.set_events(_TOOL, monitoring.events.INSTRUCTION)
    try:
        yield
    finally:
        monitoring.set_events(_TOOL, 0)
        monitoring.free_tool_id(_TOOL)


def _tracer(within: tuple[str, ...], hook: Callable[[FrameType], None]) -> Callable[[FrameType, str, Any], Any]:
    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            hook(frame)
        return local

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(within):
            return None
        frame.f_trace_opcodes = True
        return local

    return trace
