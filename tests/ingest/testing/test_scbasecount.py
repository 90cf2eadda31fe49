"""The scBaseCount look-alike has the irregularities for which it is there, and is the same every time."""

from __future__ import annotations

import hashlib

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from ingest.testing.scbasecount import ScBaseCountSpec, build_scbasecount, cached_scbasecount

SPEC = ScBaseCountSpec(mean_cells=30, n_genes=200, mean_molecules=50)
NEWEST = ("2026-01-12", "GeneFull_Ex50pAS", "Homo_sapiens")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_scbasecount(tmp_path_factory.mktemp("scb") / "bucket", SPEC)


def metadata(built, name, release=NEWEST[0]):
    return pq.read_table(built.path / release / "metadata" / NEWEST[1] / NEWEST[2] / name).to_pandas()


def files(built):
    return sorted((built.path / NEWEST[0] / "h5ad" / NEWEST[1] / NEWEST[2]).glob("*.h5ad"))


def contents(path):
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }


def test_the_same_spec_gives_the_same_bytes(built, tmp_path):
    assert contents(build_scbasecount(tmp_path / "again", SPEC).path) == contents(built.path)


def test_it_is_built_once(tmp_path):
    one = cached_scbasecount(tmp_path, SPEC)
    before = contents(one.path)
    calls = []
    again = cached_scbasecount(tmp_path, SPEC, progress=lambda *done: calls.append(done))
    assert again == one
    assert not calls
    assert contents(again.path) == before


def test_the_layout_is_the_buckets(built):
    assert {path.name for path in built.path.iterdir()} == set(SPEC.releases)
    for release in SPEC.releases:
        assert {path.name for path in (built.path / release / "h5ad").iterdir()} == set(SPEC.features)
        assert {path.name for path in (built.path / release / "metadata" / "Gene").iterdir()} == set(SPEC.organisms)


def test_the_older_release_has_fourteen_columns_of_samples(built):
    older, newer = (metadata(built, "sample_metadata.parquet", release) for release in SPEC.releases)
    assert len(older.columns) == 14
    assert set(newer.columns) > set(older.columns)
    assert "srx_accession" in newer
    assert "SRX_accession" in metadata(built, "obs_metadata.parquet")


def test_paths_are_full_urls_of_files_that_are_there(built):
    for row in metadata(built, "sample_metadata.parquet").itertuples():
        assert row.file_path.startswith("gs://arc-institute-virtual-cell-atlas/scbasecount/2026-01-12/h5ad/")
        file = built.path / row.file_path.removeprefix(SPEC.file_root + "/")
        assert anndata.read_h5ad(file, backed="r").n_obs == row.obs_count


def test_sizes_layouts_accessions_and_labels_vary(built):
    read = [anndata.read_h5ad(file) for file in files(built)]
    kinds = {"dense" if isinstance(one.X, np.ndarray) else one.X.format for one in read}
    assert kinds == {"csr", "csc", "dense"}
    sizes = [one.n_obs for one in read]
    assert max(sizes) >= 20 * min(sizes)
    prefixes = {file.name[:3] for file in files(built)}
    assert prefixes == {"SRX", "ERX", "NRX"}
    assert any("" in set(one.obs["cell_type"]) for one in read)
    assert all(list(one.var.columns) == ["gene_symbols"] for one in read)
    assert all(one.var_names.str.startswith("ENSG").all() for one in read)


def test_barcodes_repeat_across_files_and_not_within(built):
    names = [anndata.read_h5ad(file).obs_names for file in files(built)]
    assert all(index.is_unique for index in names)
    everything = pd.Index(np.concatenate(names))
    assert everything.has_duplicates


def test_the_collection_processed_again_names_its_collection(built):
    samples = metadata(built, "sample_metadata.parquet").set_index("srx_accession")
    named = samples["czi_collection_id"].dropna()
    assert list(named) == [SPEC.czi_collection]
    assert named.index[0].startswith("NRX")


def test_obs_metadata_agrees_with_the_files_but_not_in_their_order(built):
    cells = metadata(built, "obs_metadata.parquet")
    out_of_order = 0
    for file in files(built):
        one = anndata.read_h5ad(file)
        mine = cells[cells["SRX_accession"] == file.stem].set_index("cell_barcode")
        assert set(mine.index) == set(one.obs_names)
        out_of_order += list(mine.index) != list(one.obs_names)
        counts = sparse.csr_matrix(one.X)
        assert (mine.loc[one.obs_names, "umi_count"] == np.asarray(counts.sum(axis=1)).ravel()).all()
        assert (mine.loc[one.obs_names, "gene_count"] == np.diff(counts.indptr)).all()
    assert out_of_order == 1


def test_a_spec_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 6 samples"):
        ScBaseCountSpec(n_samples=5)
