"""``convert sort``, ``standardize`` and ``labels`` as people meet them: what is said, what is made, what is refused."""

from __future__ import annotations

import json

import anndata
import pytest

from ingest.stream import get_perturbation_slice
from ingest.testing.screens import write_screen


@pytest.fixture
def run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_screen(tmp_path / "screen.h5ad")
    return lambda *arguments: run("convert", *arguments)


@pytest.mark.parametrize("command", ["sort", "standardize", "labels", "genes"])
def test_help_says_what_it_is_for_and_ends_with_examples(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Examples:" in out
    assert f"python -m ingest convert {command} screen.h5ad" in out
    assert "..." not in run("--help")[1].split(command)[1].splitlines()[0]


def test_sort(run, tmp_path):
    code, out, err = run("sort", "screen.h5ad", "--column", "guide")
    assert (code, "Kept" in err) == (0, False)
    assert out.startswith("  screen_sorted.h5ad   ")
    assert get_perturbation_slice(tmp_path / "screen_sorted.h5ad", "NTC", "guide")[0].start == 0
    code, out, err = run("sort", "screen.h5ad", "--column", "guide", "--json")
    assert json.loads(out)["path"] == "screen_sorted.h5ad"
    assert "Kept" in err
    assert "Kept" not in run("sort", "screen.h5ad", "--column", "guide", "--force")[2]
    code, _, err = run("sort", "screen.h5ad", "--column", "guide", "--control", "KRAS", "-o", "by_kras.h5ad")
    assert code == 0
    assert get_perturbation_slice("by_kras.h5ad", "KRAS", "guide")[0].start == 0


def test_standardize(run):
    code, out, err = run(
        "standardize", "screen.h5ad", "--column", "guide", "--genes", "feature_name", "--output-dir", "out"
    )
    assert (code, err) == (0, "")
    assert out.startswith("  out/.cache/standardized_screen.h5ad   ")
    assert "control" in anndata.read_h5ad("out/.cache/standardized_screen.h5ad").obs["perturbation"].cat.categories


def test_labels_are_shown_and_written_when_asked(run, tmp_path):
    before = (tmp_path / "screen.h5ad").read_bytes()
    code, out, err = run("labels", "screen.h5ad", "--column", "guide", "--strip-regex", "_[0-9]+", "--control", "ctrl")
    assert code == 0
    assert "6 labels, 6 then" in out
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines if line[2:] == ["ctrl"]] == ["NTC"]
    assert [line[0] for line in lines if line[2:] == ["TP53"]] == ["TP53_1"]
    assert "nothing was written" in err
    assert (tmp_path / "screen.h5ad").read_bytes() == before
    code, out, err = run("labels", "screen.h5ad", "--column", "guide", "--control", "ctrl", "--in-place", "--json")
    facts = json.loads(out)
    assert facts["written"]
    assert facts["control_cells"] == (anndata.read_h5ad("screen.h5ad").obs["guide"] == "ctrl").sum() > 0
    assert {"label": "NTC", "becomes": "ctrl", "cells": facts["control_cells"]} in facts["labels"]


def test_labels_finds_the_column_and_says_what_spoke_for_it(run):
    code, out, err = run("labels", "screen.h5ad", "--all")
    assert code == 0
    assert "  column guide   " in out
    assert "column 'guide' (a known name, categorical or text, 6 values, control cells: 'NTC')" in err


def test_names_of_genes_are_shown_and_written_when_asked(run, tmp_path):
    before, names = (tmp_path / "screen.h5ad").read_bytes(), anndata.read_h5ad("screen.h5ad").var_names
    code, out, err = run("genes", "screen.h5ad")
    assert code == 0
    assert "column var_names   12 genes   12 names to change" in out
    assert ["ENSG00000000003.1", "ENSG00000000003"] in [line.split() for line in out.splitlines()]
    assert "nothing was written" in err
    assert (tmp_path / "screen.h5ad").read_bytes() == before
    code, out, err = run("genes", "screen.h5ad", "--keep-version", "--json", "--in-place")
    assert (json.loads(out)["changed"], json.loads(out)["written"], err) == (0, False, "")
    assert (tmp_path / "screen.h5ad").read_bytes() == before
    facts = json.loads(run("genes", "screen.h5ad", "--in-place", "--json")[1])
    assert (facts["changed"], facts["written"], facts["not_unique"]) == (12, True, 0)
    assert list(anndata.read_h5ad("screen.h5ad").var_names) == [name.split(".")[0] for name in names]
    assert "12 genes   0 names to change" in run("genes", "screen.h5ad")[1]


def test_names_of_genes_that_become_equal_are_noted(run, tmp_path):
    write_screen(
        tmp_path / "screen.h5ad",
        change=lambda cells: setattr(cells, "var_names", [f"ENSG00000000001.{number}" for number in range(12)]),
    )
    code, out, err = run("genes", "screen.h5ad", "--in-place")
    assert (code, len(err.splitlines())) == (0, 1)
    assert err.startswith("Note")
    assert "11 not unique then" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["sort", "screen.h5ad"], 2, "error: screen.h5ad: no column 'perturbation' in obs"),
        (["sort", "screen.h5ad", "--column", "gude"], 2, "did you mean 'guide'?"),
        (["sort", "screen.h5ad", "--column", "dose"], 1, "error: none of 3 labels says control: 'high', 'low', 'mid'"),
        (["sort", "screen.h5ad", "--column", "guide", "--control", "KRA"], 1, "did you mean 'KRAS'"),
        (["sort", "none.h5ad"], 1, "there is no such file"),
        (["sort", "screen.h5ad", "--column", "guide", "-o", "screen.h5ad"], 2, "is the input"),
        (["standardize", "screen.h5ad", "--column", "guide", "--output-dir", "out"], 1, "ids of genes such as ENSG"),
        (["labels", "screen.h5ad", "--strip-regex", "["], 2, "'[' is no regular expression (unterminated"),
        (["labels", "screen.h5ad", "--column", "plate"], 1, "no labels"),
        (["genes", "screen.h5ad", "--column", "feature_nam"], 2, "did you mean 'feature_name'"),
        (["genes", "none.h5ad"], 1, "there is no such file"),
        (["srt", "screen.h5ad"], 2, "did you mean 'sort'"),
    ],
)
def test_an_error_is_a_line_or_two(run, arguments, code, said):
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert len([line for line in err.splitlines() if not line.startswith("screen.h5ad: perturbations in obs")]) <= 2
