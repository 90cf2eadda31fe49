from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import AlreadyExistsError, ConfigError, LabelsError, NoColumnError, NoFileError
from ingest.stream import (
    get_matrix_storage_format,
    get_perturbation_slice,
    load_obs,
    needs_sorting_for_nbglm,
    normalise_perturbation_labels,
    perturbation,
    sort_by_perturbation,
    sorting,
    write_filtered_subset,
    write_obs,
)
from ingest.stream.reuse import uns_key
from ingest.stream.sorting import plan_sort
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.testing.screens import SCREEN_LABELS, assert_same_cells, write_screen

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"


def order_of(labels, control):
    """What sorting is, written down plainly: by (missing, not control, label), stable."""
    keys = [(True, True, "") if pd.isna(label) else (False, label != control, str(label)) for label in labels]
    return sorted(range(len(labels)), key=keys.__getitem__)


LABELS = st.lists(st.one_of(st.none(), st.sampled_from(["ctrl", "b", "B", "a", "a/b", "é", "10", "9"])), max_size=40)


@given(LABELS, st.booleans())
def test_sorting_is_a_stable_permutation_and_bounds_hold_exactly_the_labels_cells(labels, categorical):
    values = pd.Series(pd.Categorical(labels) if categorical else labels, dtype=None if categorical else object)
    plan = plan_sort(values, "ctrl")
    assert plan.rows.tolist() == order_of(labels, "ctrl")
    present = {label for label in labels if label is not None}
    assert list(plan.bounds) == sorted(present, key=lambda label: (label != "ctrl", label))
    arranged = [labels[row] for row in plan.rows]
    for label, (start, end) in plan.bounds.items():
        assert arranged[start:end] == [label] * labels.count(label)
        assert label not in arranged[:start] + arranged[end:]


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
@pytest.mark.parametrize("column", ["guide", "text"])
def test_a_sorted_file_is_anndatas_own_selection(tmp_path, layout, column):
    source = write_screen(tmp_path / "screen.h5ad", layout)
    before = anndata.read_h5ad(source)
    output = sort_by_perturbation(source, column)
    assert output == tmp_path / "screen_sorted.h5ad"
    after = anndata.read_h5ad(output)
    order = order_of(before.obs[column].tolist(), "NTC")
    assert_same_cells(after, before, rows=order)
    assert get_matrix_storage_format(output) == ("dense" if layout == "dense" else "csr")
    assert after.obs["dose"].cat.ordered
    notes = after.uns["sorting_metadata"]
    assert notes["sorted_by"] == column
    assert notes["control_label"] == "NTC"
    assert notes["n_perturbations"] == len(SCREEN_LABELS)
    assert notes["original_path"] == str(source)
    assert notes["sort_order"].tolist() == order
    assert pd.Timestamp(notes["timestamp"]).tz is not None
    assert set(notes["perturbation_boundaries"]) == {uns_key(label) for label in SCREEN_LABELS}
    assert notes["perturbation_boundaries"]["NTC"].tolist() == [0, (before.obs[column] == "NTC").sum()]


@pytest.mark.parametrize("column", ["guide", "text"])
def test_a_slice_is_exactly_the_labels_cells(tmp_path, column):
    source = write_screen(tmp_path / "screen.h5ad")
    output = sort_by_perturbation(source, column)
    after, backed = anndata.read_h5ad(output), anndata.read_h5ad(output, backed="r")
    for label in SCREEN_LABELS:
        where, is_sorted = get_perturbation_slice(output, label, column)
        assert is_sorted
        assert np.flatnonzero(after.obs[column] == label).tolist() == list(range(where.start, where.stop))
        noted = after.uns["sorting_metadata"]["perturbation_boundaries"][uns_key(label)]
        assert noted.tolist() == [where.start, where.stop]
        for data in (after, backed, str(output)):
            assert get_perturbation_slice(data, label, column) == (where, True)
    for data, label, name in ((source, "NTC", column), (output, "none", column), (output, "NTC", "dose")):
        assert get_perturbation_slice(data, label, name) == (None, False)


