"""From chunks to what stays: what is read, what is refused, what never matters."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.feather
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.cells import read_cells
from ingest.cli.qc import judge_dataset
from ingest.errors import ConfigError, CorruptError
from ingest.hvg.find import read_data
from ingest.qc.find import mito_columns
from ingest.qc.parameters import CELL_RULES, QcRules
from ingest.qc.table import CellTable
from ingest.settings import DataSettings, WorkSettings
from ingest.store.local import LocalStore
from ingest.store.open import open_store
from ingest.testing.damage import DamageableDataset, flip_bit
from ingest.testing.datasets import make_dataset, write_h5ad_index
from ingest.testing.examples import examples
from ingest.testing.qc_data import write_qc_source

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = WorkSettings(workers=1, pool="serial")
RULES = {"min_genes": 20, "max_mito_pct": 12, "mad": 4, "leave_out_column": "is_doublet", "min_cells": 8}


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("find")
    files = [folder / f"cells{number}.h5ad" for number in range(2)]
    made = [write_qc_source(path, 120, seed=number) for number, path in enumerate(files)]
    path = write_h5ad_index(folder / "index.feather", files)
    table = pd.read_feather(path)
    for name in ("is_doublet", "perturbation", "donor"):
        table[name] = np.concatenate([one.obs[name].astype(object) for one in made])
    table["is_doublet"] = table["is_doublet"].astype(bool)
    table.to_feather(path)
    return path


@pytest.fixture(scope="module")
def finished(index) -> Path:
    dest = index.parent / "dest"
    make_dataset(str(dest), index, data=DataSettings(cells_per_chunk=50))
    return dest


@pytest.fixture
def dest(finished, tmp_path) -> DamageableDataset:
    shutil.copytree(finished, tmp_path / "dest")
    return DamageableDataset(tmp_path / "dest")


def judged(opened, folder: Path, *, allow_incomplete=False, **rules) -> tuple[dict, pd.DataFrame]:
    data = read_data(opened, allow_incomplete=allow_incomplete)
    document, _ = judge_dataset(data, QcRules.of(rules), open_store(str(folder)), SETTINGS)
    return document, pyarrow.feather.read_table(folder / "qc_cells.feather").to_pandas()


def test_how_the_cells_are_cut_into_chunks_does_not_matter(finished, index, tmp_path):
    other = make_dataset(str(tmp_path / "other"), index, data=DataSettings(cells_per_chunk=7)).opened
    judged(DamageableDataset(finished).open(), tmp_path / "one", **RULES)
    judged(other, tmp_path / "two", **RULES)
    documents = [json.loads((tmp_path / name / "qc.json").read_text()) for name in ("one", "two")]
    assert documents[0]["dropped_by_rule"].keys() >= {"leave_out_column", "min_genes", "max_mito_pct", "mad_mito"}
    for document in documents:
        document.pop("dataset"), document["sha256"].pop("qc_index.feather")
    assert documents[0] == documents[1]
    tables = [pd.read_feather(tmp_path / name / "qc_index.feather") for name in ("one", "two")]
    pd.testing.assert_frame_equal(*tables)


def test_the_index_is_the_cells_that_stay_and_a_second_run_takes_it(finished, tmp_path):
    opened = DamageableDataset(finished).open()
    document, cells = judged(opened, tmp_path / "out", **RULES)
    kept = cells["kept"].to_numpy()
    assert 0 < kept.sum() < 240
    whole = pyarrow.feather.read_table(finished / "metadata" / "cells.feather").to_pandas()
    mine = pyarrow.feather.read_table(tmp_path / "out" / "qc_index.feather").to_pandas()
    pd.testing.assert_frame_equal(mine, whole[kept].reset_index(drop=True))
    assert len(read_cells(tmp_path / "out" / "qc_index.feather")) == document["cells"]["kept"]
    again = make_dataset(str(tmp_path / "second"), tmp_path / "out" / "qc_index.feather")
    assert again.report.exit_code == 0
    assert again.opened.plan.n_cells == kept.sum()


def test_counts_of_drops_add_up(finished, tmp_path):
    document, cells = judged(DamageableDataset(finished).open(), tmp_path / "out", **RULES)
    first = cells["dropped_by"].value_counts()
    assert {rule: drops["first"] for rule, drops in document["dropped_by_rule"].items()} == {
        rule: int(first.get(rule, 0)) for rule in document["dropped_by_rule"]
    }
    assert sum(drops["first"] for drops in document["dropped_by_rule"].values()) == document["cells"]["dropped"]
    for drops in document["dropped_by_rule"].values():
        assert drops["alone"] <= drops["first"] <= drops["breaking"]


@given(st.lists(st.integers(0, (1 << len(CELL_RULES)) - 1), min_size=1, max_size=30))
@settings(max_examples=examples(24))
def test_flags_are_counted_as_a_person_would(flags):
    from ingest.qc.judge import count_drops

    class Table:
        def pieces(self):
            array = np.zeros(len(flags), [("flags", "<u4")])
            array["flags"] = flags
            return iter([array[:4], array[4:]])

    found = count_drops(Table())
    broken = [[rule for at, rule in enumerate(CELL_RULES) if value >> at & 1] for value in flags]
    for rule in CELL_RULES:
        wanted = (
            sum(rule in rules for rules in broken),
            sum(rules[:1] == [rule] for rules in broken),
            sum(rules == [rule] for rules in broken),
        )
        drops = found.get(rule)
        assert wanted == ((drops.breaking, drops.first, drops.alone) if drops else (0, 0, 0))


@pytest.mark.parametrize(
    ("rules", "times"),
    [({}, 1), ({"mad": 3}, 1), ({"min_cells": 3}, 1), ({"min_genes": 20, "min_cells": 3}, 2)],
)
def test_chunks_are_read_once_and_twice_where_cells_and_genes_go(finished, tmp_path, rules, times, monkeypatch):
    opened, read, get = DamageableDataset(finished).open(), [], LocalStore.get
    monkeypatch.setattr(LocalStore, "get", lambda store, key: read.append(key) or get(store, key))
    judged(opened, tmp_path / "out", **rules)
    chunks = sorted(key for key in read if key.startswith("chunks/"))
    assert chunks == sorted(times * [opened.plan.key(chunk) for chunk in range(5)])


def test_medians_are_over_the_cells_that_annotations_leave_whatever_bounds_say(finished, index, tmp_path):
    rules = {"leave_out_column": "is_doublet", "min_counts": 300, "mad": 3}
    document, cells = judged(DamageableDataset(finished).open(), tmp_path / "out", **rules)
    counted = np.log1p(cells["total_counts"][~pd.read_feather(index)["is_doublet"]])
    assert document["adaptive"]["mad_counts"]["median"] == np.median(counted)
    assert document["adaptive"]["mad_counts"]["mad"] == np.median(np.abs(counted - np.median(counted)))
    assert np.median(counted) != np.median(np.log1p(cells["total_counts"]))


def test_genes_are_counted_in_the_cells_that_stay(finished, tmp_path):
    opened = DamageableDataset(finished).open()
    _, cells = judged(opened, tmp_path / "out", min_genes=40, min_cells=30)
    genes = pyarrow.feather.read_table(tmp_path / "out" / "qc_genes.feather").to_pandas()
    import anndata

    files = sorted((finished / "chunks").iterdir())
    counts = anndata.concat([anndata.read_h5ad(file) for file in files]).X.toarray()
    np.testing.assert_array_equal(genes["n_cells_kept"], (counts[cells["kept"].to_numpy()] > 0).sum(axis=0))
    np.testing.assert_array_equal(genes["n_cells_by_counts"], (counts > 0).sum(axis=0))
    lines = (tmp_path / "out" / "qc_genes.txt").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert lines[1:] == genes["gene_id"][genes["kept"]].tolist()


def test_cells_are_left_out_by_name_and_strangers_counted(finished, tmp_path):
    opened = DamageableDataset(finished).open()
    names = tmp_path / "doublets.txt"
    names.write_text("# scrublet\ncells0:cell3\ncells1:cell3\ncell4\n")
    document, cells = judged(opened, tmp_path / "out", leave_out=f"@{names}")
    assert np.flatnonzero(~cells["kept"]).tolist() == [3, 123]
    assert document["leave_out_found"] == 2
    assert document["rules"]["leave_out"]["names"] == 3
    names.write_text("cell3\n")
    with pytest.raises(ConfigError, match="none of the 1 names is a cell's, 'cell3' the first") as caught:
        judged(opened, tmp_path / "none", leave_out=f"@{names}")
    assert "<file>:<barcode>" in caught.value.hint


def test_of_a_dense_dataset_too(index, tmp_path):
    data = DataSettings(cells_per_chunk=50, format="h5", dtype="int16")
    opened = make_dataset(str(tmp_path / "dense"), index, data=data).opened
    _, cells = judged(opened, tmp_path / "out", leave_out="cells0:cell7", max_genes=90)
    assert cells["dropped_by"][7] == "leave_out"


@pytest.mark.parametrize(
    ("rules", "column", "keeps"),
    [
        ({"subset_to_control_cells": True}, "perturbation", "non-targeting"),
        ({"control_column": "perturbation"}, "perturbation", "non-targeting"),
        ({"control_column": "donor", "control_values": "d1"}, "donor", "d1"),
    ],
)
def test_control_cells_alone(finished, index, tmp_path, rules, column, keeps):
    document, cells = judged(DamageableDataset(finished).open(), tmp_path / "out", **rules)
    np.testing.assert_array_equal(cells["kept"], pd.read_feather(index)[column] == keeps)
    assert document["annotations"] == [{"rule": "control_cells", "column": column, "values": [keeps]}]


@pytest.mark.parametrize(
    ("rules", "kind", "said"),
    [
        ({"leave_out_column": "is_dublet"}, "unknown-column", "did you mean 'is_doublet'"),
        ({"leave_out_column": "donor"}, "bad-qc", "no booleans but 'd0', 'd1', 'd2'"),
        ({"leave_out_column": "donor=d9"}, "unknown-value", "no cell of this dataset has donor 'd9'"),
        ({"control_column": "donor"}, "no-controls", "no value of it is known to mean control"),
        ({"control_column": "perturbation", "control_values": "nontargeting"}, "unknown-value", "'non-targeting'"),
        ({"mito_genes": "ENSGX"}, "no-mito-genes", "none of the 1 is a gene"),
    ],
)
def test_what_the_rules_name_must_be_there(finished, tmp_path, rules, kind, said):
    with pytest.raises(ConfigError) as caught:
        judged(DamageableDataset(finished).open(), tmp_path / "out", **rules)
    assert (caught.value.kind, said in caught.value.message) == (kind, True), caught.value.message
    assert not (tmp_path / "out").exists()


def test_no_column_tells_controls(index, tmp_path):
    table = pd.read_feather(index).drop(columns="perturbation")
    table.to_feather(tmp_path / "index.feather")
    opened = make_dataset(str(tmp_path / "dest"), tmp_path / "index.feather").opened
    with pytest.raises(ConfigError, match="known to say which cells are controls"):
        judged(opened, tmp_path / "out", subset_to_control_cells=True)


@pytest.mark.plots
def test_no_mitochondrial_gene(index, finished, tmp_path):
    opened = DamageableDataset(finished).open()
    wanted = opened.genes.ids[20:40]
    from ingest.vocabulary import GeneRule

    few = make_dataset(
        str(tmp_path / "few"), index, data=DataSettings(genes=GeneRule(wanted), cells_per_chunk=50)
    ).opened
    with pytest.raises(ConfigError, match="no gene of the dataset has a symbol that begins with MT-"):
        judged(few, tmp_path / "out", max_mito_pct=5)
    document, cells = judged(few, tmp_path / "out", min_genes=2, mad=5)
    assert "pct_counts_mt" not in document["metrics"]
    assert cells["pct_counts_mt"].isna().all()
    document, _ = judged(few, tmp_path / "named", mito_genes=f"{wanted[3]},GENE25", max_mito_pct=50)
    assert document["genes"]["mitochondrial_names"] == ["GENE23", "GENE25"]


def test_an_incomplete_dataset_numbers_its_own_cells(dest, index, tmp_path):
    dest.receipt(1).unlink()
    (dest.path / "_SUCCESS.json").unlink()
    document, cells = judged(dest.open(), tmp_path / "out", allow_incomplete=True, **RULES)
    assert document["dataset"]["complete"] is False
    whole, all_cells = judged(DamageableDataset(index.parent / "dest").open(), tmp_path / "whole", min_genes=1)
    held = np.r_[0:50, 100:240]
    np.testing.assert_array_equal(cells["total_counts"], all_cells["total_counts"][held])
    mine = pd.read_feather(tmp_path / "out" / "qc_index.feather")
    kept = held[cells["kept"].to_numpy()]
    assert mine["row"].tolist() == pd.read_feather(index)["row"].iloc[kept].tolist()
    assert whole["dataset"]["complete"]


def test_a_damaged_chunk_is_named_and_nothing_is_written(dest, tmp_path):
    flip_bit(dest.chunk(2))
    with pytest.raises(CorruptError) as caught:
        judged(dest.open(), tmp_path / "out", **RULES)
    assert caught.value.chunk == 2
    assert not (tmp_path / "out").exists()


def test_a_damaged_index_is_refused_before_a_chunk_is_read(dest, tmp_path):
    """It names the cells that annotations drop, and the second run's index is made of it."""
    [path] = (dest.path / "_ingest").glob("index-*.feather")
    opened = dest.open()
    at = path.read_bytes().rindex(b"ARROW1") - 40  # in the footer: rows read by range do not show it
    flip_bit(path, at=at)
    with pytest.raises(CorruptError, match=r"is not what plan\.json names"):
        judged(opened, tmp_path / "out", min_genes=20)
    assert not (tmp_path / "out").exists()


