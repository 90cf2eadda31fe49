"""A plan in window order against the order spelled out row by row, and what it promises whoever reads it."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.cells import read_cells
from ingest.cells_digest import CellsDigest
from ingest.errors import ConfigError
from ingest.genes import Genes
from ingest.plan_index import PlanIndex
from ingest.planning import draft_plan
from ingest.settings import DataSettings, WorkSettings
from ingest.store.local import LocalStore
from ingest.survey.model import SourceSurvey
from ingest.testing.examples import examples
from ingest.window_order import WindowOrder, run_rows
from ingest.window_sort import shuffle_cells

SOURCES = ["census://2025-11-08/homo_sapiens", "file:///data/a.h5ad#version=1", "file:///data/b.h5ad#version=1"]
BAND = 8
N_OBS = 500


def survey(source):
    census = source.kind == "census"
    return SourceSurvey(
        source=source,
        n_obs=N_OBS,
        layout="soma" if census else "csc" if "b.h5ad" in source.address else "csr",
        matrix="X",
        dtype="float32",
        nnz=N_OBS * 10_000,
        band_rows=BAND if census else 1,
        stored_bytes=N_OBS * 100,
        names_unique=True,
        genes=Genes(("g1", "g2"), ("a", "b"), (1, 2)),
        presence={},
        integer=True,
        datasets={},
    )


def frame_of(keys):
    """An index in source order, with what identifies a cell once more as a text and as numbers."""
    frame = pd.DataFrame(sorted(keys), columns=["source", "at"])
    frame["soma_joinid"] = frame["at"].where(frame["source"] == SOURCES[0], -1)
    frame["row"] = frame["at"].where(frame["source"] != SOURCES[0], -1)
    frame["dataset_id"] = [f"{source[:2]}-{at // 100}" for source, at in sorted(keys)]
    frame.loc[frame["at"] % 7 == 0, "dataset_id"] = None
    frame["nnz"] = frame["at"] % 3
    return frame.drop(columns="at")


def draft(path, size, window, seed, **more):
    cells = read_cells(path, **more)
    data = DataSettings(cells_per_chunk=size, shuffle="window", shuffle_window=window, shuffle_seed=seed)
    surveys = [survey(source) for source in cells.sources]
    return draft_plan(cells, surveys, data, WorkSettings(), created="", versions={}, recorded={})


def planned(draft, folder, size):
    store = LocalStore(folder)
    store.put_new("k", draft.files["index"].read_bytes())
    return pa.Table.from_batches(PlanIndex(store, "k", size).batches(draft.plan.n_cells)).to_pandas()


def by_hand(frame, surveys, window, seed):
    """The order, said as plainly as can be."""
    order = WindowOrder(window, seed)
    rows_of_run = dict(zip((str(s.source) for s in surveys), run_rows(surveys, window).tolist(), strict=True))
    key = [
        (source, max(joinid, row) // rows_of_run[source])
        for source, joinid, row in zip(frame["source"], frame["soma_joinid"], frame["row"], strict=True)
    ]
    runs = [[row for row, _ in rows] for _, rows in groupby(enumerate(key), key=lambda item: item[1])]
    places = order.run_places(np.array([len(run) for run in runs]))
    mixed_runs = [row for at in np.argsort(places) for row in runs[at]]
    found = []
    for start in range(0, len(frame), window):
        found += [mixed_runs[at] for at in order.mixed(start, min(start + window, len(frame)))]
    return frame.iloc[found].reset_index(drop=True)


KEYS = st.lists(st.tuples(st.sampled_from(SOURCES), st.integers(0, N_OBS - 1)), min_size=1, max_size=120, unique=True)


@settings(max_examples=examples(24))
@given(KEYS, st.integers(1, 9), st.integers(1, 6), st.integers(0, 1 << 64 - 1), st.integers(1, 40), st.data())
def test_a_plan_is_the_order_by_hand(tmp_path_factory, keys, size, chunks, seed, bucket_rows, data):
    folder = tmp_path_factory.mktemp("plan")
    frame, window = frame_of(keys), size * chunks
    frame.to_feather(folder / "one.feather")
    one = draft(folder / "one.feather", size, window, seed)
    assert one.plan.identity.order == f"window:{window}:{seed}"
    wanted = by_hand(frame, one.surveys, window, seed)
    found = planned(one, folder / "dest", size)
    for name in frame.columns:
        there = found[name].astype(object).where(found[name].notna(), None)
        assert there.tolist() == wanted[name].astype(object).where(wanted[name].notna(), None).tolist(), name
    assert Counter(zip(found["source"], found["soma_joinid"], found["row"], strict=True)) == Counter(
        zip(frame["source"], frame["soma_joinid"], frame["row"], strict=True)
    )
    # However an index is ordered, and however much of it is in memory at once, the plan is the same.
    order = data.draw(st.permutations(range(len(frame))))
    front = next(at for at in order if frame.loc[at, "source"] == frame.loc[0, "source"])
    mixed = frame.iloc[[front, *(at for at in order if at != front)]]
    if list(dict.fromkeys(mixed["source"])) == list(dict.fromkeys(frame["source"])):
        mixed.reset_index(drop=True).to_feather(folder / "two.feather")
        two = draft(folder / "two.feather", size, window, seed, bucket_rows=bucket_rows)
        assert one.plan.identity == two.plan.identity
        assert one.plan.sha256 == two.plan.sha256


@settings(max_examples=examples(16))
@given(KEYS, st.integers(1, 9), st.integers(1, 6), st.integers(1, 60))
def test_buckets_change_nothing(tmp_path_factory, keys, size, chunks, bucket_rows):
    folder = tmp_path_factory.mktemp("sort")
    frame_of(keys).to_feather(folder / "i.feather")
    cells, order = read_cells(folder / "i.feather"), WindowOrder(size * chunks, 5)
    runs = run_rows([survey(source) for source in cells.sources], order.cells)
    tables = []
    for number, rows in enumerate([bucket_rows, 1 << 21]):
        part = folder / str(number)
        part.mkdir()
        shuffled = shuffle_cells(cells, order, runs, part, cells_per_chunk=size, bucket_rows=rows)
        batches = list(shuffled.batches(size * 2))
        assert not list(part.iterdir())
        digest = CellsDigest()
        for batch in batches:
            digest.add(batch.table)
        tables.append(
            (digest.hexdigest(), [len(batch) for batch in batches], np.concatenate([b.codes for b in batches]))
        )
    assert tables[0][:2] == tables[1][:2]
    assert (tables[0][2] == tables[1][2]).all()


def test_runs_are_in_one_window_or_in_two_that_follow_each_other(tmp_path):
    frame = frame_of([(SOURCES[0], at) for at in range(N_OBS)])
    frame.to_feather(tmp_path / "i.feather")
    found = planned(draft(tmp_path / "i.feather", 5, 50, 1), tmp_path / "dest", 5)
    windows = found.groupby(found["soma_joinid"] // BAND, sort=False).apply(lambda rows: sorted(set(rows.index // 50)))
    split = [spans for spans in windows if len(spans) > 1]
    assert all(spans[1] == spans[0] + 1 and len(spans) == 2 for spans in split)
    assert len(split) <= N_OBS // 50
    # A window's rows do not come band by band.
    assert (np.diff(found["soma_joinid"][:50]) == 1).sum() < 10


def test_another_seed_is_another_plan_of_the_same_cells(tmp_path):
    frame_of([(source, at) for source in SOURCES for at in range(N_OBS)]).to_feather(tmp_path / "i.feather")
    plans = [
        draft(tmp_path / "i.feather", 5, window, seed).plan for window, seed in ((50, 1), (50, 1), (50, 2), (25, 1))
    ]
    assert plans[0].identity == plans[1].identity
    assert len({plan.identity.digest for plan in plans}) == 3
    assert len({plan.identity.cells for plan in plans}) == 3


def test_chunks_are_told_to_be_mixed(tmp_path):
    frame_of([(source, at) for source in SOURCES[:2] for at in range(N_OBS)]).to_feather(tmp_path / "i.feather")
    mixing = draft(tmp_path / "i.feather", 25, 250, 1).plan.provenance.mixing
    assert mixing["origin"] == "dataset_id"
    assert mixing["before"]["mean_bits"] < 1 < 2 < mixing["after"]["mean_bits"] <= mixing["whole_bits"]
    assert mixing["before"]["min_bits"] <= mixing["before"]["mean_bits"]
    cells = read_cells(tmp_path / "i.feather")
    data = DataSettings(cells_per_chunk=25)
    plain = draft_plan(
        cells, [survey(s) for s in cells.sources], data, WorkSettings(), created="", versions={}, recorded={}
    )
    assert plain.plan.provenance.mixing is None
    assert "mixing" not in plain.plan.document()["provenance"]


def test_a_full_scratch_disk_is_one_line(tmp_path, monkeypatch):
    frame_of([(SOURCES[0], at) for at in range(N_OBS)]).to_feather(tmp_path / "i.feather")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa, "OSFile", full)
    with pytest.raises(ConfigError) as caught:
        draft(tmp_path / "i.feather", 5, 50, 1)
    assert caught.value.kind == "disk-full"