def test_a_slice_goes_by_the_labels_not_by_what_is_noted(tmp_path):
    cells = anndata.read_h5ad(sort_by_perturbation(write_screen(tmp_path / "screen.h5ad"), "guide"))
    cells.obs["guide"] = cells.obs["guide"].tolist()[::-1]
    where, is_sorted = get_perturbation_slice(cells, "NTC", "guide")
    assert is_sorted
    assert (cells.obs["guide"].iloc[where] == "NTC").all()
    assert where.stop - where.start == (cells.obs["guide"] == "NTC").sum()
    mixed = cells[np.random.default_rng(0).permutation(cells.n_obs)].copy()
    assert get_perturbation_slice(mixed, "NTC", "guide") == (None, False)
    del cells.obs["guide"]
    assert get_perturbation_slice(cells, "NTC", "guide") == (None, False)


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    output = sort_by_perturbation(write_screen(tmp_path / "screen.h5ad"), "guide")
    opened = []
    real = perturbation.annotated
    monkeypatch.setattr(perturbation, "annotated", lambda data: (opened.append(data), real(data))[1])
    wanted = {label: get_perturbation_slice(output, label, "guide") for label in SCREEN_LABELS}
    assert len(opened) == 1
    normalise_perturbation_labels(output, "dose", canonical_control="x", control_aliases=["low"])
    assert {label: get_perturbation_slice(output, label, "guide") for label in SCREEN_LABELS} == wanted
    assert len(opened) == 2
    normalise_perturbation_labels(output, "guide", canonical_control="ctrl")
    assert get_perturbation_slice(output, "NTC", "guide") == (None, False)


@pytest.mark.parametrize("legacy", ["0.6", "0.7"])
@pytest.mark.filterwarnings("ignore::Warning:anndata", "ignore::FutureWarning", "ignore:Element:Warning")
def test_old_files(tmp_path, legacy):
    source = write_h5ad_variant(tmp_path / "old.h5ad", sample_counts(40, 5), legacy=legacy)
    before = anndata.read_h5ad(source)
    after = anndata.read_h5ad(sort_by_perturbation(source, "condition"))
    order = order_of(before.obs["condition"].tolist(), "control")
    assert after.obs_names.tolist() == before.obs_names[order].tolist()
    np.testing.assert_array_equal(after.X.toarray(), before.X.toarray()[order])
    pd.testing.assert_frame_equal(after.var, before.var, check_names=False)


def test_numbers_are_sorted_as_text(tmp_path):
    def change(cells):
        cells.obs["perturbation"] = np.tile([10, 9, 100], 20)

    output = sort_by_perturbation(write_screen(tmp_path / "a.h5ad", change=change), control_label="9")
    assert anndata.read_h5ad(output).obs["perturbation"].tolist() == [9] * 20 + [10] * 20 + [100] * 20
    assert get_perturbation_slice(output, 100) == (slice(40, 60), True)


@pytest.mark.parametrize("label", ["a/b", "a", "", ".", "..", "50%", "a%2Fb", "é/ü", "x.y"])
def test_labels_that_hdf5_would_take_for_paths(tmp_path, label):
    def change(cells):
        cells.obs["perturbation"] = ["ctrl", "a", "a/b", label] * 15

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output = sort_by_perturbation(write_screen(tmp_path / "a.h5ad", change=change))
    cells = anndata.read_h5ad(output)
    assert len(cells.uns["sorting_metadata"]["perturbation_boundaries"]) == len({"ctrl", "a", "a/b", label})
    where, _ = get_perturbation_slice(output, label)
    assert (cells.obs["perturbation"].iloc[where] == label).all()


@given(st.lists(st.text(max_size=4), unique=True, min_size=2))
def test_no_two_labels_have_one_key_and_every_key_is_one_hdf5_name(labels):
    keys = [uns_key(label) for label in labels]
    assert len(set(keys)) == len(keys)
    assert not any("/" in key or "\0" in key or key in ("", ".") for key in keys)


