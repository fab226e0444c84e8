"""A measurement is a child program with a time limit; its last line of output is its result, as JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import psutil

Result = dict[str, Any]


def run(module: str, *arguments: object, limit: float, environment: dict[str, str] | None = None) -> Result:
    """Run ``python -m benchmarks.speed.<module>`` and return what it measured.

    Args:
        module: The module in this package.
        arguments: Its command line.
        limit: Seconds until the program and all its children are killed.
        environment: Variables that the program has beside those of this one.

    Returns:
        The measured values, or ``{"error": why}``.
    """
    process = start(module, *arguments, environment=environment)
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        end(process)
        return {"error": f"no result within {limit:.0f} s"}
    finally:
        end(process)
    return parse(out, err, process.returncode)


def start(module: str, *arguments: object, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a measuring program with pipes for its input and output, in a process group of its own."""
    command = [sys.executable, "-m", f"benchmarks.speed.{module}", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | (environment or {}),
    )


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a program and everything it started, as far as any of it still lives: sessions of their own, too."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    for pid in [process.pid, *(child.pid for child in children)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def parse(out: str, err: str, code: int) -> Result:
    """Read the last line of output as JSON; an error names the last line of the error output."""
    lines = out.strip().splitlines()
    if lines:
        try:
            result: Result = json.loads(lines[-1])
            return result
        except ValueError:
            pass
    complaint = err.strip().splitlines()
    return {"error": f"exit code {code}: {complaint[-1] if complaint else 'no output'}"}


def tell(**values: object) -> None:
    """Say something to the program that measures: one line of JSON."""
    print(json.dumps(values), flush=True)


def wait_for_word() -> None:
    """Wait until the measuring program writes a line."""
    sys.stdin.readline()
