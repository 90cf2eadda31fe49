"""What is noted of the order of cells is true of them, whichever of them are left and whoever changed their labels."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import AlreadyExistsError
from ingest.stream import (
    get_perturbation_slice,
    needs_sorting_for_nbglm,
    sort_by_perturbation,
    write_filtered_subset,
)
from ingest.stream.matrix.rewrite import rewrite
from ingest.stream.sorted_rows import bounds_of
from ingest.testing.screens import SCREEN_LABELS, write_screen


@pytest.fixture
def sorted_file(tmp_path):
    return sort_by_perturbation(write_screen(tmp_path / "screen.h5ad"), "guide")


def subset(path, cells, genes=None):
    output = path.with_name("subset.h5ad")
    genes = np.ones(12, bool) if genes is None else genes
    write_filtered_subset(path, cell_mask=cells, gene_mask=genes, output_path=output)
    return output


def relabelled(path, order):
    """Put the labels in another order by other means than ours, which leaves the notes."""
    cells = anndata.read_h5ad(path)
    cells.obs["guide"] = cells.obs["guide"].to_numpy()[order]
    cells.write_h5ad(path)


@given(st.lists(st.integers(-1, 3), max_size=12))
def test_bounds_are_where_the_labels_are(codes):
    found = bounds_of(np.array(codes, np.int64), list("abcd"))
    runs = [code for place, code in enumerate(codes) if code >= 0 and (place == 0 or codes[place - 1] != code)]
    if found is None:
        assert len(set(runs)) < len(runs)
        return
    assert list(found) == ["abcd"[code] for code in runs]
    for name, (start, end) in found.items():
        assert [place for place, code in enumerate(codes) if code == "abcd".index(name)] == list(range(start, end))


@pytest.mark.parametrize("genes", [None, np.arange(12) % 2 == 0])
def test_boundaries_of_some_of_the_cells_are_theirs(sorted_file, genes):
    cells = np.arange(60) % 2 == 0
    labels = anndata.read_h5ad(sorted_file).obs["guide"]
    cells[labels == "KRAS"] = False
    output = subset(sorted_file, cells, genes)
    after = anndata.read_h5ad(output)
    note = after.uns["sorting_metadata"]
    assert (note["sorted_by"], note["control_label"]) == ("guide", "NTC")
    assert note["n_perturbations"] == len(note["perturbation_boundaries"]) == len(SCREEN_LABELS) - 1
    for label in set(SCREEN_LABELS) - {"KRAS"}:
        start, end = note["perturbation_boundaries"][label.replace("/", "%2F")]
        assert np.flatnonzero(after.obs["guide"] == label).tolist() == list(range(start, end))
        assert get_perturbation_slice(output, label, "guide") == (slice(start, end), True)
    assert "sort_order" not in note


def test_all_cells_keep_what_is_noted_of_them(sorted_file):
    genes = np.arange(12) % 2 == 0
    before, after = anndata.read_h5ad(sorted_file), anndata.read_h5ad(subset(sorted_file, np.ones(60, bool), genes))
    assert after.uns["sorting_metadata"]["sort_order"].tolist() == before.uns["sorting_metadata"]["sort_order"].tolist()


def test_labels_that_no_longer_lie_together_leave_no_note(sorted_file):
    relabelled(sorted_file, np.random.default_rng(0).permutation(60))
    after = anndata.read_h5ad(subset(sorted_file, np.arange(60) < 40))
    assert "sorting_metadata" not in after.uns
    assert "colours" in after.uns


@pytest.mark.parametrize("change", [lambda uns: uns["sorting_metadata"].pop("sorted_by"), lambda uns: uns.clear()])
def test_a_file_without_a_whole_note_is_cut_as_any_other(sorted_file, change):
    cells = anndata.read_h5ad(sorted_file)
    change(cells.uns)
    cells.write_h5ad(sorted_file)
    assert "sorting_metadata" not in anndata.read_h5ad(subset(sorted_file, np.arange(60) < 40)).uns


def test_rows_in_another_order_leave_no_note(sorted_file, tmp_path):
    rewrite(sorted_file, tmp_path / "out.h5ad", rows=np.arange(60)[::-1])
    assert "sorting_metadata" not in anndata.read_h5ad(tmp_path / "out.h5ad").uns


def test_a_subset_is_not_taken_for_the_sorted_file(tmp_path, sorted_file):
    part = subset(sorted_file, np.arange(60) < 40)
    with pytest.raises(AlreadyExistsError):
        sort_by_perturbation(tmp_path / "screen.h5ad", "guide", output_path=part)


def test_a_sorted_file_whose_labels_were_changed_is_not_taken_as_it_is(tmp_path, sorted_file):
    relabelled(sorted_file, np.random.default_rng(0).permutation(60))
    with pytest.raises(AlreadyExistsError, match="labels were changed since"):
        sort_by_perturbation(tmp_path / "screen.h5ad", "guide")
    assert sort_by_perturbation(tmp_path / "screen.h5ad", "guide", force=True) == sorted_file
    labels = anndata.read_h5ad(sorted_file).obs["guide"].dropna().tolist()
    assert labels == sorted(labels, key=lambda label: (label != "NTC", label))


def test_a_file_that_only_says_that_it_is_sorted_needs_sorting(sorted_file):
    asked = {"min_cells": 1, "min_perturbations": 1}
    assert not needs_sorting_for_nbglm(sorted_file, "guide", **asked)
    relabelled(sorted_file, np.random.default_rng(0).permutation(60))
    assert needs_sorting_for_nbglm(sorted_file, "guide", **asked)
    cells = anndata.read_h5ad(sorted_file)
    assert needs_sorting_for_nbglm(cells, "guide", **asked)
    cells.obs["guide"] = pd.Categorical(["one"] * 60)
    assert not needs_sorting_for_nbglm(cells, "guide", **asked)
