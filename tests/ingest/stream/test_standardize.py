from __future__ import annotations

import os
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import AlreadyExistsError, LabelsError, NoColumnError
from ingest.stream import get_perturbation_slice, infer_columns, sort_by_perturbation, standardize_dataset
from ingest.stream.standardize import unique_names
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.testing.screens import assert_same_cells, write_screen

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"
NEW = ["obs.perturbation", "var.index", "var.original_var_names"]


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
@pytest.mark.parametrize("column", ["guide", "text"])
def test_the_columns_and_labels_are_there_and_all_else_is_as_it_was(tmp_path, layout, column):
    source = write_screen(tmp_path / "screen.h5ad", layout)
    before = anndata.read_h5ad(source)
    output = standardize_dataset(source, column, None, "feature_name", tmp_path / "out")
    assert output == tmp_path / "out" / ".cache" / "standardized_screen.h5ad"
    after = anndata.read_h5ad(output)
    assert_same_cells(after, before, but=NEW)
    wanted = before.obs[column].astype(object).replace("NTC", "control")
    assert after.obs["perturbation"].astype(object).equals(wanted)
    assert after.obs["perturbation"].dtype.name == ("category" if column == "guide" else "object")
    assert after.var_names.tolist() == [f"GENE{n // 2}" + ("-1" if n % 2 else "") for n in range(12)]
    assert after.var["original_var_names"].tolist() == before.var_names.tolist()
    notes = after.uns["standardization_metadata"]
    assert notes["original_path"] == str(source)
    assert notes["column_mappings"] == {column: "perturbation", "feature_name": "var_names"}
    assert notes["label_mappings"] == {"NTC": "control"}
    assert pd.Timestamp(notes["standardization_timestamp"]).tz is not None
    found = infer_columns(output, verbose=False)
    assert found["perturbation_column"] == "perturbation"


def test_x_is_copied_not_loaded(tmp_path):
    source = write_screen(tmp_path / "screen.h5ad")
    output = standardize_dataset(source, "guide", None, "feature_name", tmp_path)
    with h5py.File(source) as one, h5py.File(output) as other:
        for part in ("X/data", "X/indices", "layers/double/data", "raw/X/data"):
            assert one[part].id.get_offset() == other[part].id.get_offset()


@pytest.mark.parametrize("legacy", ["0.6", "0.7"])
@pytest.mark.filterwarnings("ignore::Warning:anndata", "ignore::FutureWarning", "ignore:Element:Warning")
def test_old_files(tmp_path, legacy):
    source = write_h5ad_variant(tmp_path / "old.h5ad", sample_counts(40, 5), legacy=legacy)
    before = anndata.read_h5ad(source)
    after = anndata.read_h5ad(standardize_dataset(source, "condition", None, "feature_name", tmp_path))
    assert after.var_names.tolist() == [f"GENE{number}" for number in range(5)]
    pd.testing.assert_frame_equal(after.obs.drop(columns="perturbation"), before.obs)
    assert after.obs["perturbation"].astype(object).equals(before.obs["condition"].astype(object))
    np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())


def test_another_column_of_that_name_is_kept(tmp_path):
    def change(cells):
        cells.obs["perturbation"] = np.arange(60.0)
        cells.obs["original_perturbation"] = "x"

    source = write_screen(tmp_path / "screen.h5ad", change=change)
    after = anndata.read_h5ad(standardize_dataset(source, "guide", None, "feature_name", tmp_path))
    assert after.obs["original_perturbation-1"].tolist() == list(range(60))
    assert after.obs["original_perturbation"].tolist() == ["x"] * 60
    assert "control" in after.obs["perturbation"].cat.categories


def test_numbers_become_labels(tmp_path):
    source = write_screen(tmp_path / "screen.h5ad")
    after = anndata.read_h5ad(standardize_dataset(source, "plate", "2", "feature_name", tmp_path))
    plates = after.obs["plate"].map(str).replace("2", "control")
    assert after.obs["perturbation"].tolist() == plates.tolist()


def test_symbols_may_be_var_names_already(tmp_path):
    def change(cells):
        cells.var_names = [f"S{number}" for number in range(12)]

    source = write_screen(tmp_path / "screen.h5ad", change=change)
    for column in (None, "gene_symbols"):
        after = anndata.read_h5ad(standardize_dataset(source, "guide", None, column, tmp_path))
        assert after.var_names.tolist() == [f"S{number}" for number in range(12)]
        assert "original_var_names" not in after.var


