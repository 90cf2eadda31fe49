"""The second seed's README step by step with our commands: sample, download, interrupt, resume, choose genes, read."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import anndata
import gcsfs
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from ingest.load import HVGDataset, ScRNADataset, create_dataloader, create_hvg_dataloader
from ingest.source import Source
from ingest.testing.forked_commands import ForkedCommand
from ingest.testing.scbasecount import ScBaseCountSpec, build_scbasecount, put_scbasecount

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingest.testing.scbasecount import BuiltScBaseCount
    from ingest.testing.servers import ObjectServer

# Client sessions of fsspec live as long as its own thread and are collected at odd moments.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

SPEC = ScBaseCountSpec(n_samples=10, mean_cells=150, n_genes=1_500, mean_molecules=600, row_group=200)
PLACE = {"release": "2026-01-12", "feature": "GeneFull_Ex50pAS", "organism": "Homo_sapiens"}
N_CELLS, BATCH = 700, 50


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltScBaseCount:
    return build_scbasecount(tmp_path_factory.mktemp("scb") / "bucket", SPEC)


@pytest.fixture(scope="module")
def bucket(gcs_server: ObjectServer, built: BuiltScBaseCount) -> str:
    filesystem = gcsfs.GCSFileSystem(token="anon", endpoint_url=gcs_server.endpoint_url)  # noqa: S106  # none
    return put_scbasecount(built, f"{gcs_server.create_bucket('scb-downloader')}/scbasecount", filesystem)


@pytest.fixture(scope="module")
def source(built: BuiltScBaseCount) -> dict[str, anndata.AnnData]:
    return {path.stem: anndata.read_h5ad(path) for path in built.file("x", **PLACE).parent.glob("*.h5ad")}


def interrupted(dest: Path, index: Path, environment: dict[str, str]) -> None:
    command = ["run", dest, "--index", index, "--format", "h5", "-c", BATCH, "--pool", "serial", "--cells-json"]
    driver = ForkedCommand(command, environment)
    while driver.poll() is None and len(list(dest.glob("_ingest/receipts/*.json"))) < 2:
        time.sleep(0.01)
    assert driver.poll() is None, "it came to an end before it could be interrupted"
    driver.kill()
    driver.wait()


def test_download_interrupt_resume_and_choose_genes(
    bucket: str,
    source: dict[str, anndata.AnnData],
    gcs_server: ObjectServer,
    environment: dict[str, str],
    ingest: Callable[..., object],
    tmp_path: Path,
):
    env, index, dest = gcs_server.environment, tmp_path / "index.feather", tmp_path / "processed"
    ingest("index", "scbasecount", "--root", bucket, "--cells", N_CELLS, "--seed", 1, "-o", index, env=env)
    interrupted(dest, index, {**environment, **env})
    ingest("run", dest, "-d", 2, env=env)

    matrix, accessions = check_files(dest, source)
    assert matrix.shape[0] == N_CELLS
    check_config(dest, matrix, accessions)

    ingest("hvg", dest, "--n-hvgs", 200, "--pool", "serial", env=env)
    check_genes(dest, matrix)
    again = ingest("hvg", dest, "--n-hvgs", 200, "--pool", "serial", env=env)
    assert "Ray" not in again.err
    assert "differ" in ingest("hvg", dest, "--n-hvgs", 100, "--pool", "serial", env=env, code=None).err
    ingest("hvg", dest, "--n-hvgs", 100, "--force", "--output-dir", dest, "--pool", "serial", env=env)
    assert len(json.loads((dest / "hvg_info.json").read_text())["hvg_indices"]) == 100
    ingest("verify", dest, "--deep", env=env)
    check_training(dest, matrix, accessions)


def check_training(dest: Path, matrix: np.ndarray, accessions: list[str]) -> None:
    """The seed's third step: cells by number, loaders of batches, highly variable genes alone."""
    names = [name.decode() for path in sorted((dest / "chunks").glob("*.h5")) for name in h5py.File(path)["cells"]]
    row_of = {name: row for row, name in enumerate(names)}
    chosen = json.loads((dest / "hvg_info.json").read_text())["hvg_indices"]

    dataset = ScRNADataset(dest)
    assert len(dataset) == N_CELLS
    for row in (0, 77, N_CELLS - 1):
        expression, metadata = dataset[row]
        np.testing.assert_array_equal(expression.numpy(), matrix[row])
        assert metadata["cell_id"] == names[row]
        assert dataset.categories["experiment_id"][metadata["experiment_id"]] == accessions[row]
    genes = HVGDataset(dest, n_hvgs=100)
    np.testing.assert_array_equal(genes[5][0].numpy(), matrix[5, chosen])

    wholes = create_dataloader(dest, batch_size=32), matrix
    parts = create_hvg_dataloader(dest, batch_size=32, n_hvgs=100), matrix[:, chosen]
    for loader, wanted in (wholes, parts):
        seen = []
        for expression, metadata in loader:
            assert expression.shape == (len(metadata["cell_id"]), wanted.shape[1])
            rows = [row_of[name] for name in metadata["cell_id"]]
            np.testing.assert_array_equal(expression.numpy(), wanted[rows])
            assert [loader.categories["experiment_id"][code] for code in metadata["experiment_id"]] == [
                accessions[row] for row in rows
            ]
            seen += rows
        assert sorted(seen) == list(range(N_CELLS))
        assert seen != sorted(seen)

    some = accessions[0], accessions[-1]
    loader = create_dataloader(dest, batch_size=32, include_srx_accessions=some)
    found = [name for _, metadata in loader for name in metadata["cell_id"]]
    assert sorted(found) == sorted(name for name, sample in zip(names, accessions, strict=True) if sample in some)


