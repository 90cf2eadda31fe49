"""The hostile corpus through everything of labels, sorting and standardising that opens a file."""

from __future__ import annotations

import warnings

import pytest

from ingest.errors import ConfigError, IngestError
from ingest.stream import (
    calculate_adaptive_qc_thresholds,
    detect_gene_symbol_column,
    detect_perturbation_column,
    ensure_gene_symbol_column,
    get_perturbation_slice,
    infer_columns,
    needs_sorting_for_nbglm,
    normalise_perturbation_labels,
    sort_by_perturbation,
    standardise_gene_names,
    standardize_dataset,
)
from ingest.testing.h5ad_files import hostile_files
from ingest.testing.screens import write_screen

BOMB_BYTES = 1 << 26
REFUSED = {
    "external-link",
    "external-storage",
    "virtual-dataset",
    "declared-size",
    "link-cycle",
    "not-hdf5",
    "truncated",
}
"""Rules that a file breaks for whoever opens it; others only for those who read what is broken."""

READ = {
    "infer": lambda path: infer_columns(path, verbose=False),
    "perturbation": lambda path: detect_perturbation_column(path, verbose=False),
    "genes": lambda path: detect_gene_symbol_column(path, verbose=False),
    "symbols": lambda path: ensure_gene_symbol_column(path, "feature_name"),
    "slice": lambda path: get_perturbation_slice(path, "B cell", "cell_type"),
    "needs": lambda path: needs_sorting_for_nbglm(path, "cell_type", min_cells=1, min_perturbations=1),
    "thresholds": lambda path: calculate_adaptive_qc_thresholds(path, "cell_type"),
    "labels": lambda path: normalise_perturbation_labels(path, "cell_type", inplace=False),
    "names": lambda path: standardise_gene_names(path, inplace=False),
}
CHANGE = {
    "labels": lambda path: normalise_perturbation_labels(path, "cell_type", strip_suffixes=[" cell"]),
    "names": lambda path: standardise_gene_names(path, column="feature_name", strip_version=True),
}
WRITE = {
    "sort": lambda path: sort_by_perturbation(path, "cell_type", "B cell"),
    "standardize": lambda path: standardize_dataset(path, "cell_type", "B cell", "feature_name", path.parent / "out"),
}


@pytest.fixture(scope="module", params=["csr", "csc"])
def corpus(request, tmp_path_factory):
    return hostile_files(tmp_path_factory.mktemp("hostile"), layout=request.param, bomb_bytes=BOMB_BYTES)


def outcome(call, path):
    """The kind of the typed error of one line, or None."""
    error = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call(path)
        except IngestError as caught:
            error = caught
    assert "\n" not in str(error)
    return None if error is None else error.kind


@pytest.mark.parametrize("name", READ)
@pytest.mark.sampled(3)
def test_reading_ends_in_an_answer_or_a_typed_error(corpus, name):
    for hostile in corpus.values():
        before = hostile.path.read_bytes()
        kind = outcome(READ[name], hostile.path)
        assert kind is not None or hostile.rule not in REFUSED, hostile.path.name
        assert hostile.path.read_bytes() == before


def test_what_is_read_is_checked(corpus):
    for rule, name in (("not-utf8-label", "labels"), ("label-code-beyond", "labels"), ("not-utf8-gene", "names")):
        assert outcome(READ[name], corpus[rule].path) == corpus[rule].rule
    for rule in ("index-beyond", "index-negative", "indptr-order", "damaged-chunk", "values-text", "no-matrix"):
        assert outcome(READ["thresholds"], corpus[rule].path) is not None
    assert outcome(READ["thresholds"], corpus["unsorted"].path) is None


@pytest.mark.parametrize("name", CHANGE)
def test_changing_leaves_the_file_or_a_good_one(corpus, name, tmp_path):
    for hostile in corpus.values():
        (tmp_path / hostile.path.name).write_bytes(hostile.path.read_bytes())
        copy = tmp_path / hostile.path.name
        kind = outcome(CHANGE[name], copy)
        if kind is not None:
            assert copy.read_bytes() == hostile.path.read_bytes()
        assert [path.name for path in tmp_path.iterdir()] == [copy.name]
        copy.unlink()


@pytest.mark.parametrize("name", WRITE)
@pytest.mark.sampled(3)
def test_writing_leaves_the_input_and_no_half(corpus, name, tmp_path):
    for hostile in corpus.values():
        copy = tmp_path / hostile.path.name
        copy.write_bytes(hostile.path.read_bytes())
        kind = outcome(WRITE[name], copy)
        assert copy.read_bytes() == hostile.path.read_bytes()
        made = [path for path in tmp_path.rglob("*") if path.is_file() and path != copy]
        assert len(made) == (kind is None), (hostile.path.name, kind)
        for path in made:
            path.unlink()
        copy.unlink()


def test_sorting_refuses_a_matrix_that_points_outside(corpus, tmp_path):
    for rule in ("index-beyond", "index-negative", "index-wraps", "indptr-order", "damaged-chunk", "external-link"):
        copy = tmp_path / "a.h5ad"
        copy.write_bytes(corpus[rule].path.read_bytes())
        assert outcome(WRITE["sort"], copy) is not None, rule


def test_a_folder_that_cannot_be_is_one_error(tmp_path):
    path = write_screen(tmp_path / "a.h5ad")
    (tmp_path / "out").write_text("a file, where a folder should be")
    with pytest.raises(ConfigError, match="out"):
        standardize_dataset(path, "guide", None, "feature_name", tmp_path / "out")
