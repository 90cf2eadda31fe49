from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from ingest.naming import cell_names, source_labels
from ingest.source import Source

_STEMS = st.sampled_from(["a", "a-2", "a-3", "a-2-2", "b", "file", "ä", "_"])


def names(unique, label, coordinates, own, *, only_soma=False):
    survey = SimpleNamespace(names_unique=unique)
    own = None if own is None else pa.array(own, pa.string())
    return cell_names(survey, label, np.array(coordinates, np.int64), own, only_soma=only_soma).to_pylist()


@given(st.lists(_STEMS, min_size=1, max_size=12))
def test_labels_are_unique_and_the_first_keeps_its_own(stems):
    sources = [Source("h5ad", f"file:///{at}/{stem}.h5ad", "1") for at, stem in enumerate(stems)]
    labels = source_labels(sources)
    assert len(set(labels)) == len(stems)
    assert labels[0] == sources[0].label
    assert all(":" not in label for label in labels)


def test_labels_of_two_organisms_and_two_versions():
    human = [Source("census", date, date, "homo_sapiens") for date in ("2025-01-30", "2025-11-08")]
    mouse = Source("census", "2025-11-08", "2025-11-08", "mus_musculus")
    assert source_labels([*human, mouse]) == ("homo_sapiens", "homo_sapiens-2", "mus_musculus")


_OWN = st.sampled_from(["c", "c:1", "d", "1", "", "c:1:1"])
_FILES = st.lists(
    st.tuples(_STEMS, st.booleans(), st.lists(_OWN, min_size=1, max_size=5)),
    min_size=1,
    max_size=5,
)


@given(_FILES, st.booleans())
def test_cell_names_are_unique_in_the_whole_dataset(files, with_census):
    sources = [Source("h5ad", f"file:///{at}/{stem}.h5ad", "1") for at, (stem, _, _) in enumerate(files)]
    labels = source_labels(sources)
    found = names(True, "homo_sapiens", range(5), None, only_soma=True) if with_census else []
    for label, (_, _, own) in zip(labels, files, strict=True):
        found += names(len(set(own)) == len(own), label, range(len(own)), own)
    assert len(set(found)) == len(found)


def test_two_censuses_are_told_apart():
    assert names(True, "homo_sapiens", [5, 7], None, only_soma=True) == ["5", "7"]
    assert names(True, "mus_musculus", [5], None) == ["mus_musculus:5"]


def test_file_names_carry_the_label_and_repeats_the_row():
    assert names(True, "s1", [3, 0], ["AC", "GT"]) == ["s1:AC", "s1:GT"]
    assert names(False, "s1", [3, 0], ["AC", "AC"]) == ["s1:AC:3", "s1:AC:0"]
