"""Every real file, indexed and run, then every chunk held against the file through plain anndata."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata
import h5py
import numpy as np
import pytest
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd

pytestmark = [
    pytest.mark.realdata,
    # Files of other people, of many ages: what anndata says about them is not ours to mend.
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::anndata.OldFormatWarning"),
]


@dataclass(frozen=True)
class Real:
    """What the folder's own README says of a file: where the counts and the gene ids are."""

    name: str
    counts: str
    ids: str | None = None


FILES = [
    Real("cxg_small_perturbations", "X"),
    Real("cxg_heart_320_rawX", "X-or-raw"),
    Real("transcriptformer_mouse_val", "X", ids="ensembl_id"),
    Real("scimilarity_test", "counts"),
    Real("scvi_pbmc_5k_protein_v3", "X"),
    Real("op_scicar_100_catnan", "X"),
    Real("perturb_datlinger_scifi_7500", "X"),
    Real("worm_l2", "X"),
]


def truth(real: Real, path: Path) -> tuple[sparse.csr_matrix, list[str], pd.DataFrame]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = anndata.read_h5ad(path)
    if real.counts == "counts":
        matrix, var = cells.layers["counts"], cells.var
    elif real.counts == "X-or-raw":
        x = sparse.csr_matrix(cells.X)
        whole = np.array_equal(x.data, np.round(x.data))
        matrix, var = (cells.X, cells.var) if whole else (cells.raw.X, cells.raw.var)
    else:
        matrix, var = cells.X, cells.var
    ids = list(var[real.ids]) if real.ids else list(var.index)
    return sparse.csr_matrix(matrix), [str(name) for name in ids], cells.obs


@pytest.mark.parametrize("real", FILES, ids=lambda real: real.name)
def test_every_chunk_equals_the_file(real: Real, real_data: Path, ingest: Callable[..., object], tmp_path: Path):
    path = real_data / f"{real.name}.h5ad"
    index, dest = tmp_path / "index.feather", tmp_path / "dataset"
    ingest("index", "h5ad", path, "-o", index)
    ingest("run", dest, "--index", index, "-c", 641, "--pool", "serial")
    matrix, ids, obs = truth(real, path)

    chunks = [anndata.read_h5ad(chunk) for chunk in sorted((dest / "chunks").iterdir())]
    assert sum(chunk.n_obs for chunk in chunks) == len(obs)
    start = 0
    for chunk in chunks:
        rows = chunk.obs["row"].to_numpy()
        assert np.array_equal(rows, np.arange(start, start + chunk.n_obs))
        assert chunk.n_obs == min(641, len(obs) - start)
        start += chunk.n_obs
        assert list(chunk.var_names) == ids
        assert chunk.X.dtype == np.float32
        assert chunk.X.indices.dtype == np.int32
        difference = chunk.X.astype(np.float64) - matrix[rows].astype(np.float64)
        assert abs(difference).sum() == 0
        assert [name.split(":", 1)[1] for name in chunk.obs_names] == [str(name) for name in obs.index[rows]]
        for column in obs.select_dtypes(["category", "object"]).columns:
            # The index keeps 'source', 'soma_joinid' and 'row' for itself.
            name = f"obs_{column}" if column in {"source", "soma_joinid", "row"} else column
            ours, theirs = chunk.obs[name].astype(object), obs[column].iloc[rows].astype(object)
            assert ours.isna().tolist() == theirs.isna().tolist()
            assert ours.dropna().astype(str).tolist() == theirs.dropna().astype(str).tolist()

    ingest("verify", dest, "--deep", "--source")


@pytest.mark.long
@pytest.mark.parametrize("real", FILES, ids=lambda real: real.name)
def test_every_dense_chunk_equals_the_file(real: Real, real_data: Path, ingest: Callable[..., object], tmp_path: Path):
    path = real_data / f"{real.name}.h5ad"
    index, dest = tmp_path / "index.feather", tmp_path / "dataset"
    ingest("index", "h5ad", path, "-o", index)
    ingest("run", dest, "--index", index, "--format", "h5", "-c", 641, "--pool", "serial")
    matrix, ids, obs = truth(real, path)

    start, most = 0, matrix.max()
    for chunk in sorted((dest / "chunks").iterdir()):
        with h5py.File(chunk) as file:
            rows = file["obs/row"][()]
            assert np.array_equal(rows, np.arange(start, min(start + 641, len(obs))))
            wanted = matrix[rows].toarray()
            assert file["X"].dtype == (np.int16 if wanted.max() <= 32_767 else np.int32)
            assert np.array_equal(file["X"][()], wanted)
            assert file["genes"].asstr()[()].tolist() == ids
            assert [name.split(":", 1)[1] for name in file["cells"].asstr()] == [str(name) for name in obs.index[rows]]
            assert file["obs/gene_count"][()].tolist() == (wanted != 0).sum(axis=1).tolist()
            assert file["obs/umi_count"][()].tolist() == wanted.sum(axis=1, dtype=np.float64).tolist()
            for column in obs.select_dtypes(["category", "object"]).columns:
                name = f"obs_{column}" if column in {"source", "soma_joinid", "row"} else column
                missing, theirs = file["obs"][name].attrs.get("missing"), obs[column].iloc[rows].astype(object)
                ours = [None if text == missing else text for text in file["obs"][name].asstr()]
                assert ours == [None if gone else str(text) for text, gone in zip(theirs, theirs.isna(), strict=True)]
        start += len(rows)
    assert start == len(obs)
    assert json.loads((dest / "config.json").read_text())["max_expression_value"] == most
    ingest("verify", dest, "--deep", "--source")


def test_all_files_in_one_dataset_align_by_gene_id(real_data: Path, ingest: Callable[..., object], tmp_path: Path):
    index, dest = tmp_path / "index.feather", tmp_path / "dataset"
    paths = [real_data / f"{real.name}.h5ad" for real in FILES]
    ingest("index", "h5ad", *paths, "-o", index)
    ingest("run", dest, "--index", index, "-c", 2500, "-d", 2)  # real Ray
    chunks = [anndata.read_h5ad(chunk) for chunk in sorted((dest / "chunks").iterdir())]
    genes = list(chunks[0].var_names)
    assert all(list(chunk.var_names) == genes for chunk in chunks)
    names = [name for chunk in chunks for name in chunk.obs_names]
    assert len(set(names)) == len(names)
    whole = sparse.vstack([chunk.X for chunk in chunks]).tocsr()
    start = 0
    with np.load(dest / "metadata" / "presence.npz", allow_pickle=False) as presence:
        measured = dict(zip(presence["datasets"].tolist(), presence["presence"], strict=True))
        assert presence["genes"].tolist() == genes
    for real, path in zip(FILES, paths, strict=True):
        matrix, ids, _ = truth(real, path)
        mine = whole[start : start + matrix.shape[0]]
        start += matrix.shape[0]
        columns = [genes.index(gene) for gene in ids]
        assert abs(mine[:, columns].astype(np.float64) - matrix.astype(np.float64)).sum() == 0
        assert mine.nnz == (matrix != 0).sum()  # and nothing stands in any other column
        assert set(np.flatnonzero(measured[real.name])) == set(columns)
    assert start == whole.shape[0]
    ingest("verify", dest, "--deep", "--source")
