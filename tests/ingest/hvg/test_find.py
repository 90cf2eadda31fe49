"""From chunks to genes: what is read, what is refused, what never matters."""

from __future__ import annotations

import builtins
import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from ingest.errors import ConfigError, CorruptError, EmptySelectionError, IncompleteError, SourceError
from ingest.hvg import find
from ingest.hvg.batches import ALL, batch_codes, count_batches
from ingest.hvg.document import hvg_document, hvg_identity
from ingest.hvg.find import HvgData, check_request, find_hvgs, read_data
from ingest.hvg.folds import median_total
from ingest.hvg.parameters import HvgParameters
from ingest.settings import DataSettings, WorkSettings
from ingest.store.local import LocalStore
from ingest.testing.blocks import dictionary
from ingest.testing.damage import DamageableDataset, flip_bit
from ingest.testing.datasets import make_dataset, open_serial_pool, write_h5ad_index, write_sources
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.testing.hvg_data import varied_counts

if TYPE_CHECKING:
    from pathlib import Path

FLAVOURS = ["dispersion", "seurat", "cell_ranger", "seurat_v3"]
SETTINGS = WorkSettings(workers=1, pool="serial")


class Nobody:
    def reached(self, n_cells):
        pass

    def troubled(self, failure, retried):
        pass


def found(data: HvgData, flavour="dispersion", **options):
    parameters = HvgParameters.of(flavour, **options)
    request = check_request(data, parameters, memory_bytes=1 << 30)
    return find_hvgs(request, SETTINGS, open_serial_pool, lambda _word: Nobody())


def document(data: HvgData, flavour="dispersion", **options) -> bytes:
    identity = hvg_identity(data, HvgParameters.of(flavour, **options))
    return hvg_document(identity, found(data, flavour, **options), data.opened.genes, None)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("find")
    write_h5ad_variant(folder / "cells.h5ad", varied_counts(300, 240, seed=5))
    index = write_h5ad_index(folder / "index.feather", [folder / "cells.h5ad"])
    table = pd.read_feather(index)
    table["donor"] = [f"d{n % 2}" for n in range(len(table))]
    table["gap"] = pd.array([None if n == 7 else "x" for n in range(len(table))], "string")
    table.to_feather(index)
    return index


@pytest.fixture(scope="module")
def finished(source) -> Path:
    dest = source.parent / "dest"
    make_dataset(str(dest), source, data=DataSettings(cells_per_chunk=40))
    return dest


@pytest.fixture
def dest(finished, tmp_path) -> DamageableDataset:
    shutil.copytree(finished, tmp_path / "dest")
    return DamageableDataset(tmp_path / "dest")


@pytest.fixture
def data(finished) -> HvgData:
    return read_data(DamageableDataset(finished).open())


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("batch_key", [None, "donor"])
@pytest.mark.sampled(3)
def test_how_the_cells_are_cut_into_chunks_does_not_matter(data, source, tmp_path, flavour, batch_key):
    other = make_dataset(str(tmp_path / "other"), source, data=DataSettings(cells_per_chunk=7)).opened
    one = json.loads(document(data, flavour, n_hvgs=50, batch_key=batch_key))
    two = json.loads(document(read_data(other), flavour, n_hvgs=50, batch_key=batch_key))
    one.pop("dataset"), two.pop("dataset")
    assert one == two


@pytest.mark.parametrize(
    ("flavour", "options", "times"),
    [
        ("dispersion", {}, 1),
        ("seurat", {"target_sum": 1e4}, 1),
        ("cell_ranger", {"target_sum": 1e4}, 1),
        ("seurat", {}, 2),
        ("seurat_v3", {}, 2),
        ("dispersion", {"batch_key": "donor"}, 1),
    ],
)
def test_every_chunk_is_read_once_a_pass(data, flavour, options, times, monkeypatch):
    read, get = [], LocalStore.get
    monkeypatch.setattr(LocalStore, "get", lambda store, key: read.append(key) or get(store, key))
    found(data, flavour, n_hvgs=20, **options)
    chunks = sorted(key for key in read if key.startswith("chunks/"))
    assert chunks == sorted(times * [data.opened.plan.key(chunk) for chunk in range(8)])


