"""A plan's identity follows from its cells, not from how an index was written."""

from __future__ import annotations

import gc
import hashlib
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

from ingest import preparing
from ingest.cells import read_cells
from ingest.cells_digest import CellsDigest
from ingest.errors import ConfigError, SourceError
from ingest.genes import Genes
from ingest.plan_index import PlanIndex
from ingest.planning import draft_plan
from ingest.profile import ProfileBuilder
from ingest.settings import DataSettings, WorkSettings
from ingest.source import Source
from ingest.store.local import LocalStore
from ingest.survey.model import SourceSurvey
from ingest.testing.examples import examples

SOURCES = ["census://2025-11-08/homo_sapiens", "file:///data/a.h5ad#version=1"]


def survey(source, n_obs=1000):
    return SourceSurvey(
        source=source,
        n_obs=n_obs,
        layout="soma" if source.kind == "census" else "csr",
        matrix="X",
        dtype="float32",
        nnz=n_obs * 10,
        band_rows=8 if source.kind == "census" else 1,
        stored_bytes=n_obs * 100,
        names_unique=True,
        genes=Genes(("g1", "g2"), ("a", "b"), (1, 2)),
        presence={},
        integer=True,
        datasets={},
    )


def draft(path, *, limit=None, size=7, bucket_rows=5, scratch=None):
    cells = read_cells(path, limit=limit, bucket_rows=bucket_rows, scratch=scratch)
    surveys = [survey(source) for source in cells.sources]
    data, work = DataSettings(cells_per_chunk=size), WorkSettings(scratch=scratch)
    return draft_plan(cells, surveys, data, work, created="", versions={}, recorded={})


@st.composite
def frames(draw):
    keys = draw(
        st.lists(st.tuples(st.sampled_from(SOURCES), st.integers(0, 999)), min_size=1, max_size=40, unique=True)
    )
    frame = pd.DataFrame(keys, columns=["source", "at"])
    frame["soma_joinid"] = frame["at"].where(frame["source"] == SOURCES[0], -1)
    frame["row"] = frame["at"].where(frame["source"] == SOURCES[1], -1)
    texts = st.sampled_from(["T cell", "B cell", "é", "", None])
    frame["kind"] = draw(st.lists(texts, min_size=len(frame), max_size=len(frame)))
    frame["nnz"] = draw(st.lists(st.integers(0, 50), min_size=len(frame), max_size=len(frame)))
    frame["flag"] = draw(st.lists(st.booleans(), min_size=len(frame), max_size=len(frame)))
    return frame.drop(columns="at")


def in_plan_order(frame):
    rank = {name: at for at, name in enumerate(dict.fromkeys(frame["source"]))}
    at = frame["soma_joinid"] + frame["row"]
    order = np.lexsort((at, frame["source"].map(rank)))
    return frame.iloc[order].reset_index(drop=True)


def write(frame, path, *, as_categories, categories, chunk_rows, compression):
    frame = frame.copy()
    if as_categories:
        frame["source"] = frame["source"].astype("category")
        frame["kind"] = pd.Categorical(frame["kind"], categories=categories)
    feather.write_feather(
        pa.Table.from_pandas(frame, preserve_index=False), path, chunksize=chunk_rows, compression=compression
    )


MAKES = st.fixed_dictionaries(
    {
        "as_categories": st.booleans(),
        "categories": st.permutations(["unused", "T cell", "é", "B cell", ""]),
        "chunk_rows": st.integers(1, 50),
        "compression": st.sampled_from(["lz4", "uncompressed"]),
    }
)


