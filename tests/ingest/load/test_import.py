"""What importing costs: nothing heavy, until a name needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = "ray tiledbsoma torch cellxgene_census anndata pandas matplotlib s3fs gcsfs boto3 h5py"


def run(script, *arguments):
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)


def loaded_after(*lines, arguments=()):
    script = "\n".join(["import sys", *lines, f"print([m for m in {HEAVY!r}.split() if m in sys.modules])"])
    done = run(script, *map(str, arguments))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_package_alone():
    assert loaded_after("import ingest.load", "ingest.load.__all__, dir(ingest.load)") == "[]"


def test_reading_needs_none_of_them(dest):
    found = loaded_after(
        "from ingest.load import open_chunks",
        "cells = open_chunks(sys.argv[1])",
        "cells.counts(cells.where('age == 3'), genes=[1, 2]); cells.measured(); cells.column('tissue', [1])",
        arguments=[dest],
    )
    assert not {"ray", "tiledbsoma", "torch", "cellxgene_census"} & set(eval(found))  # noqa: S307 # our own list of names


def test_without_torch_it_says_how_to_get_it():
    script = """
import sys
sys.modules["torch"] = None
import ingest.load
for name in ("create_dataloader", "ShuffledCells"):
    try:
        getattr(ingest.load, name)
    except ImportError as error:
        print(error)
from ingest.load import open_chunks
"""
    done = run(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "create_dataloader needs PyTorch: pip install 'cell-ingest[torch]'",
        "ShuffledCells needs PyTorch: pip install 'cell-ingest[torch]'",
    ]


def test_a_name_that_is_none():
    import ingest.load

    with pytest.raises(AttributeError, match="no attribute 'create_datalaoder'"):
        _ = ingest.load.create_datalaoder
    with pytest.raises(ImportError):
        from ingest.load import create_datalaoder  # noqa: F401


def test_every_name_is_where_it_is_said_to_be():
    import ingest.load

    assert sorted(ingest.load.__all__) == sorted(ingest.load._HOMES)
    for name in ingest.load.__all__:
        assert getattr(ingest.load, name).__name__ == name
        assert name in dir(ingest.load)