def test_an_incomplete_dataset_is_refused_unless_allowed(dest):
    dest.receipt(3).unlink()
    (dest.path / "_SUCCESS.json").unlink()
    with pytest.raises(IncompleteError, match="7 of 8 chunks are there") as caught:
        read_data(dest.open())
    assert caught.value.exit_code == 3
    assert "run" in caught.value.hint
    data = read_data(dest.open(), allow_incomplete=True)
    assert data.n_cells == 260
    assert data.document()["complete"] is False
    result = found(data, batch_key="donor")
    assert result.moments.n_cells == 260
    assert sum(result.batches.values()) == 260


def test_receipts_without_the_last_word_are_incomplete(dest):
    (dest.path / "_SUCCESS.json").unlink()
    with pytest.raises(IncompleteError):
        read_data(dest.open())


def test_nothing_at_all_is_refused(dest):
    for chunk in range(8):
        dest.receipt(chunk).unlink()
    with pytest.raises(EmptySelectionError):
        read_data(dest.open(), allow_incomplete=True)


def test_one_cell_is_refused(source, tmp_path):
    made = make_dataset(str(tmp_path / "one"), source, data=DataSettings(max_cells=1))
    with pytest.raises(EmptySelectionError, match="one cell"):
        found(read_data(made.opened))


@pytest.mark.parametrize(
    ("key", "kind", "said"),
    [
        ("doner", "unknown-column", "did you mean 'donor'"),
        ("gap", "bad-batch-key", "some cells have no value"),
        ("soma_joinid_", "unknown-column", "no column"),
    ],
)
def test_a_batch_key_that_cannot_be_used(data, key, kind, said):
    with pytest.raises(ConfigError, match=said) as caught:
        found(data, batch_key=key)
    assert caught.value.kind == kind


def test_batches_of_a_damaged_index_are_not_believed(dest):
    opened = dest.open()
    flip_bit(dest.path / opened.plan.files["index"])
    with pytest.raises(CorruptError) as caught:
        check_request(read_data(opened), HvgParameters.of(batch_key="donor"), memory_bytes=1 << 30)
    assert caught.value.kind == "plan-damaged"


def test_more_batches_than_memory_holds(data):
    parameters = HvgParameters.of(batch_key="row")
    with pytest.raises(ConfigError, match="has 300 values") as caught:
        check_request(data, parameters, memory_bytes=1 << 20)
    assert caught.value.kind == "memory"


def test_batches_are_counted_whatever_the_column_holds(data):
    opened, chunks = data.opened, data.chunks
    assert count_batches(opened, "donor", chunks) == {"d0": 150, "d1": 150}
    assert count_batches(opened, "donor", chunks[:1]) == {"d0": 20, "d1": 20}
    assert count_batches(opened, "cell_type", chunks) == {"B cell": 100, "T cell": 100, "neuron": 100}
    assert len(count_batches(opened, "score", chunks)) == 300
    labels, codes = batch_codes(dictionary(["b", "a", "b"], ["unused", "b", "a"]))
    assert [labels[code] for code in codes] == ["b", "a", "b"]
    assert ALL not in labels


