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

__all__ = ["run_script"]

_ROOT = Path(__file__).resolve().parents[1]


def run_script(name: str) -> list[Row]:
    """Run ``python -m benchmarks.<name>`` and return the JSON objects among its lines; none where there is no such.

    Raises
    ------
    RuntimeError
        It failed.
    """
    if importlib.util.find_spec(f"benchmarks.{name}") is None:
        return []
    ran = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    print(ran.stdout, end="", flush=True)
    if ran.returncode:
        raise RuntimeError(f"benchmarks.{name} ended with {ran.returncode}")
    found = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    return [row for row in found if isinstance(row, dict)]
