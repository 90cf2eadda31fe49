"""Labels, slices and thresholds through a handle, and of a file in a bucket."""

from __future__ import annotations

import anndata
import pytest

from ingest.errors import ConfigError
from ingest.fetch.h5ad_remote import remote_filesystem
from ingest.stream import (
    AnnData,
    calculate_adaptive_qc_thresholds,
    ensure_gene_symbol_column,
    get_perturbation_slice,
    infer_columns,
    needs_sorting_for_nbglm,
    normalise_perturbation_labels,
    sort_by_perturbation,
    standardise_gene_names,
    standardize_dataset,
)
from ingest.testing.screens import write_screen

READ = [
    lambda data: infer_columns(data, verbose=False),
    lambda data: list(ensure_gene_symbol_column(data, "feature_name")),
    lambda data: get_perturbation_slice(data, "NTC", "guide"),
    lambda data: needs_sorting_for_nbglm(data, "guide", min_cells=1, min_perturbations=1),
    lambda data: calculate_adaptive_qc_thresholds(data, "guide", chunk_size=1),
    lambda data: normalise_perturbation_labels(data, "guide", inplace=False).tolist(),
    lambda data: standardise_gene_names(data, inplace=False).tolist(),
]


@pytest.fixture
def path(tmp_path):
    return sort_by_perturbation(write_screen(tmp_path / "screen.h5ad"), "guide")


@pytest.mark.parametrize("call", READ)
def test_a_handle_says_what_its_file_says(path, call):
    with AnnData(path) as handle:
        assert str(call(handle)) == str(call(path))


@pytest.mark.parametrize("call", READ)
def test_a_file_in_a_bucket_says_the_same(path, call, s3_server, monkeypatch):
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.create_bucket("labels")
    url = "s3://labels/screen.h5ad"
    remote_filesystem(url).pipe_file(url, path.read_bytes())
    assert str(call(url)) == str(call(path))
    for change in (lambda data: normalise_perturbation_labels(data, "guide"), standardise_gene_names):
        with pytest.raises(ConfigError, match="a remote file"):
            change(url)
    with pytest.raises(ConfigError, match="say where to write"):
        sort_by_perturbation(url, "guide")


def test_a_handle_is_changed_sorted_and_copied_as_its_file(path, tmp_path):
    with AnnData(path) as handle:
        normalise_perturbation_labels(handle, "guide", strip_suffix_regex=r"_\d")
        standardise_gene_names(handle)
        assert "TP53" in handle.obs["guide"].cat.categories
        output = sort_by_perturbation(handle, "guide")
        copy = standardize_dataset(handle, "guide", None, "feature_name", tmp_path)
    assert get_perturbation_slice(AnnData(output), "TP53", "guide")[1]
    assert anndata.read_h5ad(copy).var_names[0] == "GENE0"
