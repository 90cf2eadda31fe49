"""What tests of conversions share: many parts, and what an uninterrupted run makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ingest.load.memmap.convert import plan as plan_module
from ingest.testing.conversions import convert

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def small_parts(monkeypatch):
    """Many parts: no more than a chunk each."""
    default = plan_module.even_rows.__defaults__
    monkeypatch.setattr(plan_module.even_rows, "__defaults__", (10,))
    monkeypatch.setattr(plan_module.join_cuts, "__defaults__", (1,))
    assert default == (plan_module.PART_ENTRIES,)


@pytest.fixture
def quiet(dest, tmp_path, small_parts) -> Path:  # noqa: ARG001 # parts as those of the runs compared
    """What an uninterrupted run makes."""
    return convert(dest, tmp_path / "quiet").path
