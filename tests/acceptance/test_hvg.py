"""``hvg`` in a process of its own: on a real Ray, over a look-alike of S3, on real files beside scanpy."""

from __future__ import annotations

import json
import os
import signal
import time
import warnings
from typing import TYPE_CHECKING

import anndata
import numpy as np
import psutil
import pytest

from ingest.store.open import open_store
from ingest.testing.forked_commands import ForkedCommand
from ingest.testing.ray_workers import workers_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingest.testing.servers import ObjectServer


@pytest.fixture(scope="module")
def dataset(census_index: Path, ingest: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("hvg") / "dataset"
    ingest("run", dest, "--index", census_index, "-n", 3_000, "-c", 10, "--pool", "serial")
    return dest


@pytest.mark.long
def test_a_worker_is_killed_and_the_genes_are_the_same(
    dataset: Path, joined: dict[str, str], ingest: Callable[..., object], tmp_path: Path
):
    options = ["--flavour", "seurat", "--n-hvgs", "500"]
    ingest("hvg", dataset, *options, "--pool", "serial", "--output-dir", tmp_path / "quiet")
    others = workers_of(os.getpid())
    driver = ForkedCommand(["hvg", dataset, *options, "-d", 2, "--output-dir", tmp_path / "killed"], joined)
    try:
        while driver.poll() is None and not (workers := workers_of(os.getpid()) - others):
            time.sleep(0.01)
        assert driver.poll() is None, "it ended before a worker could be killed"
        workers.pop().kill()
        _, said = driver.communicate(timeout=300)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == 0, said
    for name in ("hvg_info.json", "hvg_analysis.png"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "quiet" / name).read_bytes()


def test_an_interrupt_writes_nothing(dataset: Path, joined: dict[str, str], tmp_path: Path):
    others = workers_of(os.getpid())
    driver = ForkedCommand(["hvg", dataset, "-d", 2, "--output-dir", tmp_path / "none"], joined)
    while driver.poll() is None and not (workers := workers_of(os.getpid()) - others):
        time.sleep(0.01)
    driver.send_signal(signal.SIGTERM)
    _, said = driver.communicate(timeout=300)
    assert driver.returncode == 130, said
    assert "stopped" in said
    assert not (tmp_path / "none").exists()
    _, alive = psutil.wait_procs(list(workers), timeout=120)
    assert not alive


@pytest.mark.long
def test_a_bucket_is_read_and_written(
    census_index: Path, ingest: Callable[..., object], s3_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    url, env = f"{s3_server.create_bucket('hvg')}/lung", s3_server.environment
    ingest("run", url, "--index", census_index, "-n", 600, "-c", 100, "--pool", "serial", env=env)
    ran = ingest("hvg", url, "--n-hvgs", 50, "--json", "-d", 2, env=env)  # real Ray
    store = open_store(url)
    record = json.loads(store.get("hvg_info.json"))
    assert store.get("hvg_analysis.png").startswith(b"\x89PNG")
    assert len(record["hvg_names"]) == 50
    assert ran.json()["url"] == url
    assert ingest("hvg", url, "--n-hvgs", 50, "--json", env=env).json()["cached"] is True
    assert ingest("hvg", url, "--n-hvgs", 51, code=1, env=env).err.count("n_hvgs 50 there, 51 here") == 1
    assert ingest("hvg", url, "--n-hvgs", 51, "--force", "--pool", "serial", env=env).code == 0
    assert len(json.loads(store.get("hvg_info.json"))["hvg_names"]) == 51
    store.close()
    ingest("verify", url, env=env)


REAL = [
    pytest.param("scvi_pbmc_5k_protein_v3", marks=pytest.mark.long),
    "transcriptformer_mouse_val",
    pytest.param("cxg_small_perturbations", marks=pytest.mark.long),
]


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore")  # scanpy and old files have much to say
@pytest.mark.parametrize("name", REAL)
def test_real_files_give_scanpys_genes(name: str, real_data: Path, ingest: Callable[..., object], tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import scanpy
    index, dest = tmp_path / "index.feather", tmp_path / "dataset"
    ingest("index", "h5ad", real_data / f"{name}.h5ad", "-o", index)
    ingest("run", dest, "--index", index, "-c", 641, "--pool", "serial")
    cells = anndata.concat([anndata.read_h5ad(chunk) for chunk in sorted((dest / "chunks").iterdir())])
    logged = cells.copy()
    logged.X = logged.X.astype(np.float64)
    scanpy.pp.normalize_total(logged)
    scanpy.pp.log1p(logged)
    for flavour in ("seurat", "cell_ranger", "seurat_v3"):
        out = tmp_path / flavour
        ran = ingest("hvg", dest, "--flavour", flavour, "--pool", "serial", "--output-dir", out, "--json")
        of = cells if flavour == "seurat_v3" else logged
        unseen = (cells.X.sum(axis=0) == 0).mean()
        if flavour == "cell_ranger" and unseen > 0.1:
            with pytest.raises(ValueError, match="Bin edges must be unique"):
                scanpy.pp.highly_variable_genes(of, n_top_genes=2_000, flavor=flavour, inplace=False)
            continue  # scanpy has no answer, where every tenth gene has no counts
        theirs = scanpy.pp.highly_variable_genes(of, n_top_genes=2_000, flavor=flavour, inplace=False)
        chosen = set(cells.var_names[theirs["highly_variable"].to_numpy()])
        ours = set(ran.json()["hvg_names"])
        score = theirs["variances_norm" if flavour == "seurat_v3" else "dispersions_norm"].to_numpy()
        cut = np.sort(score[theirs["highly_variable"].to_numpy()])[0]
        odd = [score[cells.var_names.get_loc(gene)] for gene in chosen ^ ours]
        assert odd == pytest.approx([cut] * len(odd), rel=1e-9), "genes differ that are not tied at the cut-off"