def check_files(dest: Path, source: dict[str, anndata.AnnData]) -> tuple[np.ndarray, list[str]]:
    """Open every batch with h5py alone and compare it count for count; return all of X, and each cell's sample."""
    parts, accessions = [], []
    files = sorted((dest / "chunks").glob("*.h5"))
    assert len(files) == -(-N_CELLS // BATCH)
    for path in files:
        with h5py.File(path) as file:
            matrix, genes = file["X"][()], [gene.decode() for gene in file["genes"]]
            assert (file["X"].dtype, matrix.shape) == (np.int16, (len(file["cells"]), len(genes)))
            mine = [name.decode() for name in file["obs/SRX_accession"]]
            np.testing.assert_array_equal(file["obs/gene_count"], (matrix > 0).sum(axis=1))
            np.testing.assert_array_equal(file["obs/umi_count"], matrix.sum(axis=1, dtype=np.int64))
            for at, (accession, name, row) in enumerate(zip(mine, file["cells"], file["obs/row"], strict=True)):
                origin = source[accession]
                assert name.decode() == f"{accession}:{origin.obs_names[row]}"
                wanted = sparse.csr_matrix(origin.X[row : row + 1]).toarray()[0]
                there = dict(zip(origin.var_names, wanted, strict=True))
                np.testing.assert_array_equal(matrix[at], [there.get(gene, 0) for gene in genes])
        parts.append(matrix)
        accessions += mine
    assert genes == json.loads((dest / "gene_list.json").read_text())["ids"]
    return np.concatenate(parts), accessions


def check_config(dest: Path, matrix: np.ndarray, accessions: list[str]) -> None:
    config = json.loads((dest / "config.json").read_text())
    assert (config["total_cells_downloaded"], config["n_batches"], config["batch_size"]) == (N_CELLS, 14, BATCH)
    assert (len(config["gene_list"]), config["max_expression_value"]) == (matrix.shape[1], matrix.max())
    assert config["sparsity"] == pytest.approx((matrix == 0).mean(), abs=1e-9)
    counted = {sample["srx_accession"]: sample["n_cells"] for sample in config["source_samples"]}
    assert counted == pd.Series(accessions).value_counts().to_dict()
    experiments = json.loads((dest / "metadata" / "experiments.json").read_text())["experiments"]
    assert experiments.keys() == counted.keys()
    cells = json.loads((dest / "metadata" / "cells.json").read_text())["cells"]
    assert [cell["SRX_accession"] for cell in cells] == accessions
    assert {Source.parse(cell["source"]).label for cell in cells} == counted.keys()


def check_genes(dest: Path, matrix: np.ndarray) -> None:
    """The seed's rule by numpy: variance over mean, of genes seen in at least 0.1 % of cells, the first 200."""
    info = json.loads((dest / "hvg_info.json").read_text())
    counts = matrix.astype(np.float64)
    mean, variance = counts.mean(axis=0), counts.var(axis=0, ddof=1)
    seen = (counts > 0).mean(axis=0) >= 0.001
    dispersion = np.where(seen & (mean > 0), variance / np.where(mean > 0, mean, 1), -np.inf)
    chosen = info["hvg_indices"]
    assert len(chosen) == 200
    assert min(dispersion[chosen]) >= np.sort(dispersion)[-200] - 1e-9
    np.testing.assert_allclose(info["statistics"]["max_dispersion"], dispersion.max(), rtol=1e-9)
    assert info["statistics"]["total_cells_analyzed"] == N_CELLS
    assert info["gene_to_hvg_idx"] == {str(gene): at for at, gene in enumerate(chosen)}
    assert (dest / "hvg_analysis.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