@settings(max_examples=examples(16))
@given(frames(), MAKES, MAKES, st.integers(1, 20), st.integers(1, 9), st.data())
def test_equal_cells_are_an_equal_plan(tmp_path_factory, frame, make, other, size, bucket_rows, data):
    folder = tmp_path_factory.mktemp("plan")
    write(in_plan_order(frame), folder / "one.feather", **make)
    # Any order in which the same source is first gives the same plan.
    first = in_plan_order(frame)
    order = data.draw(st.permutations(range(len(first))))
    front = next(at for at in order if first.loc[at, "source"] == first.loc[0, "source"])
    write(first.iloc[[front, *(at for at in order if at != front)]], folder / "two.feather", **other)
    one, two = (draft(folder / name, size=size, bucket_rows=bucket_rows) for name in ("one.feather", "two.feather"))
    assert one.plan.identity == two.plan.identity
    assert one.plan.sha256 == two.plan.sha256
    assert one.plan.files == two.plan.files
    data_one = one.files["index"].read_bytes()
    assert data_one == two.files["index"].read_bytes()
    assert one.plan.sha256["index"] == hashlib.sha256(data_one).hexdigest()
    # What was written is what was read, and the profile is that of all cells at once.
    store = LocalStore(folder / "dest")
    store.put_new("k", data_one)
    found = pa.Table.from_batches(PlanIndex(store, "k", size).batches(len(frame))).to_pandas()
    wanted = in_plan_order(frame)
    for name in wanted.columns:
        there = found[name].astype(object).where(found[name].notna(), None)
        assert there.tolist() == wanted[name].astype(object).where(wanted[name].notna(), None).tolist()
    whole = ProfileBuilder(one.surveys, len(frame), size, uncut_bytes=1 << 40, n_genes=2)
    names = list(dict.fromkeys(wanted["source"]))
    codes = wanted["source"].map(names.index).to_numpy(np.int32)
    at = np.maximum(wanted["soma_joinid"], wanted["row"]).to_numpy(np.int64)
    whole.add(codes, at, pa.table({"nnz": wanted["nnz"].to_numpy()}))
    expected = whole.finish()
    for name in ("first_band", "last_band", "nnz", "read_from", "read_to", "uncut"):
        assert getattr(one.profile, name).tolist() == getattr(expected, name).tolist()
    assert one.profile.largest_band_nnz == expected.largest_band_nnz


@settings(max_examples=examples(16))
@given(frames(), MAKES, st.data())
def test_any_other_value_is_another_plan(tmp_path_factory, frame, make, data):
    folder = tmp_path_factory.mktemp("plan")
    frame = in_plan_order(frame)
    write(frame, folder / "one.feather", **make)
    changed, row = frame.copy(), data.draw(st.integers(0, len(frame) - 1))
    name = data.draw(st.sampled_from(["kind", "nnz", "flag", "column"]))
    if name == "column":
        changed = changed.rename(columns={"flag": "flags"})
    else:
        other = {"kind": "é" if frame.loc[row, "kind"] != "é" else None, "nnz": 51, "flag": not frame.loc[row, "flag"]}
        changed.loc[row, name] = other[name]
    write(changed, folder / "two.feather", **make)
    one, two = (draft(folder / name).plan.identity for name in ("one.feather", "two.feather"))
    assert one.cells != two.cells


def test_texts_swapped_between_two_values_are_other_cells():
    """Codes alone would be the same: in order of first appearance, both are 0, 1."""

    def digest(texts):
        taken = CellsDigest()
        taken.add(pa.RecordBatch.from_arrays([pa.array(texts).dictionary_encode()], ["x"]))
        return taken.hexdigest()

    assert len({digest(texts) for texts in (["a", "b"], ["b", "a"], ["a", "a"], ["ab", ""], ["a", None])}) == 5