def test_it_is_taken_again_until_something_differs(tmp_path, caplog):
    source = write_screen(tmp_path / "a.h5ad")
    output = sort_by_perturbation(source, "guide")

    def made_again(*args, **options):
        before = output.stat().st_ino
        assert sort_by_perturbation(source, *args, **options) == output
        return output.stat().st_ino != before

    with caplog.at_level(logging.INFO):
        assert not made_again("guide")
    assert "taken as it is" in caplog.text
    assert not made_again("guide", "NTC")
    assert made_again("guide", force=True)
    assert made_again("guide", "KRAS")
    assert made_again("text", "KRAS")
    os.utime(source, ns=(1, 1))  # the source is another one now
    assert made_again("text", "KRAS")
    assert not made_again("text", "KRAS")


def test_what_is_not_made_of_this_file_is_not_overwritten(tmp_path):
    source, other = write_screen(tmp_path / "a.h5ad"), write_screen(tmp_path / "b.h5ad")
    output = sort_by_perturbation(other, "guide")
    (tmp_path / "text.h5ad").write_text("mine")
    for there in (output, tmp_path / "text.h5ad", other):
        before = there.read_bytes()
        with pytest.raises(AlreadyExistsError, match="not made of"):
            sort_by_perturbation(source, "guide", output_path=there)
        assert there.read_bytes() == before
        assert sort_by_perturbation(source, "guide", output_path=there, force=True) == there
        assert anndata.read_h5ad(there).uns["sorting_metadata"]["original_path"] == str(source)


@pytest.mark.parametrize("force", [False, True])
def test_a_name_that_follows_from_another_file_is_left_to_it(tmp_path, force):
    source, there = write_screen(tmp_path / "a.h5ad"), write_screen(tmp_path / "a_sorted.h5ad")
    before = there.read_bytes()
    with pytest.raises(AlreadyExistsError, match="not made of"):
        sort_by_perturbation(source, "guide", force=force)
    assert there.read_bytes() == before
    with pytest.raises(ConfigError, match="is the input"):
        sort_by_perturbation(source, "guide", output_path=tmp_path / ".." / tmp_path.name / "a.h5ad", force=force)


def test_errors(tmp_path):
    source = write_screen(tmp_path / "a.h5ad")
    with pytest.raises(NoColumnError, match="no column 'perturbation'") as caught:
        sort_by_perturbation(source)
    assert caught.value.hint == "there are guide, text, dose, plate, score"
    with pytest.raises(LabelsError, match="says control"):
        sort_by_perturbation(source, "dose")
    with pytest.raises(LabelsError, match="no cell has the label 'ctrl'"):
        sort_by_perturbation(source, "guide", "ctrl")
    with pytest.raises(NoFileError):
        sort_by_perturbation(tmp_path / "none.h5ad")
    with pytest.raises(TypeError, match="in memory"):
        sort_by_perturbation(anndata.read_h5ad(source))
    with pytest.raises(ConfigError, match="no such folder"):
        sort_by_perturbation(source, "guide", output_path=tmp_path / "no" / "b.h5ad")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5ad"]


def test_a_large_file_has_no_sort_order(tmp_path, monkeypatch):
    monkeypatch.setattr(sorting, "_ORDER_CELLS", 60)
    output = sort_by_perturbation(write_screen(tmp_path / "a.h5ad"), "guide")
    with h5py.File(output) as file:
        assert "sort_order" not in file["uns/sorting_metadata"]
        assert json.loads(file["uns/sorting_metadata/settings"][()]) == {
            "control_label": "NTC",
            "perturbation_column": "guide",
        }


def screened(labels, column="perturbation"):
    return anndata.AnnData(obs=pd.DataFrame({column: labels}, index=[str(number) for number in range(len(labels))]))


def contiguity(labels):
    """The mean over the first 20 labels of cells / span, written down plainly."""
    frame = pd.DataFrame({"label": labels, "row": range(len(labels))}).dropna()
    rows = frame.groupby("label")["row"].agg(["min", "max", "size"]).sort_index().head(20)
    return (rows["size"] / (rows["max"] + 1 - rows["min"])).mean()


@given(st.lists(st.sampled_from([None, *"abcdefghijklmnopqrstuvwxyz"]), min_size=1), st.floats(0.01, 1))
def test_scattered_labels_need_sorting(labels, threshold):
    found = needs_sorting_for_nbglm(screened(labels), min_cells=1, min_perturbations=1, contiguity_threshold=threshold)
    assert found == bool(len(set(labels) - {None}) and contiguity(labels) < threshold)