def test_fractions_are_measured_where_they_are_allowed(tmp_path):
    import anndata

    made = write_qc_source(tmp_path / "whole.h5ad", 40)
    made.X = made.X.multiply(0.5).tocsr().astype(np.float32)
    anndata.AnnData(made.X, obs=made.obs, var=made.var[["feature_name"]]).write_h5ad(tmp_path / "half.h5ad")
    index = write_h5ad_index(tmp_path / "index.feather", [tmp_path / "half.h5ad"])
    opened = make_dataset(
        str(tmp_path / "dest"), index, data=DataSettings(cells_per_chunk=9, allow_noninteger=True)
    ).opened
    _, cells = judged(opened, tmp_path / "out", min_counts=50.5, min_cells=2)
    totals = np.asarray(made.X.sum(axis=1)).ravel()
    np.testing.assert_array_equal(cells["total_counts"], totals)
    np.testing.assert_array_equal(cells["kept"], totals >= 50.5)
    genes = pyarrow.feather.read_table(tmp_path / "out" / "qc_genes.feather").to_pandas()
    np.testing.assert_array_equal(genes["total_counts"], np.asarray(made.X.sum(axis=0)).ravel())


def test_no_cell_stays(finished, tmp_path):
    document, cells = judged(DamageableDataset(finished).open(), tmp_path / "out", min_counts=1e12, mad=3)
    assert document["cells"]["kept"] == 0
    assert not cells["kept"].any()
    assert document["metrics"]["total_counts"]["kept"]["median"] is None
    with pytest.raises(ConfigError, match="the index has no cells"):
        read_cells(tmp_path / "out" / "qc_index.feather")


