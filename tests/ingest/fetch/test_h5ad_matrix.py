"""Which matrix holds the counts, and what its columns are called."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from ingest.errors import ConfigError, HostileFileError, NotCountsError, SourceError
from ingest.fetch.h5ad_genes import read_genes
from ingest.fetch.h5ad_matrix import describe_matrix, find_counts
from ingest.fetch.h5ad_open import open_h5ad
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"
COUNTS = sample_counts(8, 5)
FRACTIONS = COUNTS * np.float32(0.3)


def write(path, *, x=None, raw=None, layers=None, var=None):
    var = pd.DataFrame(index=[f"g{number}" for number in range(5)]) if var is None else var
    file = anndata.AnnData(x, shape=None if x is not None else (8, 5), var=var, layers=layers)
    file.obs_names = [f"c{number}" for number in range(8)]
    if raw is not None:
        file.raw = anndata.AnnData(raw, obs=file.obs, var=pd.DataFrame(index=[f"r{n}" for n in range(raw.shape[1])]))
    file.write_h5ad(path)
    return str(path)


def found(path, layer=None, **options):
    with open_h5ad(path) as file:
        return find_counts(file, layer, **options)


@pytest.mark.parametrize(
    ("x", "raw", "layers", "expected"),
    [
        (COUNTS, COUNTS, {"counts": COUNTS}, "X"),
        (FRACTIONS, COUNTS, {"counts": COUNTS}, "raw/X"),
        (FRACTIONS, FRACTIONS, {"counts": COUNTS, "other": COUNTS}, "layers/counts"),
        (FRACTIONS, None, {"UMIs": COUNTS, "other": COUNTS}, "layers/UMIs"),
        (FRACTIONS, None, {"spliced": COUNTS, "scaled": FRACTIONS}, "layers/spliced"),
        (None, None, {"mine": COUNTS}, "layers/mine"),
        (sparse.csr_matrix((8, 5)), COUNTS, None, "raw/X"),
    ],
)
def test_the_first_matrix_of_whole_numbers_is_taken(tmp_path, x, raw, layers, expected):
    matrix = found(write(tmp_path / "a.h5ad", x=x, raw=raw, layers=layers))
    assert matrix.path == expected
    assert matrix.integer
    assert matrix.var_path == ("raw/var" if expected == "raw/X" else "var")


def test_a_refusal_lists_what_was_found(tmp_path):
    with pytest.raises(NotCountsError) as caught:
        found(write(tmp_path / "GSM123.h5ad", x=FRACTIONS))
    assert str(caught.value) == (
        "GSM123.h5ad: layers hold no integer counts (X float32 fractional, raw.X missing); "
        "name one with --layer or allow with --allow-noninteger"
    )
    assert caught.value.kind == "no-counts"
    assert found(str(tmp_path / "GSM123.h5ad"), allow_noninteger=True).path == "X"


def test_several_layers_of_integers_are_ambiguous(tmp_path):
    path = write(tmp_path / "a.h5ad", x=FRACTIONS, layers={"spliced": COUNTS, "unspliced": COUNTS})
    with pytest.raises(NotCountsError, match=r"spliced, unspliced.*--layer") as caught:
        found(path)
    assert caught.value.kind == "ambiguous-counts"
    assert found(path, "unspliced").path == "layers/unspliced"


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("X", "X"),
        ("raw", "raw/X"),
        ("raw.X", "raw/X"),
        ("raw/X", "raw/X"),
        ("two", "layers/two"),
        ("layers/two", "layers/two"),
    ],
)
def test_a_matrix_is_taken_by_any_of_its_names(tmp_path, layer, expected):
    path = write(tmp_path / "a.h5ad", x=COUNTS, raw=COUNTS, layers={"two": COUNTS})
    assert found(path, layer).path == expected


def test_an_unknown_or_fractional_layer_is_refused_by_name(tmp_path):
    path = write(tmp_path / "a.h5ad", x=COUNTS, layers={"norm": FRACTIONS})
    with pytest.raises(ConfigError) as caught:
        found(path, "nrom")
    assert caught.value.kind == "unknown-layer"
    assert "X, layers/norm" in str(caught.value.hint)
    with pytest.raises(NotCountsError, match="layer norm holds no integer counts"):
        found(path, "norm")
    assert not found(path, "norm", allow_noninteger=True).integer


def test_a_damaged_layer_that_nobody_asked_for_does_no_harm(tmp_path):
    path = write(tmp_path / "a.h5ad", x=COUNTS, layers={"odd": COUNTS})
    with h5py.File(path, "r+") as file:
        del file["layers/odd/indptr"]
    assert found(path).path == "X"
    with pytest.raises(HostileFileError):
        found(path, "odd")


@pytest.mark.parametrize("legacy", [None, "0.6", "0.7"])
@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_a_description_says_what_is_stored(tmp_path, layout, legacy):
    matrix = sample_counts(200, 30)
    path = write_h5ad_variant(
        tmp_path / "a.h5ad", matrix, layout=layout, legacy=legacy, where="raw", dtype="f8", compression="gzip"
    )
    ref = found(str(path))
    assert ref.layout == layout
    assert ref.shape == (200, 30)
    assert ref.dtype == "float64"
    assert ref.nnz == (6000 if layout == "dense" else matrix.nnz)
    assert ref.path == ("raw.X" if legacy == "0.6" else "raw/X")
    assert ref.var_path == ("raw.var" if legacy == "0.6" else "raw/var")
    with h5py.File(path) as file:
        node = file[ref.path]
        parts = [node] if layout == "dense" else [node[name] for name in ("data", "indices", "indptr")]
        assert ref.stored_bytes == sum(part.id.get_storage_size() for part in parts)
        assert ref.chunk_rows == (node.chunks[0] if layout == "dense" else 1)
    with open_h5ad(str(path)) as file:
        assert describe_matrix(file, ref.path) == ref


def genes_of(path, **options):
    with open_h5ad(str(path)) as file:
        return read_genes(file, "var", **options)


ENSEMBL = [f"ENSG{number:011d}" for number in range(5)]


def test_ids_are_the_index_or_the_column_that_holds_ensembl_ids(tmp_path):
    symbols = ["A", "B", "C", "D", "E"]
    lengths = [1, 2, 3, 4, np.nan]
    plain = pd.DataFrame({"gene_symbols": symbols, "feature_length": lengths}, index=ENSEMBL)
    genes = genes_of(write(tmp_path / "a.h5ad", x=COUNTS, var=plain))
    assert genes.ids == tuple(ENSEMBL)
    assert genes.names == tuple(symbols)
    assert genes.lengths == (1, 2, 3, 4, 0)
    swapped = pd.DataFrame({"gene_ids": pd.Categorical(ENSEMBL)}, index=symbols)
    genes = genes_of(write(tmp_path / "b.h5ad", x=COUNTS, var=swapped))
    assert genes.ids == tuple(ENSEMBL)
    assert genes.names == tuple(symbols)
    numbered = pd.DataFrame({"ensembl_id": ENSEMBL}, index=[str(number) for number in range(5)])
    genes = genes_of(write(tmp_path / "c.h5ad", x=COUNTS, var=numbered))
    assert genes.ids == genes.names == tuple(ENSEMBL)
    only = pd.DataFrame({"gene_ids": symbols}, index=["WBGene1", "x", "y", "z", "w"])
    assert genes_of(write(tmp_path / "d.h5ad", x=COUNTS, var=only)).ids[0] == "WBGene1"


def test_versions_are_stripped_when_asked_and_never_merge_genes_silently(tmp_path):
    var = pd.DataFrame(index=["ENSG00000000001.4", "ENSMUSG00000000002.11", "ENSG00000000003", "ERCC-1.2", "MT.1"])
    path = write(tmp_path / "a.h5ad", x=COUNTS, var=var)
    assert genes_of(path).ids == tuple(var.index)
    stripped = genes_of(path, strip_version=True)
    assert stripped.ids == ("ENSG00000000001", "ENSMUSG00000000002", "ENSG00000000003", "ERCC-1.2", "MT.1")
    var.index = ["ENSG00000000001.4", "ENSG00000000001.5", *var.index[2:]]
    path = write(tmp_path / "b.h5ad", x=COUNTS, var=var)
    genes_of(path)
    with pytest.raises(SourceError, match="'ENSG00000000001' stands twice once version") as caught:
        genes_of(path, strip_version=True)
    assert caught.value.kind == "duplicate-genes"


@pytest.mark.parametrize("bad", ["", "a\nb"])
def test_an_id_that_is_none_is_refused(tmp_path, bad):
    path = write(tmp_path / "a.h5ad", x=COUNTS)
    with h5py.File(path, "r+") as file:
        file["var/_index"][2] = bad
    with pytest.raises(SourceError) as caught:
        genes_of(path)
    assert caught.value.kind == "bad-gene-id"


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data beside this checkout")
@pytest.mark.parametrize(
    ("name", "matrix", "first"),
    [
        ("cxg_heart_320_rawX", "X", "ERCC-00002"),
        ("transcriptformer_mouse_val", "X", "ENSMUSG00000024798"),
        ("scimilarity_test", "layers/counts", "MIR1302-2HG"),
        ("op_scicar_100_catnan", "X", "ENSMUSG00000034486"),
        ("worm_l2", "X", "WBGene00000010"),
    ],
)
def test_real_files_give_the_counts_and_ids_that_their_makers_meant(name, matrix, first):
    with open_h5ad(str(REAL / f"{name}.h5ad")) as file:
        ref = find_counts(file)
        assert ref.path == matrix
        assert read_genes(file, ref.var_path, strip_version=True).ids[0] == first