def test_when_sorting_does_not_pay(tmp_path):
    scattered = ["a", "b"] * 10
    least = {"min_cells": 20, "min_perturbations": 2, "contiguity_threshold": 0.6}
    assert needs_sorting_for_nbglm(screened(scattered), **least)
    assert not needs_sorting_for_nbglm(screened(scattered), **least | {"min_cells": 21})
    assert not needs_sorting_for_nbglm(screened(scattered), **least | {"min_perturbations": 3})
    assert not needs_sorting_for_nbglm(screened(sorted(scattered)), **least)
    assert not needs_sorting_for_nbglm(screened(scattered), "guide", **least)
    assert not needs_sorting_for_nbglm(screened(scattered))  # 360,000 cells and 100 labels by default
    source = write_screen(tmp_path / "a.h5ad")
    least = {"min_cells": 60, "min_perturbations": 6, "contiguity_threshold": 1.1}
    assert needs_sorting_for_nbglm(source, "guide", **least)
    assert not needs_sorting_for_nbglm(sort_by_perturbation(source, "guide"), "guide", **least)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data beside this checkout")
@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize(
    ("name", "column", "control"),
    [
        ("perturb_datlinger_scifi_7500", "perturbation", "control"),
        ("cxg_small_perturbations", "genetic_perturbation_strategy", "control"),
        ("op_scicar_100_catnan", "cell_name", "Renal pericytes"),
        ("scvi_pbmc_5k_protein_v3", "n_genes", "2359"),
        ("cxg_heart_320_rawX", "donor_id", "donor_2"),
    ],
)
def test_real_files(tmp_path, name, column, control):
    before = anndata.read_h5ad(REAL / f"{name}.h5ad")
    output = sort_by_perturbation(REAL / f"{name}.h5ad", column, control, output_path=tmp_path / "sorted.h5ad")
    after = anndata.read_h5ad(output)
    labels = before.obs[column].astype(object).map(str, na_action="ignore").tolist()
    assert_same_cells(after, before, rows=order_of(labels, control), but=[f"uns.{key}" for key in before.uns])
    where, _ = get_perturbation_slice(output, control, column)
    assert where == slice(0, labels.count(control))


def test_what_was_noted_of_the_order_goes_when_it_holds_no_longer(tmp_path):
    path = sort_by_perturbation(write_screen(tmp_path / "a.h5ad"), "guide")
    obs = load_obs(path)
    write_obs(path, obs.assign(plate=7).set_axis([f"c{number}" for number in range(len(obs))], axis=0))
    write_obs(path, obs.assign(guide=obs["guide"].astype(object).where(obs["guide"].notna(), None)))  # labels as text
    assert "sorting_metadata" in anndata.read_h5ad(path).uns
    for changed in (obs.iloc[::-1].set_axis(obs.index, axis=0), obs.drop(columns="guide")):
        copy = tmp_path / "copy.h5ad"
        copy.write_bytes(path.read_bytes())
        write_obs(copy, changed)
        assert "sorting_metadata" not in anndata.read_h5ad(copy).uns
        assert get_perturbation_slice(copy, "KRAS", "guide") == (None, False)


def test_cells_cut_out_of_a_sorted_file_are_not_where_it_says(tmp_path):
    path, out = sort_by_perturbation(write_screen(tmp_path / "a.h5ad"), "guide"), tmp_path / "out.h5ad"
    cells, genes = np.arange(60) % 2 == 0, np.ones(12, bool)
    write_filtered_subset(path, cell_mask=cells, gene_mask=genes, output_path=out)
    labels = anndata.read_h5ad(path).obs["guide"][cells] == "KRAS"
    assert anndata.read_h5ad(out).uns["sorting_metadata"]["perturbation_boundaries"]["KRAS"].tolist() == [
        int(np.argmax(labels)),
        int(np.argmax(labels)) + int(labels.sum()),
    ]
    write_filtered_subset(path, cell_mask=cells | True, gene_mask=np.arange(12) < 5, output_path=out)
    assert get_perturbation_slice(out, "KRAS", "guide") == get_perturbation_slice(path, "KRAS", "guide")
