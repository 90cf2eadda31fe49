"""Every operation gives what anndata and scanpy give in memory, of every layout, type, filter and age of file."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from ingest.errors import AlreadyExistsError, ConfigError, NoFileError, NoMatrixError
from ingest.stream.convert import convert_to_csc, convert_to_csr
from ingest.stream.iterate import iter_matrix_chunks
from ingest.stream.matrix import tables as tables_module
from ingest.stream.matrix import work as work_module
from ingest.stream.matrix.rewrite import rewrite
from ingest.stream.normalize import normalize_total_block, normalize_total_log1p
from ingest.stream.subset import write_filtered_subset
from ingest.testing.examples import examples
from ingest.testing.h5ad_files import sample_counts, sample_obs, write_h5ad_variant

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"
MANY = {"perturb_datlinger_scifi_7500", "worm_l2"}
"""Files of so many cells or genes that their dense copies take seconds."""
DTYPES = ("float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "int64", "bool")


def dense(matrix):
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def same(found, expected, where=""):
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, obj=where)
    elif isinstance(expected, dict):
        assert set(found) == set(expected), where
        for key, value in expected.items():
            same(found[key], value, f"{where}/{key}")
    else:
        assert sparse.issparse(found) == sparse.issparse(expected), where
        np.testing.assert_array_equal(dense(found), dense(expected), err_msg=where)
        assert np.asarray(dense(found)).dtype == np.asarray(dense(expected)).dtype, where


def same_but_x(found, expected):
    for name in ("obs", "var"):
        same(getattr(found, name), getattr(expected, name), name)
    for name in ("layers", "obsm", "varm", "obsp", "varp"):
        same(dict(getattr(found, name)), dict(getattr(expected, name)), name)
    assert set(found.uns) >= set(expected.uns)
    for key, value in expected.uns.items():
        if isinstance(value, np.ndarray | str | int | float):
            np.testing.assert_array_equal(found.uns[key], value, err_msg=key)
    assert (found.raw is None) == (expected.raw is None)
    if expected.raw is not None:
        same(found.raw.X, expected.raw.X, "raw.X")
        same(found.raw.var, expected.raw.var, "raw.var")


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata warns of files of before 0.8
        return anndata.read_h5ad(path)


def by_scanpy(cells, target_sum, *, normalize=True, log1p=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cells without counts, of what is logged already
        if normalize:
            sc.pp.normalize_total(cells, target_sum=target_sum)
        if log1p:
            sc.pp.log1p(cells)


@pytest.fixture(params=[None, 300], ids=["one pass", "through a file"])
def block_bytes(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(work_module, "BLOCK_BYTES", request.param)
        monkeypatch.setattr(work_module, "_LEAST_BLOCK_BYTES", request.param)


@pytest.fixture
def rich(tmp_path):
    """30 cells x 20 genes with one of everything."""
    rng = np.random.default_rng(3)
    counts, obs = sample_counts(30, 20, seed=3), sample_obs(30)
    obs["only"] = pd.Categorical(["rare"] + ["usual"] * 29, categories=["never", "rare", "usual"])
    obs["whole"] = pd.array([None, *range(29)], dtype="Int64")
    var = pd.DataFrame({"kind": pd.Categorical(list("ab") * 10)}, index=[f"g{n}" for n in range(20)])
    cells = anndata.AnnData(counts, obs=obs, var=var)
    cells.raw = anndata.AnnData(
        sample_counts(30, 25, seed=4), obs=obs, var=pd.DataFrame(index=[f"r{n}" for n in range(25)])
    )
    cells.layers["csc"], cells.layers["dense"] = counts.tocsc(), counts.toarray().astype(np.float64)
    cells.obsm["pca"], cells.obsm["sparse"] = rng.random((30, 3)), sample_counts(30, 4)
    cells.obsm["table"] = pd.DataFrame({"a": rng.random(30)}, index=obs.index)
    cells.varm["loadings"], cells.varp["csr"] = rng.random((20, 3)), sample_counts(20, 20, seed=7)
    cells.obsp["near"], cells.obsp["dense"] = sample_counts(30, 30, seed=5), rng.random((30, 30))
    cells.uns = {"text": "x", "only_colors": np.array(["#000", "#111", "#222"]), "nested": {"deep": np.arange(3)}}
    cells.write_h5ad(tmp_path / "rich.h5ad")
    return tmp_path / "rich.h5ad"


@pytest.mark.usefixtures("block_bytes")
@given(
    st.sampled_from(["csr", "csc", "dense"]), st.sampled_from(DTYPES), st.sampled_from([None, "gzip", "lzf"]),
    st.integers(0, 25), st.integers(0, 25), st.integers(0, 2**32 - 1), st.booleans(),
)  # fmt: skip
@settings(max_examples=examples(5), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_layout_type_and_filter(tmp_path, layout, dtype, compression, n, m, seed, in_order):
    rng = np.random.default_rng(seed)
    counts = sample_counts(n, m, density=rng.random(), seed=seed)
    path, out = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    if layout == "dense":
        matrix = counts.toarray().astype(dtype)
    else:  # scipy has nothing of half precision
        matrix = counts.astype("float32" if dtype == "float16" else dtype).asformat(layout)
    anndata.AnnData(matrix, obs=sample_obs(n)).write_h5ad(path, compression=compression)
    cells = read(path)
    for kind, call in (("csr", convert_to_csr), ("csc", convert_to_csc)):
        made = read(call(path, output_path=out, verbose=False).path)
        assert made.X.format == kind
        assert made.X.has_canonical_format
        half = layout == "dense" and dtype == "float16"
        same(made.X, getattr(sparse, f"{kind}_matrix")(cells.X.astype(np.float32) if half else cells.X))
        same_but_x(made, cells)
    normalize_total_log1p(path, out, target_sum=50, verbose=False)
    expected = cells.copy()
    expected.X = expected.X.astype(np.float64)
    if expected.n_obs and expected.n_vars:
        by_scanpy(expected, 50)
    made = read(out)
    assert (made.X.format, made.X.dtype) == ("csr", np.float32)
    np.testing.assert_allclose(dense(made.X), dense(expected.X), rtol=1e-6)
    rows, genes = rng.permutation(n)[: rng.integers(0, n + 1)], rng.permutation(m)[: rng.integers(0, m + 1)]
    if in_order:
        rows, genes = np.sort(rows), np.sort(genes)
        masks = np.isin(np.arange(n), rows), np.isin(np.arange(m), genes)
        write_filtered_subset(path, cell_mask=masks[0], gene_mask=masks[1], output_path=out)
        made, chosen = read(out), cells[masks[0], masks[1]].copy()
        same(made.X, chosen.X)
        same_but_x(made, chosen)
    for kind in ("csr", "csc", "dense", None):
        rewrite(path, out, rows=rows, genes=genes, layout=kind)
        made = read(out)
        assert (getattr(made.X, "format", "dense")) == (kind or layout)
        np.testing.assert_array_equal(dense(made.X), dense(cells.X)[rows][:, genes])
        assert made.X.dtype == (np.float32 if made.X.dtype != cells.X.dtype and half else cells.X.dtype)
        assert made.obs_names.tolist() == cells.obs_names[rows].tolist()
    for axis in (0, 1):
        for as_dense in (True, False):
            found = list(iter_matrix_chunks(path, axis=axis, chunk_size=7, convert_to_dense=as_dense))
            assert [where.indices(10**9)[:2] for where, _ in found] == [
                (at, min(at + 7, cells.shape[axis])) for at in range(0, cells.shape[axis], 7)
            ]
            for where, block in found:
                np.testing.assert_array_equal(dense(block), dense(cells.X[where] if axis == 0 else cells.X[:, where]))
                assert sparse.issparse(block) == (not as_dense and layout != "dense")


@pytest.mark.usefixtures("block_bytes")
@pytest.mark.parametrize("legacy", ["0.6", "0.7"])
@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_files_of_before_anndata_0_8(legacy, layout, tmp_path):
    path = write_h5ad_variant(tmp_path / "old.h5ad", sample_counts(20, 15), layout=layout, where="raw", legacy=legacy)
    cells, out = read(path), tmp_path / "out.h5ad"
    normalize_total_log1p(path, out, normalize=False, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = anndata.read_h5ad(out)  # today's: nothing to warn of
    np.testing.assert_allclose(dense(made.X), np.log1p(dense(cells.X)), rtol=1e-6)
    same(dense(made.raw.X), dense(cells.raw.X))
    assert made.obs.cell_type.tolist() == cells.obs.cell_type.tolist()
    assert made.obs.columns.tolist() == cells.obs.columns.tolist()
    keep = np.arange(20) % 3 == 0
    write_filtered_subset(path, cell_mask=keep, gene_mask=np.ones(15, bool), output_path=out)
    made = anndata.read_h5ad(out)
    np.testing.assert_array_equal(dense(made.X), dense(cells.X)[keep])
    np.testing.assert_array_equal(dense(made.raw.X), dense(cells.raw.X)[keep])
    assert made.obs_names.tolist() == cells.obs_names[keep].tolist()


@pytest.mark.usefixtures("block_bytes")
def test_all_else_is_carried_along(rich, tmp_path):
    cells = read(rich)
    made = read(convert_to_csc(rich, verbose=False).path)
    same(made.X, cells.X.tocsc())
    same_but_x(made, cells)
    same_but_x(read(normalize_total_log1p(rich, verbose=False).path), cells)
    keep, genes = np.arange(30) % 2 == 1, np.arange(20) < 13
    for masks in (
        (keep, genes),
        (keep, genes | True),
        (keep | True, genes),
        (keep & False, genes & False),
        (keep | True, genes | True),
    ):
        write_filtered_subset(rich, cell_mask=masks[0], gene_mask=masks[1], output_path=tmp_path / "some.h5ad")
        made, chosen = read(tmp_path / "some.h5ad"), cells[masks[0], masks[1]].copy()
        same(made.X, chosen.X)
        same_but_x(made, chosen)


@pytest.mark.usefixtures("block_bytes")
def test_rewritten_in_any_order_with_other_tables(rich, tmp_path):
    cells, out = read(rich), tmp_path / "out.h5ad"
    order = np.random.default_rng(0).permutation(30)
    obs = cells.obs.iloc[order].assign(new=np.arange(30))
    rewrite(rich, out, rows=order, layout="csr", obs=obs, uns={"sorted": {"by": "new"}, "text": "y"})
    made = read(out)
    with anndata.settings.override(remove_unused_categories=False):
        expected = cells[order].copy()
    same(made.X, expected.X)
    same(made.obs, obs)
    for name in ("layers", "obsm", "obsp", "varm", "varp"):
        same(dict(getattr(made, name)), dict(getattr(expected, name)), name)
    same(made.raw.X, expected.raw.X)
    assert (made.uns["sorted"], made.uns["text"]) == ({"by": "new"}, "y")
    assert made.uns["only_colors"].tolist() == cells.uns["only_colors"].tolist()
    for wrong in ([0, 0], [30], [-1]):
        with pytest.raises(ValueError, match="wanted"):
            rewrite(rich, out, rows=np.array(wrong))


def test_var_assignments_and_known_counts(rich, tmp_path):
    cells, out = read(rich), tmp_path / "out.h5ad"
    keep, genes = np.arange(30) < 11, np.arange(20) > 4
    kept = cells.X[keep][:, genes]
    asked = {"cell_mask": keep, "gene_mask": genes, "output_path": out}
    write_filtered_subset(
        rich, **asked, var_assignments={"n": np.arange(15)}, row_nnz=np.diff(kept.indptr), total_nnz=kept.nnz,
        data_dtype=np.float64,
    )  # fmt: skip
    made = read(out)
    assert made.var["n"].tolist() == list(range(15))
    assert made.var["kind"].tolist() == cells.var["kind"][genes].tolist()
    same(made.X, kept.astype(np.float64))
    out.unlink()
    for wrong in (
        {"var_assignments": {"n": np.arange(20)}}, {"var_assignments": {"n": 3}}, {"row_nnz": np.ones(30)},
        {"total_nnz": kept.nnz + 1}, {"row_nnz": np.roll(np.diff(kept.indptr), 1)}, {"cell_mask": keep[:-1]},
        {"gene_mask": genes.astype(int)}, {"row_nnz": np.diff(kept.indptr), "total_nnz": 1}, {"chunk_size": 0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"shape|nnz|mask|chunk_size"):
            write_filtered_subset(rich, **(asked | wrong))
        assert not out.exists()


def test_where_nothing_is_to_be_done_nothing_is_written(rich, tmp_path, capsys):
    handle = convert_to_csr(rich)
    assert Path(handle.path) == rich
    assert [path.name for path in tmp_path.iterdir()] == ["rich.h5ad"]
    assert "already" in capsys.readouterr().err
    with pytest.raises(ValueError, match="nothing to do"):
        normalize_total_log1p(rich, normalize=False, log1p=False)
    for wrong in (0, -1, float("nan"), float("inf"), None, "x"):
        with pytest.raises(ValueError, match="target_sum"):
            normalize_total_log1p(rich, target_sum=wrong)


def test_names_and_what_another_input_made(rich, tmp_path):
    assert convert_to_csc(rich, verbose=False).path == tmp_path / "ingest_csc.h5ad"
    assert convert_to_csc(rich, verbose=False).path == tmp_path / "ingest_csc.h5ad"  # again: the same input
    other = write_h5ad_variant(tmp_path / "other.h5ad", sample_counts(5, 5))
    with pytest.raises(AlreadyExistsError, match=r"rich\.h5ad"):
        convert_to_csc(other, verbose=False)
    assert convert_to_csc(other, data_name="other", verbose=False).path == tmp_path / "ingest_other_csc.h5ad"
    convert_to_csc(other, output_path=tmp_path / "ingest_csc.h5ad", verbose=False)  # said, so meant
    (tmp_path / "ingest_normalized.h5ad").write_text("notes")
    with pytest.raises(AlreadyExistsError, match="not made from"):
        normalize_total_log1p(rich, log1p=False, verbose=False)
    for name, options in (("log1p", {"normalize": False}), ("normalized_log1p", {})):
        assert normalize_total_log1p(rich, verbose=False, **options).path == tmp_path / f"ingest_{name}.h5ad"
    with pytest.raises(ConfigError, match="the input itself"):
        normalize_total_log1p(rich, rich, verbose=False)


def test_what_names_no_file(rich, tmp_path):
    in_memory = read(rich)
    for call in (convert_to_csc, convert_to_csr, normalize_total_log1p):
        with pytest.raises(TypeError):
            call(in_memory)
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "none.h5ad")
    with pytest.raises(NoFileError):
        next(iter_matrix_chunks(tmp_path / "none.h5ad"))
    backed = anndata.read_h5ad(rich, backed="r")
    try:
        same(read(convert_to_csc(backed, verbose=False).path).X, in_memory.X.tocsc())
        for source in (backed, in_memory):
            np.testing.assert_array_equal(
                np.concatenate([block for _, block in iter_matrix_chunks(source, chunk_size=7)]), dense(in_memory.X)
            )
    finally:
        backed.file.close()
    for wrong in ({"axis": 2}, {"chunk_size": 0}):
        with pytest.raises(ValueError, match=r"axis|chunk_size"):
            iter_matrix_chunks(rich, **wrong)


def test_a_file_without_x(rich, tmp_path):
    with h5py.File(rich, "r+") as file:
        del file["X"]
    for call in (convert_to_csc, convert_to_csr, normalize_total_log1p):
        with pytest.raises(NoMatrixError):
            call(rich, verbose=False)
    rewrite(rich, tmp_path / "out.h5ad", rows=np.array([3, 1]))
    assert read(tmp_path / "out.h5ad").shape == (2, 20)


@pytest.mark.parametrize("matrix", [np.array([[1.0, 3], [0, 0], [-1, 1]]), sparse.csr_matrix([[1, 3], [0, 0], [2, 1]])])
def test_a_block_in_memory(matrix):
    found, totals = normalize_total_block(matrix, target_sum=8)
    np.testing.assert_array_equal(totals, dense(matrix).sum(axis=1))
    np.testing.assert_allclose(found[0], [2, 6])
    assert not found[1].any()
    assert (found.dtype, totals.dtype) == (np.float64, np.float64)
    given_totals, _ = normalize_total_block(matrix, library_size=[2, 1, 4], target_sum=8, dtype=np.float32)
    np.testing.assert_allclose(given_totals, dense(matrix) * [[4], [8], [2]])
    assert given_totals.dtype == np.float32
    for wrong in ({"library_size": [1, 2]}, {"library_size": [[1, 2, 3]]}, {"target_sum": 0}):
        with pytest.raises(ValueError, match=r"library_size|target_sum"):
            normalize_total_block(matrix, **wrong)
    with pytest.raises(ValueError, match="dimensions"):
        normalize_total_block(np.ones(3))


@pytest.mark.usefixtures("block_bytes")
def test_tall_chunks_and_narrow_ones(tmp_path):
    counts = sample_counts(60, 20, seed=9)
    for number, chunks in enumerate([(60, 1), (60, 20), (1, 20), (7, 3), (59, 2)]):
        path = write_h5ad_variant(tmp_path / f"{number}.h5ad", counts, layout="dense")
        with h5py.File(path, "r+") as file:
            attributes = dict(file["X"].attrs)
            del file["X"]
            file.create_dataset("X", data=counts.toarray(), chunks=chunks, compression="gzip").attrs.update(attributes)
        same(read(convert_to_csr(path, output_path=tmp_path / "out.h5ad", verbose=False).path).X, counts)
        rewrite(path, tmp_path / "out.h5ad", rows=np.arange(60)[::-1])
        np.testing.assert_array_equal(read(tmp_path / "out.h5ad").X, counts.toarray()[::-1])
        write_filtered_subset(
            path, cell_mask=np.arange(60) % 7 == 2, gene_mask=np.arange(20) > 1, output_path=tmp_path / "out.h5ad"
        )
        np.testing.assert_array_equal(read(tmp_path / "out.h5ad").X, counts.toarray()[2::7, 2:])


@pytest.mark.usefixtures("block_bytes")
def test_unsorted_entries_and_such_that_stand_twice_stay_what_they_mean(tmp_path):
    path = write_h5ad_variant(tmp_path / "x.h5ad", sparse.csr_matrix(np.ones((2, 4), np.float32)))
    with h5py.File(path, "r+") as file:
        file["X/indices"][:] = [3, 1, 0, 1, 2, 2, 2, 0]
        file["X/data"][:] = np.arange(1, 9)
    expected = dense(read(path).X)
    for call in (convert_to_csc, convert_to_csr):
        np.testing.assert_array_equal(
            dense(read(call(path, output_path=tmp_path / "o.h5ad", verbose=False).path).X), expected
        )
    ((_, found),) = iter_matrix_chunks(path)
    np.testing.assert_array_equal(found, expected)
    rewrite(path, tmp_path / "o.h5ad", rows=np.array([1, 0]), genes=np.array([2, 0]), layout="dense")
    np.testing.assert_array_equal(read(tmp_path / "o.h5ad").X, expected[[1, 0]][:, [2, 0]])


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data beside this checkout")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.long] if path.stem in MANY else [], id=path.stem)
        for path in sorted(REAL.glob("*.h5ad"))
    ],
)
def test_real_files(path, tmp_path):
    cells, out = read(path), tmp_path / "out.h5ad"
    for kind, call in (("csr", convert_to_csr), ("csc", convert_to_csc)):
        made = read(call(path, output_path=out, verbose=False).path)
        same(made.X, getattr(sparse, f"{kind}_matrix")(cells.X))
        same_but_x(made, cells)
    for options in ({}, {"normalize": False}, {"log1p": False}):
        normalize_total_log1p(path, out, verbose=False, **options)
        expected = cells.copy()
        expected.X = expected.X.astype(np.float32)
        by_scanpy(expected, 1e4, **options)
        np.testing.assert_allclose(dense(read(out).X), dense(expected.X), rtol=3e-6, atol=1e-6)
    rng = np.random.default_rng(0)
    masks = rng.random(cells.n_obs) < 0.4, rng.random(cells.n_vars) < 0.6
    write_filtered_subset(path, cell_mask=masks[0], gene_mask=masks[1], output_path=out)
    made, chosen = read(out), cells[masks[0], masks[1]].copy()
    same(made.X, chosen.X)
    same_but_x(made, chosen)
    for axis in (0, 1):
        for where, block in iter_matrix_chunks(path, axis=axis, chunk_size=301):
            np.testing.assert_array_equal(block, dense(cells.X[where] if axis == 0 else cells.X[:, where]))


@pytest.mark.parametrize("piece", [1, 7, 1 << 14])
def test_texts_are_cut_piece_by_piece_as_anndata_writes_them(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(tables_module, "_ROWS", piece)
    texts = np.array([f"{'µ' * (number % 5)}{number}" for number in range(30)], object)
    cells = anndata.AnnData(obs=pd.DataFrame({"text": texts}, index=[f"cell {number}" for number in range(30)]))
    cells.write_h5ad(tmp_path / "in.h5ad")
    for name, rows in (("some", np.array([29, 0, 7])), ("all", np.arange(30)[::-1].copy()), ("none", np.arange(0))):
        out = tmp_path / f"{name}.h5ad"
        rewrite(tmp_path / "in.h5ad", out, rows=rows)
        same(read(out).obs, cells.obs.iloc[rows], name)
        with h5py.File(tmp_path / "in.h5ad") as before, h5py.File(out) as after:
            for column in ("text", "_index"):
                was, now = before[f"obs/{column}"], after[f"obs/{column}"]
                assert (dict(was.attrs), was.dtype) == (dict(now.attrs), now.dtype)


def test_little_of_a_files_metadata_is_kept(rich, tmp_path, monkeypatch):
    """HDF5 goes up to 32 MiB, with the texts of obs that it has met: memory would grow with the file."""
    kept = []

    def looked(source, target, *_):
        kept.extend(file.id.get_mdc_config().max_size for file in (source.file, target.file))

    monkeypatch.setattr("ingest.stream.matrix.rewrite.carry", looked)
    rewrite(rich, tmp_path / "out.h5ad")
    assert kept == [2 << 20, 2 << 20]
