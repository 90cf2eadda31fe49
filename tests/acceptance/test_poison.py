"""One bad chunk in a hundred: ninety-nine are committed, one is named, and the exit code says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata
import h5py
import pytest

from ingest.testing.datasets import write_h5ad_index, write_sources

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CELLS, BAD = 500, 317
"""Five cells a chunk; the bad cell is in chunk 63."""


@pytest.mark.parametrize("pool", ["ray", pytest.param("serial", marks=pytest.mark.long)])
def test_one_bad_chunk_in_a_hundred(pool: str, ingest: Callable[..., object], tmp_path: Path):
    (source,) = write_sources(tmp_path, n_files=1, n_cells=CELLS, n_genes=20)
    with h5py.File(source, "r+") as file:
        first = file["X/indptr"][BAD]
        assert file["X/indptr"][BAD + 1] > first
        file["X/indices"][first] = 20  # beyond the last gene: scipy would read foreign memory
    index = write_h5ad_index(tmp_path / "index.feather", [source])
    dest = tmp_path / "dest"
    ran = ingest("run", dest, "--index", index, "-c", 5, "-d", 2, "--pool", pool, "--json", code=3)

    facts = json.loads(ran.out)
    assert not facts["complete"]
    assert [(entry["chunk"], entry["kind"]) for entry in facts["quarantined"]] == [(63, "index-range")]
    assert "chunk 63: " in ran.err
    assert "sample0.h5ad" in ran.err
    assert f"python -m ingest repair {dest}" in ran.err
    assert len(list((dest / "_ingest" / "receipts").glob("*.json"))) == 99
    chunks = sorted((dest / "chunks").iterdir())
    assert [int(path.stem.split("_")[1]) for path in chunks] == [n for n in range(100) if n != 63]
    assert sum(anndata.read_h5ad(path, backed="r").n_obs for path in chunks[::33]) == 15
    assert not (dest / "_SUCCESS.json").exists()
    assert json.loads((dest / "config.json").read_text())["total_cells_downloaded"] == 495

    said = ingest("status", dest, "--json", code=3).json()
    assert [entry["chunk"] for entry in said["quarantined"]] == [63]
    ingest("verify", dest, code=3)
