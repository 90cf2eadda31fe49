from __future__ import annotations

import os
import shutil
import tempfile

import pytest

from actors.cluster import connect


@pytest.fixture(scope="session")
def local_ray():
    """One local Ray for all tests, in a folder whose name leaves room for Ray's socket names."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    before = {name: os.environ.pop(name, None) for name in ("RAY_TMPDIR", "RAY_ADDRESS")}
    os.environ["RAY_TMPDIR"] = folder
    try:
        with connect(workers=4) as connection:
            yield connection
    finally:
        del os.environ["RAY_TMPDIR"]
        os.environ.update({name: value for name, value in before.items() if value is not None})
        shutil.rmtree(folder, ignore_errors=True)