def test_metrics_do_not_gather_in_memory(finished, tmp_path, monkeypatch):
    """What units bring home goes to the file, and is dropped."""
    from ingest.qc import folds

    held = []
    keep = folds.QcSums.keep
    monkeypatch.setattr(folds.QcSums, "keep", lambda self, *a: (keep(self, *a), held.append(self))[0])
    opened = DamageableDataset(finished).open()
    judged(opened, tmp_path / "out", min_genes=3)
    drivers = [state for state in held if state.table is not None]
    assert len(drivers) == 5
    assert not any(state.cells for state in drivers)


def test_the_table_places_chunks_in_any_order(tmp_path, finished):
    entries = read_data(DamageableDataset(finished).open()).chunks
    table = CellTable(tmp_path / "cells.bin", [entries[0], entries[3]])
    assert (len(table), table.firsts) == (100, {0: 0, 3: 50})
    cells = np.zeros(50, table.sample(1).dtype)
    cells["flags"] = np.arange(50) % 3
    table.place(3, cells)
    table.place(3, cells)
    assert table.n_kept == 50 + 17
    kept = np.unpackbits(table.kept_bits())[:100]
    np.testing.assert_array_equal(kept, np.r_[np.ones(50), np.arange(50) % 3 == 0])
    assert len(table.sample(30)) == 25


def test_mitochondrial_genes_of_man_and_mouse():
    from ingest.genes import Genes

    genes = Genes(("a", "b", "c", "d"), ("MT-CO1", "mt-Nd1", "MTOR", "Mt1"), (0,) * 4)
    assert mito_columns(genes, None).tolist() == [True, True, False, False]
    assert mito_columns(genes, ("c", "Mt1")).tolist() == [False, False, True, True]
