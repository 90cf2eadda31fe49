"""Stored normalisation: scanpy's numbers, said everywhere, verified like counts."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import anndata
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from ingest.block import Counts
from ingest.errors import ConfigError, ForeignPlanError
from ingest.hvg.find import check_request, read_data
from ingest.hvg.parameters import HvgParameters
from ingest.normalize import normalize_counts, totals_of
from ingest.qc import find as qc_find
from ingest.qc.parameters import QcRules
from ingest.settings import DataSettings, WorkSettings
from ingest.testing.census import CensusSpec, build_census
from ingest.testing.damage import DamageableDataset
from ingest.testing.datasets import make_dataset, write_census_index, write_h5ad_index
from ingest.testing.qc_data import write_qc_source
from ingest.validate import check_rows
from ingest.verifying import verify_dataset
from ingest.vocabulary import GeneRule

if TYPE_CHECKING:
    from pathlib import Path

NORMALIZED = DataSettings(cells_per_chunk=60, normalize=1e4)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("normalize")
    write_qc_source(folder / "cells.h5ad", seed=3)
    return write_h5ad_index(folder / "index.feather", [folder / "cells.h5ad"])


@pytest.fixture(scope="module")
def finished(source) -> DamageableDataset:
    dest = source.parent / "dest"
    make_dataset(str(dest), source, data=NORMALIZED)
    return DamageableDataset(dest)


def scanpys(cells: anndata.AnnData, target: float) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import scanpy

        found = cells.copy()
        scanpy.pp.normalize_total(found, target_sum=target)
        scanpy.pp.log1p(found)
    return found.X.toarray()


def chunks_of(dest: Path) -> anndata.AnnData:
    return anndata.concat([anndata.read_h5ad(path) for path in sorted((dest / "chunks").iterdir())])


@pytest.mark.filterwarnings("ignore")
def test_values_are_scanpys_within_rounding(finished, source, tmp_path):
    theirs = scanpys(write_qc_source(tmp_path / "again.h5ad", seed=3), 1e4)
    mine = chunks_of(finished.path).X
    assert mine.dtype == np.float32
    np.testing.assert_allclose(mine.toarray(), theirs, rtol=1e-6, atol=0)
    exact = anndata.read_h5ad(source.parent / "cells.h5ad")
    exact.X = exact.X.astype(np.float64)
    np.testing.assert_array_max_ulp(mine.toarray(), scanpys(exact, 1e4).astype(np.float32), maxulp=1)


@pytest.mark.filterwarnings("ignore")
def test_totals_are_over_the_genes_of_the_dataset(source, tmp_path):
    genes = tuple(f"ENSG{number:011d}" for number in range(100, 20, -1))
    data = replace(NORMALIZED, genes=GeneRule(genes), normalize=500.0)
    made = make_dataset(str(tmp_path / "few"), source, data=data)
    cells = anndata.read_h5ad(source.parent / "cells.h5ad")[:, list(genes)].copy()
    np.testing.assert_allclose(chunks_of(tmp_path / "few").X.toarray(), scanpys(cells, 500.0), rtol=1e-6, atol=0)
    assert verify_dataset(made.reopen(), deep=True, source=True).findings == ()


def test_dense_files_hold_them_too(source, tmp_path):
    data = DataSettings(cells_per_chunk=100, format="h5", dtype="float32", normalize=1e4)
    made = make_dataset(str(tmp_path / "dense"), source, data=data)
    assert verify_dataset(made.reopen(), deep=True, source=True).findings == ()
    with h5py.File(tmp_path / "dense" / "chunks" / "chunk_000000.h5") as file:
        assert file.attrs["target_sum"] == 1e4
        assert "log1p" in file.attrs["normalization"]
        totals = np.expm1(file["X"][()].astype(np.float64)).sum(axis=1)
        np.testing.assert_allclose(totals[totals > 0], 1e4, rtol=1e-5)


def test_it_is_said_in_plan_summaries_and_every_file(finished):
    identity = finished.open().plan.identity
    assert identity.normalize == 1e4
    config = json.loads((finished.path / "config.json").read_text())
    assert config["target_sum"] == 1e4
    assert config["max_expression_value"] <= np.log1p(1e4)
    processing = json.loads((finished.path / "processing_config.json").read_text())
    assert processing["data"]["normalize"] == processing["settings"]["normalize"] == 1e4
    cells = anndata.read_h5ad(finished.chunk(0))
    assert cells.uns["log1p"] == {}  # scanpy warns before it takes the logarithm again
    with h5py.File(finished.chunk(0)) as file:
        assert (file.attrs["target_sum"], file.attrs["normalization"]) == (1e4, config["normalization"])


def test_receipts_are_of_what_is_stored(finished):
    entry = finished.read_receipt(1).chunks[0]
    cells = anndata.read_h5ad(finished.chunk(1)).X
    assert entry.maximum == float(cells.max())
    assert entry.sum == pytest.approx(float(cells.data.astype(np.float64).sum()), rel=1e-12)
    assert entry.nnz == cells.nnz


def test_datasets_of_counts_say_nothing_of_it(source, tmp_path):
    made = make_dataset(str(tmp_path / "counts"), source, data=DataSettings(cells_per_chunk=60))
    plan = json.loads((tmp_path / "counts" / "_ingest" / "plan.json").read_text())
    assert "normalize" not in plan["identity"]
    with h5py.File(tmp_path / "counts" / "chunks" / "chunk_000000.h5ad") as file:
        assert set(file.attrs) == {"encoding-type", "encoding-version"}
        assert not list(file["uns"])
    with pytest.raises(ForeignPlanError, match=r"normalised to totals of none there, 10000\.0 here"):
        make_dataset(made.url, source, data=NORMALIZED)


def test_deep_verifying_finds_nothing_and_reads_the_source_again(finished):
    report = verify_dataset(finished.open(), deep=True, source=True)
    assert report.findings == ()


def test_a_chunk_of_other_totals_is_found_though_all_digests_agree(source, tmp_path):
    from ingest.digest import content_digest, sums_digest
    from ingest.encode.decode import decode_chunk

    make_dataset(str(tmp_path / "dest"), source, data=NORMALIZED)
    dataset = DamageableDataset(tmp_path / "dest")
    with h5py.File(dataset.chunk(2), "r+") as file:
        low, high = file["X/indptr"][3:5]
        values = file["X/data"][()]
        values[low:high] *= np.float32(0.5)
        del file["X/data"]
        file["X"].create_dataset("data", data=values)
        file["X/data"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    block = decode_chunk(dataset.chunk(2).read_bytes(), key="x.h5ad")
    sums, nnz = (lambda found: (found.sums, found.nnz))(check_rows(block.counts, source="x", allow_noninteger=True))
    entry = {"content": content_digest(block), "cell_sums": sums_digest(sums, nnz), "offsets": ()}
    dataset.reseal(2, **entry, sum=float(sums.sum()), maximum=float(values.max()))
    [finding] = verify_dataset(dataset.open(), deep=True).findings
    assert (finding.kind, finding.chunk) == ("normalization", 2)
    assert "1 cells, number 3 the first" in finding.message


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    folder = tmp_path_factory.mktemp("census")
    built = build_census(folder / "census", CensusSpec(n_cells=300, n_genes=200, mean_nnz_per_cell=40, seed=5))
    return write_census_index(folder / "index.feather", built)


def test_what_a_census_says_of_its_cells_is_held_against_their_counts(census, tmp_path):
    import pandas as pd

    made = make_dataset(str(tmp_path / "dest"), census, data=NORMALIZED)
    assert made.report.exit_code == 0
    assert verify_dataset(made.reopen(), deep=True, source=True).findings == ()
    table = pd.read_feather(census)
    table.loc[7, "raw_sum"] += 1
    table.to_feather(tmp_path / "lies.feather")
    bad = make_dataset(str(tmp_path / "bad"), tmp_path / "lies.feather", data=NORMALIZED)
    assert bad.report.exit_code == 3
    [failure, *_] = bad.report.driven.quarantined.values()
    assert failure.kind == "source-disagrees"


def test_hvg_and_qc_want_counts(finished):
    data = read_data(finished.open())
    for ask in (
        lambda: check_request(data, HvgParameters.of(), memory_bytes=1 << 30),
        lambda: qc_find.check_request(data, QcRules()),
    ):
        with pytest.raises(ConfigError, match="holds normalised values") as caught:
            ask()
        assert caught.value.kind == "normalized"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"normalize": 0.5}, "--target-sum 0.5: a number from 1 to 1e"),
        ({"normalize": float("nan")}, "--target-sum nan"),
        ({"normalize": 1e4, "dtype": "int32"}, "--normalize with --dtype int32"),
    ],
)
def test_what_cannot_be_is_refused(source, tmp_path, settings, said):
    with pytest.raises(ConfigError, match=said):
        make_dataset(str(tmp_path / "dest"), source, data=DataSettings(**settings))
    assert not (tmp_path / "dest").exists()


@given(
    st.lists(st.lists(st.integers(1, 2**31 - 1) | st.integers(1, 300), max_size=8), min_size=1, max_size=6),
    st.sampled_from([1.0, 1e4, 1e6, 1e12]),
)
def test_any_counts_by_the_formula(rows, target):
    matrix = sparse.csr_matrix((len(rows), 8), dtype=np.float32)
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    data = np.array([count for row in rows for count in row], np.float32)
    indices = np.array([gene for row in rows for gene in range(len(row))], np.int32)
    counts = Counts(indptr.astype(np.int64), indices, data, matrix.shape[1])
    totals = np.array([float(np.float32(row).sum(dtype=np.float64)) if row else 0.0 for row in rows])
    found = normalize_counts(counts, totals, target)
    factors = np.repeat(totals / target, np.diff(indptr))
    np.testing.assert_array_max_ulp(found.data, np.log1p(data.astype(np.float64) / factors).astype(np.float32), 1)
    assert (found.data > 0).all()
    full = np.diff(indptr) > 0
    np.testing.assert_allclose(totals_of(found)[full], target, rtol=3e-6)


def test_how_the_cells_are_cut_does_not_matter(source, finished, tmp_path):
    made = make_dataset(
        str(tmp_path / "other"), source, data=replace(NORMALIZED, cells_per_chunk=7), work=WorkSettings(workers=1)
    )
    assert made.report.exit_code == 0
    np.testing.assert_array_equal(chunks_of(tmp_path / "other").X.toarray(), chunks_of(finished.path).X.toarray())
