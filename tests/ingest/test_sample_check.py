"""Samples of a scBaseCount are held against their catalogue: genes, number of cells, every barcode."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ingest.errors import SourceError
from ingest.fetch.base import FetchLimits, FetchOptions
from ingest.fetch.open import open_fetcher
from ingest.genes import Genes
from ingest.sample_check import check_cells, faulty_survey, judge_samples
from ingest.scbasecount import is_czi, place_of
from ingest.source import Source
from ingest.survey.model import SourceSurvey
from ingest.survey.table import surveys_from_bytes, surveys_to_bytes

FOLDER = "gs://b/scbasecount/2026-01-12/h5ad/Gene/Homo_sapiens"


def genes(*ids):
    return Genes(ids, ids, (0,) * len(ids))


def survey(name="SRX1", vocabulary=("A", "B"), n_obs=10, folder=FOLDER):
    return SourceSurvey(
        source=Source("h5ad", f"{folder}/{name}.h5ad", "1"),
        n_obs=n_obs,
        layout="csr",
        matrix="X",
        dtype="float32",
        nnz=5,
        band_rows=1,
        stored_bytes=10,
        names_unique=True,
        genes=genes(*vocabulary),
        presence={name: np.ones(len(vocabulary), bool)},
        integer=True,
        datasets={name: {}},
    )


def obs(**columns):
    return pa.table({name: pa.array(values) for name, values in columns.items()})


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (f"{FOLDER}/SRX12.h5ad", ("2026-01-12", "Gene", "Homo_sapiens", "SRX12")),
        (
            "/mnt/x/2025-02-25/h5ad/GeneFull_Ex50pAS/Mus_musculus/NRX3.h5ad",
            ("2025-02-25", "GeneFull_Ex50pAS", "Mus_musculus", "NRX3"),
        ),
        ("/data/SRX12.h5ad", None),
        (f"{FOLDER}/atlas.h5ad", None),
        (f"{FOLDER}/SRX12.h5ad.bak", None),
    ],
)
def test_a_place_is_known_by_its_folders(address, found):
    place = place_of(Source.parse(address))
    assert (None if place is None else (place.release, place.feature, place.organism, place.accession)) == found


def test_collections_processed_again():
    assert is_czi("NRX1", None)
    assert is_czi("SRX1", "some-collection")
    assert not is_czi("SRX1", "")
    assert not is_czi("ERX1", None)


def test_genes_that_most_neighbours_do_not_have():
    surveys = [survey("SRX1"), survey("SRX2"), survey("SRX3", ("A", "C"))]
    judged = judge_samples(surveys, np.zeros(3, np.int64))
    assert [one.fault and one.fault.kind for one in judged] == [None, None, "other-genes"]
    assert "the other 2 samples" in judged[2].fault.message
    assert judged[2].presence == {}


def test_neither_half_is_the_usual_one():
    surveys = [survey("SRX1"), survey("SRX2", ("A", "C"))]
    assert all(one.fault is None for one in judge_samples(surveys, np.zeros(2, np.int64)))


def test_other_folders_have_genes_of_their_own():
    mouse = FOLDER.replace("Homo_sapiens", "Mus_musculus")
    surveys = [survey("SRX1"), survey("SRX2"), survey("SRX3", ("M",), folder=mouse)]
    assert all(one.fault is None for one in judge_samples(surveys, np.zeros(3, np.int64)))


def test_files_of_other_kinds_are_not_judged():
    surveys = [survey("a", folder="/data"), survey("b", folder="/data"), survey("c", ("Z",), folder="/data")]
    assert all(one.fault is None for one in judge_samples(surveys, np.full(3, 99)))


def test_fewer_cells_than_the_index_asks_for():
    judged = judge_samples([survey("SRX1", n_obs=10), survey("SRX2", n_obs=10)], np.array([9, 10]))
    assert [one.fault and one.fault.kind for one in judged] == [None, "other-cells"]


def test_a_fault_is_kept_with_the_survey_and_met_by_who_opens():
    fault = SourceError("it is gone", kind="no-such-file", hint="look elsewhere")
    kept = (survey(), faulty_survey(survey("SRX2").source, fault))
    again = surveys_from_bytes(surveys_to_bytes(kept), key="survey")
    assert [one.fault for one in again] == [one.fault for one in kept]
    with pytest.raises(SourceError) as raised:
        open_fetcher(again[1], genes("A"), FetchOptions(), FetchLimits(1 << 20, 1, None))
    assert (raised.value.kind, raised.value.hint) == ("no-such-file", "look elsewhere")
    assert raised.value.source == str(again[1].source)


NAMES = pa.array(["AAA", "CCC"])


@pytest.mark.parametrize("encode", [lambda column: column, lambda column: column.dictionary_encode()])
def test_barcodes_are_compared(encode):
    def rows(*names):
        return pa.table({"row": [4, 5], "cell_barcode": encode(pa.chunked_array([pa.array(names, pa.string())]))})

    check_cells(survey(), rows("AAA", "CCC"), NAMES)
    check_cells(survey(), rows("AAA", None), NAMES)
    with pytest.raises(SourceError, match="CCC stands at row 5, the index promises GGG") as raised:
        check_cells(survey(), rows("AAA", "GGG"), NAMES)
    assert raised.value.kind == "other-cells"


@pytest.mark.parametrize("count", [10, 10.0, float("nan")])
def test_the_number_of_cells_is_compared(count):
    check_cells(survey(), obs(row=[1, 2], obs_count=[count, count]), NAMES)
    with pytest.raises(SourceError, match="has 10 cells, sample_metadata says 11") as raised:
        check_cells(survey(), obs(row=[1, 2], obs_count=[count, 11]), NAMES)
    assert raised.value.kind == "obs-count"


def test_other_files_may_use_the_names_for_something_else():
    other = survey("mine", folder="/data")
    check_cells(other, obs(row=[1, 2], obs_count=[1, 1], cell_barcode=["x", "y"]), NAMES)
    check_cells(survey(), obs(row=[1, 2], cell_barcode=["x", "y"]), None)
