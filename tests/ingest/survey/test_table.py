from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import CorruptError
from ingest.genes import Genes
from ingest.source import Source
from ingest.survey.model import SourceSurvey
from ingest.survey.table import surveys_from_bytes, surveys_to_bytes

VOCABULARIES = [
    Genes(("g1", "g2", "g3"), ("a", "é", "a"), (0, 5, 7)),
    Genes(("g1", "g2", "g3"), ("a", "other", "a"), (0, 5, 7)),
    Genes(tuple(f"g{at}" for at in range(17)), ("n",) * 17, (1,) * 17),
]


@st.composite
def surveys(draw):
    genes = draw(st.sampled_from(VOCABULARIES))
    names = draw(st.lists(st.text(max_size=4), max_size=3, unique=True))
    bits = st.lists(st.booleans(), min_size=len(genes), max_size=len(genes))
    return SourceSurvey(
        source=Source("h5ad", f"file:///data/{draw(st.integers(0, 99))}.h5ad", draw(st.sampled_from(["1-2", 'W/"é"']))),
        n_obs=draw(st.integers(0, 2**40)),
        layout=draw(st.sampled_from(["soma", "csr", "csc", "dense"])),
        matrix=draw(st.sampled_from(["X", "layers/ä"])),
        dtype="float32",
        nnz=draw(st.integers(0, 2**50)),
        band_rows=draw(st.integers(1, 2048)),
        stored_bytes=draw(st.integers(0, 2**45)),
        names_unique=draw(st.booleans()),
        genes=genes,
        presence={name: np.array(draw(bits), bool) for name in names},
        integer=draw(st.booleans()),
        datasets={
            name: {"title": name, "doi": "é"} for name in draw(st.lists(st.text(max_size=4), max_size=2, unique=True))
        },
    )


def plain(survey):
    return [
        {name: bits.tolist() for name, bits in survey.presence.items()}
        if field == "presence"
        else getattr(survey, field)
        for field in SourceSurvey.__slots__
    ]


@given(st.lists(surveys(), min_size=1, max_size=5))
def test_surveys_come_back_in_order(found):
    data = surveys_to_bytes(found)
    again = surveys_from_bytes(data, key="k")
    assert [plain(survey) for survey in again] == [plain(survey) for survey in found]
    assert surveys_to_bytes(again) == data, "equal surveys give equal bytes"


def survey_of(genes, number=0):
    source = Source("h5ad", f"file:///data/{number}.h5ad", "1")
    presence = {"a": np.ones(len(genes), bool)}
    return SourceSurvey(source, 9, "csr", "X", "float32", 3, 1, 4, True, genes, presence, True, {"a": {}})


def test_a_vocabulary_that_sources_share_is_stored_once():
    ids = tuple(f"ENSG{at * 7919 % 99_991:011d}" for at in range(20_000))
    copies = [Genes(tuple(ids), ids, (0,) * len(ids)) for _ in range(40)]
    one = len(surveys_to_bytes([survey_of(copies[0])]))
    forty = len(surveys_to_bytes([survey_of(genes, number) for number, genes in enumerate(copies)]))
    assert forty < one + 40 * 3000
    again = surveys_from_bytes(surveys_to_bytes([survey_of(genes) for genes in copies]), key="k")
    assert len({id(survey.genes) for survey in again}) == 1


def test_equal_ids_with_other_names_are_not_shared():
    again = surveys_from_bytes(surveys_to_bytes([survey_of(VOCABULARIES[0]), survey_of(VOCABULARIES[1])]), key="k")
    assert [survey.genes for survey in again] == VOCABULARIES[:2]


def test_cuts_are_damage():
    data = surveys_to_bytes([survey_of(VOCABULARIES[2])])
    for cut in range(0, len(data), 101):
        with pytest.raises(CorruptError):
            surveys_from_bytes(data[:cut], key="k")


def _with(name, change):
    """Return a table of two surveys in which `change` has been at a column."""

    def changed(table):
        return table.set_column(table.schema.names.index(name), name, change(table[name]))

    return changed


@pytest.mark.parametrize(
    "change",
    [
        _with("source", lambda _: pa.array([1, 2])),
        _with("source", lambda _: pa.array([None, "a"])),
        _with("n_obs", lambda _: pa.array([None, 1])),
        _with("n_obs", lambda _: pa.array([1.0, 2.0])),
        _with("gene_ids", lambda _: pa.array([["g1", None, "g3"], None])),
        _with("presence_ids", lambda _: pa.array([[None], []], pa.list_(pa.string()))),
        _with("datasets", lambda _: pa.array(["5", "{}"])),
        _with("datasets", lambda _: pa.array(['{"a": {"title": 1}}', "{}"])),
        _with("fault", lambda _: pa.array(['{"kind": "k", "message": 1, "hint": null}', None])),
        _with("fault", lambda _: pa.array(['{"kind": "k"}', None])),
        lambda table: table.drop_columns("layout"),
        lambda table: table.append_column("layout", table["layout"]),
    ],
)
def test_other_columns_are_no_survey(change):
    survey = SourceSurvey(
        Source("h5ad", "file:///a.h5ad", "1"), 5, "csr", "X", "float32", 9, 1, 99, True, VOCABULARIES[0], {}, True, {}
    )
    table = pa.ipc.open_file(surveys_to_bytes([survey, survey])).read_all()
    with pytest.raises(CorruptError, match="k is no survey"):
        surveys_from_bytes(stored(change(table)), key="k")
    assert len(surveys_from_bytes(stored(table.drop_columns("fault")), key="k")) == 2  # as an older build wrote it


def stored(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