def test_genes_without_a_symbol_keep_their_name(tmp_path):
    def change(cells):
        cells.var["symbol"] = pd.Categorical([None, *(f"S{number}" for number in range(1, 12))])

    source = write_screen(tmp_path / "screen.h5ad", change=change)
    after = anndata.read_h5ad(standardize_dataset(source, "guide", None, "symbol", tmp_path))
    assert after.var_names[:2].tolist() == ["ENSG00000000000.1", "S1"]


def test_it_is_taken_again_until_something_differs(tmp_path):
    source = write_screen(tmp_path / "a.h5ad")
    output = standardize_dataset(source, "guide", None, "feature_name", tmp_path)

    def made_again(*args, **options):
        before = output.stat().st_ino
        assert standardize_dataset(source, *args, tmp_path, **options) == output
        return output.stat().st_ino != before

    assert not made_again("guide", None, "feature_name")
    assert not made_again("guide", "NTC", "feature_name")
    assert made_again("guide", None, "feature_name", force=True)
    assert made_again("guide", "KRAS", "feature_name")
    assert made_again("text", "KRAS", "feature_name")
    os.utime(source, ns=(1, 1))
    assert made_again("text", "KRAS", "feature_name")


def test_two_files_of_one_name_do_not_share_an_output(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = write_screen(tmp_path / "one" / "a.h5ad"), write_screen(tmp_path / "two" / "a.h5ad")
    output = standardize_dataset(one, "guide", None, "feature_name", tmp_path)
    before = output.read_bytes()
    for force in (False, True):
        with pytest.raises(AlreadyExistsError, match="not made of"):
            standardize_dataset(two, "guide", None, "feature_name", tmp_path, force=force)
    assert output.read_bytes() == before


def test_errors_leave_nothing(tmp_path):
    source = write_screen(tmp_path / "a.h5ad")
    with pytest.raises(NoColumnError, match="no column 'guid' in obs") as caught:
        standardize_dataset(source, "guid", None, None, tmp_path / "out")
    assert "guide" in caught.value.hint
    with pytest.raises(NoColumnError, match="no column 'symbol' in var"):
        standardize_dataset(source, "guide", None, "symbol", tmp_path / "out")
    with pytest.raises(LabelsError, match="holds ids of genes"):
        standardize_dataset(source, "guide", None, None, tmp_path / "out")
    with pytest.raises(LabelsError, match="says control"):
        standardize_dataset(source, "dose", None, "feature_name", tmp_path / "out")
    two = write_screen(tmp_path / "b.h5ad", change=lambda cells: cells.obs.__setitem__("g", ["control", "NTC"] * 30))
    with pytest.raises(LabelsError, match="'NTC' and 'control'; they would become one") as caught:
        standardize_dataset(two, "g", "NTC", "feature_name", tmp_path / "out")
    assert caught.value.kind == "two-controls"
    assert not (tmp_path / "out").exists()


def test_what_sorting_noted_holds_after_it_or_goes(tmp_path):
    def change(cells):
        cells.obs["perturbation"] = cells.obs["guide"]

    source = write_screen(tmp_path / "screen.h5ad", change=change)
    by_guide = standardize_dataset(
        sort_by_perturbation(source, "guide", output_path=tmp_path / "g.h5ad"), "guide", None, "feature_name", tmp_path
    )
    assert get_perturbation_slice(by_guide, "NTC", "guide")[1]
    renamed = standardize_dataset(
        sort_by_perturbation(source, output_path=tmp_path / "p.h5ad"), "perturbation", None, "feature_name", tmp_path
    )
    assert "sorting_metadata" not in anndata.read_h5ad(renamed).uns
    again = sort_by_perturbation(renamed)
    assert get_perturbation_slice(again, "control")[0].start == 0


@given(st.lists(st.sampled_from(["a", "a-1", "a-2", "b", "a-1-1"])))
def test_unique_names_are_unique_and_the_first_of_each_stays(names):
    made = unique_names(names)
    assert len(set(made)) == len(names)
    for name in set(names):
        assert made[names.index(name)] == name
    assert all(new.startswith(old) for old, new in zip(names, made, strict=True))


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data beside this checkout")
@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize(
    ("name", "column", "genes"),
    [
        ("perturb_datlinger_scifi_7500", "perturbation", None),
        ("cxg_small_perturbations", "genetic_perturbation_strategy", "feature_name"),
    ],
)
def test_real_files(tmp_path, name, column, genes):
    before = anndata.read_h5ad(REAL / f"{name}.h5ad")
    after = anndata.read_h5ad(standardize_dataset(REAL / f"{name}.h5ad", column, None, genes, tmp_path))
    assert_same_cells(after, before, but=[*NEW, *(f"uns.{key}" for key in before.uns)])
    assert (after.obs["perturbation"] == "control").sum() == (before.obs[column] == "control").sum()
    assert after.var_names.is_unique
