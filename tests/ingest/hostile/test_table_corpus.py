"""Feather and Parquet files that are none, lie, or grow, through everything that opens them."""

from __future__ import annotations

import shutil

import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from ingest.testing.datasets import write_h5ad_index
from ingest.testing.entry_points.base import attempt
from ingest.testing.entry_points.files import INDEX, SCBASECOUNT
from ingest.testing.hostile import parquet, tables
from ingest.testing.hostile.good import write_good_h5ad
from ingest.testing.scbasecount import ScBaseCountSpec, build_scbasecount
from ingest.testing.watch import watched_memory

MEMORY_BYTES = 512 << 20
REFUSED = (
    *("codes-", "text-de", "text-neg", "text-beyond", "text-not", "text-surr", "bytes: cut"),
    *("bytes: magic-alone", "bytes: magic-both", "bytes: magic-old", "bytes: magic-wrong-end"),
    *("row-twice", "row-fraction", "row-nan", "row-inf", "row-huge", "row-neg", "row-int64", "row-beyond", "row-null"),
    *(
        "row-list",
        "source-null",
        "source-device",
        "source-folder",
        "source-nowhere",
        "source-secret",
        "no-row",
        "name-nul",
        "name-index",
        "name-twice",
    ),
)
"""Of the cases these, by how their names begin: `run --index` takes none of them, others may be harmless."""
RELEASE = "2026-01-12/metadata/GeneFull_Ex50pAS/Homo_sapiens"


def check(entry, path, name):
    with watched_memory() as peak:
        outcome = attempt(entry, path)
    assert outcome.fault is None, f"{name} by {entry.name}"
    assert peak.taken_bytes < MEMORY_BYTES, f"{name} by {entry.name}"
    return outcome


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    return write_h5ad_index(folder / "index.feather", [write_good_h5ad(folder / "good.h5ad")])


@pytest.mark.parametrize("name", [*tables.COLUMNS, *(f"bytes: {name}" for name in tables.BYTES)])
def test_an_index(index, tmp_path, name):
    table, path = feather.read_table(index, memory_map=False), tmp_path / "index.feather"
    if name.startswith("bytes: "):
        raw = tables.table_bytes(table, compression="uncompressed")
        path.write_bytes(tables.BYTES[name.removeprefix("bytes: ")](raw))
    else:
        packing = "zstd" if name.startswith("bomb") else "uncompressed"
        path.write_bytes(tables.table_bytes(tables.COLUMNS[name](table), compression=packing))
    outcomes = [check(entry, path, name) for entry in INDEX]
    if name.startswith(REFUSED):
        assert outcomes[-1].kind is not None, "it was taken"


def test_no_error_repeats_a_secret(index, tmp_path):
    table, path = feather.read_table(index, memory_map=False), tmp_path / "index.feather"
    for name in ("source-secret", "source-signed"):
        path.write_bytes(tables.table_bytes(tables.COLUMNS[name](table)))
        outcome = check(INDEX[-1], path, name)
        assert outcome.kind == "secret-url"
        assert "canary" not in outcome.message


@pytest.fixture(scope="module")
def scbasecount(tmp_path_factory):
    spec = ScBaseCountSpec(mean_cells=12, n_genes=30, mean_molecules=20, row_group=20)
    return build_scbasecount(tmp_path_factory.mktemp("scb") / "root", spec).path


@pytest.fixture
def root(scbasecount, tmp_path):
    shutil.copytree(scbasecount, tmp_path / "root")
    return tmp_path / "root"


@pytest.mark.parametrize("file", ["sample_metadata", "obs_metadata"])
def test_metadata_of_a_scbasecount(root, file):
    path, [entry] = root / RELEASE / f"{file}.parquet", SCBASECOUNT
    good, table = path.read_bytes(), pq.read_table(path)
    assert check(entry, root, "good").answer is not None
    for name, change in parquet.COLUMNS.items():
        path.write_bytes(parquet.parquet_bytes(change(table)))
        check(entry, root, f"{file}: {name}")
    for name, spoil in parquet.BYTES.items():
        path.write_bytes(spoil(good))
        assert check(entry, root, f"{file}: {name}").kind is not None or "pages" in name


def test_metadata_lead_nowhere_else(root):
    """A table says where files are, but not outside of the folder that it lies in."""
    path, [entry] = root / RELEASE / "sample_metadata.parquet", SCBASECOUNT
    table = pq.read_table(path)
    at = table.column_names.index("file_path")
    lies = [f"/2026-01-12/h5ad/../../../../../{name}" for name in range(len(table))]
    pq.write_table(table.set_column(at, "file_path", [lies]), path)
    from index.catalog.scbasecount import ScBaseCountCatalog

    catalog = ScBaseCountCatalog.open(root=str(root), release="2026-01-12")
    for lie in lies:
        assert ".." not in catalog._url(lie, "SRX1")
    assert check(entry, root, "leads out").fault is None
