"""``qc`` and ``run --qc`` in processes of their own: on a real Ray, over a look-alike of S3, on real files."""

from __future__ import annotations

import io
import json
import os
import time
import warnings
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.stats import median_abs_deviation

from ingest.store.open import open_store
from ingest.testing.forked_commands import ForkedCommand
from ingest.testing.ray_workers import workers_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ingest.testing.servers import ObjectServer

RULES = ("--min-genes", 250, "--mad", 3, "--min-cells", 40)
ASKED = ("--qc", "min_genes=250", "--qc", "mad=3", "--qc", "min_cells=40")


@pytest.mark.long
def test_a_worker_is_killed_and_the_result_is_the_same(
    census_index: Path, joined: dict[str, str], ingest: Callable[..., object], tmp_path: Path
):
    dataset = tmp_path / "dataset"
    ingest("run", dataset, "--index", census_index, "-n", 3_000, "-c", 10, "--pool", "serial")
    ingest("qc", dataset, *RULES, "--pool", "serial", "--output-dir", tmp_path / "quiet")
    others = workers_of(os.getpid())
    driver = ForkedCommand(["qc", dataset, *RULES, "-d", 2, "--output-dir", tmp_path / "killed"], joined)
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
    names = {path.name for path in (tmp_path / "quiet").iterdir()}
    assert len(names) == 6
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "quiet" / name).read_bytes(), name


def test_a_run_in_two_steps_is_killed_again_and_again_and_ends_the_same(
    census_index: Path, environment: dict[str, str], ingest: Callable[..., object], tmp_path: Path
):
    options = ["--index", census_index, "-n", 2_000, "-c", 50, *ASKED, "--pool", "serial"]
    ingest("run", tmp_path / "quiet", *options)
    dest, raw = tmp_path / "dest", tmp_path / "dest-raw"
    signs = [
        raw / "_ingest" / "plan.json",
        dest / "_ingest" / "qc" / "qc_cells.feather",
        dest / "_ingest" / "plan.json",
    ]
    for sign in signs:
        driver = ForkedCommand(["run", dest, *options], environment)
        while driver.poll() is None and not sign.exists():
            time.sleep(0.005)
        assert driver.poll() is None, f"it ended before {sign.name} was there: {driver.communicate()}"
        driver.kill()
        driver.communicate()
    ingest("run", dest, *options)
    ends = [json.loads((path / "_SUCCESS.json").read_text())["digest"] for path in (dest, tmp_path / "quiet")]
    assert ends[0] == ends[1]
    ingest("verify", dest, "--deep", "--source")


@pytest.mark.long
def test_a_bucket_is_filtered_in_two_steps(
    census_index: Path, ingest: Callable[..., object], s3_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    url, env = f"{s3_server.create_bucket('quality')}/lung", s3_server.environment
    command = ("run", url, "--index", census_index, "-n", 600, "-c", 100, *ASKED)
    ingest(*command, "-d", 2, env=env)  # real Ray
    store, results = open_store(url), open_store(f"{url}/_ingest/qc")
    record = json.loads(results.get("qc.json"))
    assert 0 < record["cells"]["kept"] < 600
    assert json.loads(store.get("config.json"))["total_cells_downloaded"] == record["cells"]["kept"]
    assert results.get("qc.png").startswith(b"\x89PNG")
    ran = ingest("qc", f"{url}-raw", "--min-genes", 300, "--json", "--pool", "serial", env=env)
    assert ran.json()["url"] == f"{url}-raw"
    assert ingest("qc", f"{url}-raw", "--min-genes", 300, "--json", env=env).json()["cached"] is True
    assert ingest("qc", f"{url}-raw", code=1, env=env).err.count("min_genes 300 there, none here") == 1
    ingest("qc", f"{url}-raw", "--force", "--pool", "serial", env=env)
    index = pd.read_feather(io.BytesIO(open_store(f"{url}-raw").get("qc_index.feather")))
    assert len(index) == 600
    ingest(*command, env=env)
    ingest("verify", url, env=env)
    store.close()
    results.close()


REAL = ["scvi_pbmc_5k_protein_v3", "cxg_small_perturbations", "transcriptformer_mouse_val", "cxg_heart_320_rawX"]


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore")  # scanpy and old files have much to say
@pytest.mark.parametrize("name", REAL)
def test_real_files_give_scanpys_metrics(name: str, real_data: Path, ingest: Callable[..., object], tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import scanpy
    index, dest = tmp_path / "index.feather", tmp_path / "dataset"
    ingest("index", "h5ad", real_data / f"{name}.h5ad", "-o", index)
    ingest("run", dest, "--index", index, "-c", 64, "--pool", "serial")
    ran = ingest("qc", dest, "--mad", 4, "--min-cells", 5, "--pool", "serial", "--json").json()
    cells = anndata.concat([anndata.read_h5ad(chunk) for chunk in sorted((dest / "chunks").iterdir())], merge="same")
    cells.X = cells.X.astype(np.float64)
    cells.var["mt"] = cells.var["feature_name"].str.startswith(("MT-", "mt-"))
    scanpy.pp.calculate_qc_metrics(cells, qc_vars=["mt"], percent_top=None, inplace=True)
    mine = pd.read_feather(dest / "qc_cells.feather")
    assert ran["genes"]["mitochondrial"] == cells.var["mt"].sum()
    kept = np.ones(cells.n_obs, bool)
    metrics = ["log1p_n_genes_by_counts", "log1p_total_counts", *(["pct_counts_mt"] if cells.var["mt"].any() else [])]
    for metric in metrics:
        value = cells.obs[metric].to_numpy()
        middle, reach = np.median(value), 4 * median_abs_deviation(value)
        kept &= (value >= middle - reach) & (value <= middle + reach)
    for metric in ["n_genes_by_counts", "total_counts", *metrics[2:]]:
        np.testing.assert_array_equal(mine[metric], cells.obs[metric])
    np.testing.assert_array_equal(mine["kept"], kept)
    genes = pd.read_feather(dest / "qc_genes.feather")
    np.testing.assert_array_equal(genes["n_cells_by_counts"], cells.var["n_cells_by_counts"])
    left = cells[kept].copy()
    scanpy.pp.filter_genes(left, min_cells=5)
    assert genes["gene_id"][genes["kept"]].tolist() == left.var_names.tolist()
