"""Genes numbered alike for several datasets, and kept."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import AlreadyExistsError, ConfigError, CorruptError, EmptySelectionError, NotFoundError
from ingest.genes import Genes
from ingest.load.transform import GeneVocabulary


def genes(*ids) -> Genes:
    return Genes(ids, tuple(name.lower() for name in ids), (0,) * len(ids))


@dataclass(frozen=True)
class Dataset:
    genes: Genes


def test_special_tokens_come_first():
    vocabulary = GeneVocabulary.from_datasets([Dataset(genes("B", "A")), genes("C", "A")])
    assert vocabulary.ids == ("B", "A", "C")
    assert [vocabulary.token(name) for name in ("<pad>", "<mask>", "<cls>", "B", "A", "C")] == list(range(6))
    assert len(vocabulary) == 6
    assert "<mask>" in vocabulary
    assert "X" not in vocabulary
    assert repr(vocabulary) == "GeneVocabulary(3 genes after <pad>, <mask>, <cls>)"


def test_unknown_genes_are_dropped_or_one_token():
    known = [genes("A", "B"), genes("B", "C")]
    dropping = GeneVocabulary.from_datasets(known, align="intersection")
    assert dropping.tokens(genes("C", "B", "A")).tolist() == [-1, 3, -1]
    one = GeneVocabulary.from_datasets(known, align="intersection", unknown="unk")
    assert one.tokens(Dataset(genes("C", "B", "A"))).tolist() == [3, 4, 3]
    assert one.tokens(["B", "Z"]).tolist() == [4, 3]
    assert one.tokens([]).dtype == "int32"


@given(st.lists(st.lists(st.sampled_from("ABCDEFG"), unique=True, min_size=1), min_size=1, max_size=4))
def test_every_dataset_is_numbered_alike(names):
    datasets = [genes(*ids) for ids in names]
    vocabulary = GeneVocabulary.from_datasets(datasets)
    numbers = {}
    for dataset in datasets:
        for gene, token in zip(dataset.ids, vocabulary.tokens(dataset).tolist(), strict=True):
            assert token >= len(vocabulary.special)
            assert numbers.setdefault(gene, token) == token
    assert sorted(numbers.values()) == list(range(3, len(vocabulary)))


def test_no_datasets_no_genes_and_double_tokens_are_refused():
    with pytest.raises(ConfigError, match="a vocabulary of no datasets"):
        GeneVocabulary.from_datasets([])
    with pytest.raises(EmptySelectionError, match="no genes are left"):
        GeneVocabulary.from_datasets([genes("A"), genes("B")], align="intersection")
    for ids, special in ((("A", "A"), ()), (("A", "<pad>"), ("<pad>",)), ((), ("x", "x"))):
        with pytest.raises(ConfigError, match="stands twice in the vocabulary"):
            GeneVocabulary(ids, special)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True))
def test_what_is_saved_is_loaded(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("v") / "vocabulary.json"
    vocabulary = GeneVocabulary(ids, ("<s>",))
    vocabulary.save(path)
    assert GeneVocabulary.load(path) == vocabulary
    assert [file.name for file in path.parent.iterdir()] == ["vocabulary.json"]


def test_another_vocabulary_is_not_overwritten(tmp_path):
    path = tmp_path / "vocabulary.json"
    mine = GeneVocabulary(("A", "B"))
    mine.save(path)
    mine.save(path)
    with pytest.raises(AlreadyExistsError, match=r"vocabulary\.json holds another vocabulary"):
        GeneVocabulary(("B", "A")).save(path)
    assert GeneVocabulary.load(path) == mine


def test_a_file_that_is_no_vocabulary_is_named(tmp_path):
    path = tmp_path / "vocabulary.json"
    with pytest.raises(NotFoundError, match="there is no vocabulary at"):
        GeneVocabulary.load(path)
    GeneVocabulary(("A", "B")).save(path)
    good = json.loads(path.read_text())
    for change, said in (
        ({"genes": None}, "it has no list of texts 'genes'"),
        ({"special": [1]}, "it has no list of texts 'special'"),
        ({"genes": ["A", "A"]}, "'A' stands twice"),
        ({"format_version": 99}, "format_version 99"),
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(CorruptError) as refused:
            GeneVocabulary.load(path)
        assert said in str(refused.value)
        assert str(path) in str(refused.value)
    path.write_text("{")
    with pytest.raises(CorruptError, match="is not JSON"):
        GeneVocabulary.load(path)
