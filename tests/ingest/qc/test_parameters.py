"""One spelling of the rules for options, config files and records."""

from __future__ import annotations

import pytest

from ingest.errors import ConfigError
from ingest.qc.parameters import QcRules, differing


def test_numbers_may_be_texts_and_names_may_have_dashes():
    assert QcRules.of({"min-genes": "200", "max_mito_pct": "7.5", "mad": 3}) == QcRules(
        min_genes=200, max_mito_pct=7.5, mad=3.0
    )


def test_names_of_other_programs_are_known():
    rules = QcRules.of({"min_genes_per_cell": 3, "max_pct_mt": 5, "min_cells_per_gene": 2})
    assert rules == QcRules(min_genes=3, max_mito_pct=5.0, min_cells=2)


def test_lists_come_as_lists_texts_and_files(tmp_path):
    (tmp_path / "genes.txt").write_text("MT-CO1  # cytochrome\n\nMT-ND1\n")
    assert QcRules.of({"mito_genes": f"@{tmp_path}/genes.txt"}).mito_genes == ("MT-CO1", "MT-ND1")
    assert QcRules.of({"control_column": "a", "control_values": ["x, y", "z"]}).control_values == ("x", "y", "z")
    assert QcRules.of({"leave_out_column": ("a", "b=c")}).leave_out_column == ("a", "b=c")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"min_gene": 3}, "no quality rule 'min_gene'; did you mean 'min_genes'"),
        ({"min_genes": "many"}, "min_genes many: a number is wanted"),
        ({"min_genes": True}, "min_genes True: a number is wanted"),
        ({"min_genes": 2.5}, "min_genes 2.5: a whole number is wanted"),
        ({"min_counts": "nan"}, "a number is wanted"),
        ({"min_counts": -1}, "a number from 0 on"),
        ({"max_mito_pct": 101}, "per cent go from 0 to 100"),
        ({"min_genes": 300, "max_genes": 200}, "min_genes 300 is above max_genes 200: no cell stays"),
        ({"control_values": "x"}, "control_values without control_column"),
        ({"min_cells": 1, "min_cells_pct": 1}, "give one"),
        ({"subset_to_control_cells": "perhaps"}, "true or false is wanted"),
        ({"leave_out": "@/nowhere"}, "cannot read /nowhere"),
    ],
)
def test_what_cannot_be_is_refused(said, message):
    with pytest.raises(ConfigError) as caught:
        QcRules.of(said, where="qc.json")
    assert message in caught.value.message
    assert caught.value.exit_code == 2


def test_the_document_has_what_was_said_and_of_lists_the_digest():
    rules = QcRules.of({"min_genes": 0, "leave_out": ["b", "a"], "subset_to_control_cells": False})
    assert rules.document().keys() == {"min_genes", "leave_out"}
    assert rules.document()["leave_out"] == QcRules.of({"leave_out": ["a", "b"]}).document()["leave_out"]
    assert QcRules.of({"leave_out": ["a", "c"]}).document() != rules.document()


def test_differences_are_said_in_words():
    there = {"rules": {"min_genes": 200, "mad": 5.0}, "dataset": {"digest": "a"}}
    here = {"rules": {"min_genes": 1000, "subset_to_control_cells": True}, "dataset": {"digest": "b"}}
    assert differing(there, here) == [
        "min_genes 200 there, 1,000 here",
        "subset_to_control_cells none there, yes here",
        "mad 5 there, none here",
        "computed from other data",
    ]
    assert differing(here, here) == []
    assert differing({}, here)