def test_seurat_v3_without_scikit_misc_names_the_extra(data, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("skmisc"):
            raise ImportError("No module named 'skmisc'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match="scikit-misc") as caught:
        found(data, "seurat_v3")
    assert caught.value.kind == "missing-package"
    assert "cell-ingest[hvg]" in caught.value.hint


@pytest.fixture(scope="module")
def fractional(tmp_path_factory) -> DamageableDataset:
    folder = tmp_path_factory.mktemp("fractional")
    counts = sample_counts(60, 30, density=0.5, seed=2)
    counts.data = counts.data + np.float32(0.3)
    write_h5ad_variant(folder / "cells.h5ad", counts)
    index = write_h5ad_index(folder / "index.feather", [folder / "cells.h5ad"])
    data = DataSettings(cells_per_chunk=25, allow_noninteger=True)
    make_dataset(str(folder / "dest"), index, data=data)
    return DamageableDataset(folder / "dest")


def test_fractional_values_have_exact_moments_too(fractional):
    import anndata

    data = read_data(fractional.open())
    chunks = sorted((fractional.path / "chunks").iterdir())
    dense = np.vstack([anndata.read_h5ad(chunk).X.toarray() for chunk in chunks]).astype(np.longdouble)
    moments = found(data, min_cells_pct=0).moments
    assert moments.mean == pytest.approx(dense.mean(axis=0).astype(float), rel=1e-15)
    assert moments.variance == pytest.approx(dense.var(axis=0, ddof=1).astype(float), rel=1e-14)
    assert len(found(data, "seurat", n_hvgs=5).choice.genes) >= 5  # ties at the cut-off are taken, as by scanpy


def test_seurat_v3_refuses_fractional_values(fractional):
    with pytest.raises(SourceError, match=r"3") as caught:
        found(read_data(fractional.open()), "seurat_v3")
    assert caught.value.kind == "fractional"


def test_a_value_above_what_all_receipts_say_is_not_wrapped(fractional, tmp_path):
    shutil.copytree(fractional.path, tmp_path / "dest")
    dest = DamageableDataset(tmp_path / "dest")
    for chunk in range(3):
        dest.reseal(chunk, maximum=0.5)
    with pytest.raises(CorruptError, match=r"holds a value above 0\.5") as caught:
        found(read_data(dest.open()))
    assert caught.value.kind == "totals"


def test_the_document_has_the_seeds_entries_and_no_nan(data):
    whole = json.loads(document(data, n_hvgs=30), parse_constant=pytest.fail)
    assert whole["format_version"] == 1
    indices = whole["hvg_indices"]
    assert len(indices) == len(set(indices)) == 30
    assert whole["hvg_names"] == [data.opened.genes.ids[gene] for gene in indices]
    assert whole["gene_to_hvg_idx"] == {str(gene): at for at, gene in enumerate(indices)}
    statistics = whole["statistics"]
    assert set(statistics) == {
        "total_cells_analyzed",
        "mean_dispersion",
        "min_dispersion",
        "max_dispersion",
        "top_10_hvgs",
        "top_10_dispersions",
        "top_10_pct_cells",
    }
    assert statistics["total_cells_analyzed"] == 300
    assert statistics["top_10_hvgs"] == whole["hvg_names"][:10]
    assert statistics["max_dispersion"] == statistics["top_10_dispersions"][0] == whole["hvg_scores"][0]
    assert statistics["min_dispersion"] == whole["hvg_scores"][-1]
    assert len(statistics["top_10_pct_cells"]) == 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_hvgs": 0}, "at least one gene"),
        ({"flavour": "seurat", "min_cells_pct": 1}, "belongs to dispersion"),
        ({"target_sum": 1e4}, "belongs to seurat and cell_ranger"),
        ({"flavour": "seurat", "target_sum": 0}, "above 0"),
        ({"flavour": "seurat", "target_sum": float("nan")}, "above 0"),
        ({"min_cells_pct": 101}, "0 to 100"),
    ],
)
def test_parameters_that_make_no_sense(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        HvgParameters.of(**options)
    assert caught.value.kind == "bad-hvg"


def test_the_median_total_of_cells_with_counts():
    assert median_total({0.0: 9, 1.0: 1, 5.0: 1}) == 3
    assert median_total({0.0: 9, 1.0: 2, 5.0: 1}) == 1
    assert median_total({2.0: 1}) == 2
    assert median_total({0.0: 3}) is None


def test_empty_cells_and_a_dataset_of_nothing(tmp_path):
    write_h5ad_variant(tmp_path / "cells.h5ad", sample_counts(20, 10, density=0.0))
    index = write_h5ad_index(tmp_path / "index.feather", [tmp_path / "cells.h5ad"])
    data = read_data(make_dataset(str(tmp_path / "dest"), index).opened)
    assert found(data).choice.genes.tolist() == []
    with pytest.raises(EmptySelectionError, match="no cell has any count"):
        found(data, "seurat")
    whole = json.loads(document(data))
    assert whole["statistics"]["mean_dispersion"] is None


def test_sources_of_several_files(tmp_path):
    index = write_h5ad_index(tmp_path / "index.feather", write_sources(tmp_path / "sources"))
    data = read_data(make_dataset(str(tmp_path / "dest"), index).opened)
    batches = found(data, batch_key="source").batches
    assert sorted(batches.values()) == [30, 30]
    assert find.check_request(data, HvgParameters.of("seurat"), memory_bytes=1).n_passes == 2
