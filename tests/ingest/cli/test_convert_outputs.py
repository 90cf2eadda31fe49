"""Where `convert` writes, over what, and what it says of it: the same for every command."""

from __future__ import annotations

import json

import anndata
import click
import numpy as np
import pytest

from ingest.cli.convert import csc
from ingest.testing.screens import write_screen


@pytest.fixture
def run(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_screen(tmp_path / "screen.h5ad")
    return lambda *arguments: run("convert", *arguments)


COMMANDS = {
    "csc": (),
    "normalize": (),
    "subset": ("--where", "guide == 'KRAS'"),
    "sort": ("--column", "guide"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_was_not_made_of_the_input_is_replaced_by_force_alone(run, tmp_path, command):
    settings = COMMANDS[command]
    write_screen(tmp_path / "other.h5ad")
    before = (tmp_path / "other.h5ad").read_bytes()
    code, _, err = run(command, "screen.h5ad", "-o", "other.h5ad", *settings)
    assert (code, "--force" in err, err.count("\n")) == (1, True, 2)
    assert (tmp_path / "other.h5ad").read_bytes() == before
    for forced in ((), ("--force",)):  # what was made of it, is replaced without being asked
        assert run(command, "screen.h5ad", "-o", "mine.h5ad", *settings, *forced)[0] == 0
    assert run(command, "screen.h5ad", "-o", "other.h5ad", *settings, "--force")[0] == 0
    assert (tmp_path / "other.h5ad").read_bytes() != before
    before = (tmp_path / "screen.h5ad").read_bytes()
    assert run(command, "screen.h5ad", "-o", "screen.h5ad", *settings, "--force")[0] == 2
    assert (tmp_path / "screen.h5ad").read_bytes() == before


def test_what_one_command_made_of_it_another_may_replace(run):
    for command, settings in COMMANDS.items():
        assert run(command, "screen.h5ad", "-o", "out.h5ad", *settings)[0] == 0


def test_a_file_that_was_kept_was_not_written(run):
    for written in (True, False):
        code, out, _ = run("sort", "screen.h5ad", "--column", "guide", "--json")
        assert (code, json.loads(out)["written"]) == (0, written)
    for written in (True, False):
        code, out, _ = run(
            "standardize",
            "screen.h5ad",
            "--column",
            "guide",
            "--genes",
            "feature_name",
            "--output-dir",
            "out",
            "--json",
        )
        assert (code, json.loads(out)["written"]) == (0, written)


def test_cells_without_a_label_are_counted(run, tmp_path):
    cells = anndata.read_h5ad(tmp_path / "screen.h5ad")
    labels = cells.obs["guide"].astype(object)
    labels.iloc[:3] = np.nan
    cells.obs["guide"] = labels.astype("category")
    cells.write_h5ad(tmp_path / "gaps.h5ad")
    code, out, _ = run("labels", "gaps.h5ad", "--column", "guide", "--json")
    facts = json.loads(out)
    assert code == 0
    assert sum(entry["cells"] for entry in facts["labels"]) == facts["cells"] == cells.n_obs
    assert [entry for entry in facts["labels"] if entry["label"] is None] == [
        {"label": None, "becomes": None, "cells": int(labels.isna().sum())}
    ]
    code, out, _ = run("labels", "gaps.h5ad", "--column", "guide", "--all")
    assert (code, "(none)" in out, "nan" in out) == (0, True, False)


def test_a_folder_that_is_named_is_made(run, tmp_path):
    """As in the examples of the help."""
    code, out, _ = run("csc", "screen.h5ad", "--output-dir", "out")
    assert (code, out.startswith("  out/ingest_csc.h5ad   ")) == (0, True)
    assert (tmp_path / "out" / "ingest_csc.h5ad").is_file()


def test_stopped_at_once_nothing_is_kept_and_nothing_is_said_to_be(run, monkeypatch):
    def stopped(*_, **__):
        raise click.Abort

    monkeypatch.setattr(csc, "callback", stopped)
    code, _, err = run("csc", "screen.h5ad")
    assert (code, "whole or not there" in err, "committed" in err) == (130, True, False)
