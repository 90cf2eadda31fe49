"""Benchmarks that are programs of their own: what they print as JSON, one object a line, is their result."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.values import Row

__all__ = ["json_rows", "run_script"]

_ROOT = Path(__file__).resolve().parents[1]


_SMALL = {
    "planner": ("--rows", "100000"),
    "driver": ("--chunks", "500"),
    "resume": ("--chunks", "500"),
    "scale": ("--cells", "1000000", "--workers", "30"),
}
"""Arguments with which a script takes seconds."""


def run_script(name: str, *, quick: bool = False) -> list[Row]:
    """Run ``python -m benchmarks.<name>`` and return the JSON objects among its lines; none where there is no such.

    Raises
    ------
    RuntimeError
        It failed.
    """
    if importlib.util.find_spec(f"benchmarks.{name}") is None:
        return []
    command = [sys.executable, "-m", f"benchmarks.{name}", *(_SMALL[name] if quick else ())]
    ran = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    print(ran.stdout, end="", file=sys.stderr, flush=True)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} ended with {ran.returncode}")
    return json_rows(ran.stdout)


def json_rows(text: str) -> list[Row]:
    """Return the JSON objects among the lines."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
