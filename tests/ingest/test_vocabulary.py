from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import ConfigError, EmptySelectionError
from ingest.genes import ABSENT, Genes
from ingest.vocabulary import GeneRule, dataset_genes


def genes(*ids, names=None, lengths=None):
    return Genes(tuple(ids), tuple(names or (f"name of {gene}" for gene in ids)), tuple(lengths or [0] * len(ids)))


A = genes("g1", "g2", "g3")
B = genes("g4", "g2", "g1")
_IDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True)


def test_union_keeps_the_first_order_and_appends():
    assert dataset_genes([A, B], GeneRule()).ids == ("g1", "g2", "g3", "g4")


def test_intersection_keeps_the_first_order():
    assert dataset_genes([A, B], GeneRule(align="intersection")).ids == ("g1", "g2")


@given(st.lists(_IDS, min_size=1, max_size=4))
def test_union_and_intersection_are_those_of_sets(lists):
    vocabularies = [genes(*ids) for ids in lists]
    union = dataset_genes(vocabularies, GeneRule())
    assert set(union.ids) == set().union(*lists)
    assert union.ids[: len(lists[0])] == tuple(lists[0])
    common = set(lists[0]).intersection(*lists)
    if not common:
        with pytest.raises(EmptySelectionError):
            dataset_genes(vocabularies, GeneRule(align="intersection"))
    else:
        shared = dataset_genes(vocabularies, GeneRule(align="intersection"))
        assert shared.ids == tuple(gene for gene in lists[0] if gene in common)
    for vocabulary in vocabularies:
        mapping = vocabulary.map_onto(union)
        if mapping is None:
            assert vocabulary.ids == union.ids
        else:
            assert [union.ids[column] for column in mapping] == list(vocabulary.ids)


def test_a_list_decides_order_and_ignores_the_alignment():
    rule = GeneRule(wanted=("g4", "g3", "g1"), align="intersection")
    assert dataset_genes([A, B], rule).ids == ("g4", "g3", "g1")
    assert A.map_onto(dataset_genes([A, B], rule)).tolist() == [2, ABSENT, 1]


def test_names_are_those_of_the_first_source_and_lengths_of_the_first_that_has_one():
    first = genes("g1", "g2", names=("old", "same"), lengths=(0, 5))
    second = genes("g1", "g2", names=("new", "same"), lengths=(7, 9))
    found = dataset_genes([first, second], GeneRule())
    assert found.names == ("old", "same")
    assert found.lengths == (7, 5)


def test_max_genes_takes_the_first():
    assert dataset_genes([A], GeneRule(max_genes=2)).ids == ("g1", "g2")
    assert dataset_genes([A], GeneRule(max_genes=99)).ids == A.ids
    for most in (0, -1):
        with pytest.raises(EmptySelectionError):
            dataset_genes([A], GeneRule(max_genes=most))


def test_an_unknown_id_suggests_what_was_meant():
    known = genes("ENSG00000141510", "ENSG00000157764", names=("TP53", "BRAF"))

    def hint(*wanted):
        with pytest.raises(ConfigError) as caught:
            dataset_genes([known], GeneRule(wanted=wanted))
        assert caught.value.kind == "unknown-gene"
        assert repr(wanted[0]) in str(caught.value)
        return caught.value.hint

    assert hint("tp53") == "tp53 is a name; its id is ENSG00000141510"
    assert "did you mean ENSG00000141510" in hint("ENSG00000141511")
    assert "did you mean ENSG00000141510" in hint("ENSG00000141510.18")
    assert hint("x") == "ids look like ENSG00000141510"
    with pytest.raises(ConfigError, match="and 1 more"):
        dataset_genes([known], GeneRule(wanted=("x", "y")))


def test_an_id_twice_and_no_ids():
    with pytest.raises(ConfigError, match="'g1' is asked for twice"):
        dataset_genes([A], GeneRule(wanted=("g1", "g2", "g1")))
    with pytest.raises(EmptySelectionError):
        dataset_genes([A], GeneRule(wanted=()))


def test_a_vocabulary_names_the_id_that_stands_twice():
    with pytest.raises(ValueError, match="'g2' stands twice"):
        genes("g1", "g2", "g3", "g2")
    with pytest.raises(ValueError, match="2 ids, 1 names"):
        Genes(("a", "b"), ("a",), (0, 0))


def test_the_digest_is_of_ids_in_order():
    assert genes("a", "b").digest == genes("a", "b", names=("x", "y")).digest
    assert genes("a", "b").digest != genes("b", "a").digest
    assert genes("a", "b").digest != genes("ab").digest
