from __future__ import annotations

import pytest

from ingest.testing.screens import write_screen


@pytest.fixture
def screen(tmp_path):
    """A function that writes a screen and returns its path."""

    def write(layout="csr", *, change=None, name="screen.h5ad"):
        return write_screen(tmp_path / name, layout, change=change)

    return write
