"""How many examples a property is tried on: few in `make test`, many in `make test-long`."""

from __future__ import annotations

import os

__all__ = ["examples"]

_DEEP = 10
"""How many times as many `make test-long` tries."""


def examples(few: int) -> int:
    """Return `few`, or several times as many with ``CELL_INGEST_DEEP`` in the environment."""
    return few * _DEEP if os.environ.get("CELL_INGEST_DEEP") else few