def test_a_digest_takes_one_set_of_columns():
    taken = CellsDigest()
    taken.add(pa.RecordBatch.from_pydict({"x": [1]}))
    with pytest.raises(ValueError, match="columns"):
        taken.add(pa.RecordBatch.from_pydict({"y": [1]}))


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"normalize": 1e4}, None),
        ({"cells_per_chunk": 0}, "bad-chunk-size"),
        ({"allow_noninteger": True, "dtype": "int32"}, "bad-dtype"),
        ({"normalize": 1e4, "dtype": "uint16"}, "bad-dtype"),
        ({"normalize": 0.5}, "bad-target-sum"),
        ({"normalize": 1e30}, "bad-target-sum"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_anything_is_read(tmp_path, settings, kind):
    pd.DataFrame({"source": SOURCES[1], "row": range(3)}).to_feather(tmp_path / "index.feather")
    cells, data = read_cells(tmp_path / "index.feather"), DataSettings(**settings)
    surveys = [survey(source) for source in cells.sources]
    found = None
    try:
        draft_plan(cells, surveys, data, WorkSettings(), created="", versions={}, recorded={})
    except ConfigError as error:
        found = error.kind
    assert found == kind


def test_a_layer_is_of_files_and_not_of_a_census(tmp_path):
    pd.DataFrame({"source": SOURCES[0], "soma_joinid": range(3)}).to_feather(tmp_path / "index.feather")
    with pytest.raises(ConfigError) as caught:
        preparing.draft_dataset(
            read_cells(tmp_path / "index.feather"), DataSettings(layer="counts"), WorkSettings(), cache=None
        )
    assert caught.value.kind == "layer-of-census"


@pytest.mark.parametrize(("kind", "passes"), [("no-cell-sums", True), ("census-gone", False)])
def test_a_census_that_knows_no_sums_is_taken_without_and_any_other_trouble_is_told(tmp_path, kind, passes):
    pd.DataFrame({"source": SOURCES[0], "soma_joinid": range(3)}).to_feather(tmp_path / "index.feather")
    cells = read_cells(tmp_path / "index.feather")
    surveys = tuple(survey(source) for source in cells.sources)
    error = SourceError("asked for sums", kind=kind)
    with mock.patch("ingest.survey.soma.cell_sums", side_effect=error):
        if passes:
            assert preparing._with_promises(cells, surveys, None) is cells
        else:
            with pytest.raises(SourceError, match="asked for sums"):
                preparing._with_promises(cells, surveys, None)


def test_a_draft_leaves_nothing_on_scratch(tmp_path):
    pd.DataFrame({"source": SOURCES[0], "soma_joinid": [3, 1, 2]}).to_feather(tmp_path / "i.feather")
    scratch = tmp_path / "scratch"
    made = draft(tmp_path / "i.feather", scratch=scratch)
    assert made.files["index"].is_relative_to(scratch)
    made.close()
    assert not made.files["index"].exists()
    del made
    gc.collect()
    assert list(scratch.iterdir()) == []


# -- promises of a hand-made index ---------------------------------------------------------------------------------


@settings(max_examples=examples(10))
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 9))
def test_promises_come_in_any_number_of_questions(tmp_path_factory, n_cells, at_once, size):
    folder = tmp_path_factory.mktemp("promises")
    sources = [SOURCES[0], SOURCES[0].replace("homo_sapiens", "mus_musculus")]
    frame = pd.DataFrame({"source": [sources[at % 2] for at in range(n_cells)], "soma_joinid": np.arange(n_cells) * 3})
    frame.to_feather(folder / "i.feather")
    asked = []

    def cell_sums(source, joinids, _limits):
        asked.append(len(joinids))
        scale = 2 if source.organism == "homo_sapiens" else 5
        return joinids * scale, joinids * scale / 2

    cells = read_cells(folder / "i.feather", bucket_rows=4)
    surveys = tuple(survey(source) for source in cells.sources)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ingest.survey.soma.cell_sums", cell_sums)
        patch.setattr(preparing, "_SUMS_AT_ONCE", at_once)
        promised = preparing._with_promises(cells, surveys, SimpleNamespace())
        batches = list(promised.batches(size))
    found = pa.Table.from_batches([batch.table for batch in batches]).to_pandas()
    scale = np.where(found["source"].astype(str).str.contains("homo"), 2, 5)
    assert found["nnz"].tolist() == (found["soma_joinid"] * scale).tolist()
    assert found["raw_sum"].tolist() == (found["soma_joinid"] * scale / 2).tolist()
    assert sum(asked) == n_cells
    assert max(asked) < at_once + size


def test_an_index_that_knows_its_counts_is_asked_nothing(tmp_path):
    table = pa.table({"source": [SOURCES[0]] * 2, "soma_joinid": [1, 2], "nnz": [3, 4]})
    feather.write_feather(table, tmp_path / "i.feather")
    cells = read_cells(tmp_path / "i.feather")
    surveys = tuple(survey(source) for source in cells.sources)
    assert preparing._with_promises(cells, surveys, SimpleNamespace()) is cells
    assert isinstance(cells.sources[0], Source)
