"""Sorting on disk, held against sorting in memory."""

from __future__ import annotations

import errno
import gc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather

from ingest import source_order
from ingest.cells import read_cells
from ingest.errors import ConfigError
from ingest.testing.examples import examples

HUMAN = "census://2025-11-08/homo_sapiens"
FILES = [f"file:///data/{name}.h5ad#version=1" for name in "abc"]


def shuffled(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"source": rng.choice(FILES, n_rows), "row": np.arange(n_rows)})
    frame["kind"] = pd.Categorical(rng.choice(["x", "y", "z", None], n_rows), categories=["unused", "z", "y", "x"])
    frame["dataset_id"] = rng.choice(["d1", "d2"], n_rows)
    frame["score"] = frame["row"] / 8
    return frame.sample(frac=1.0, random_state=seed).reset_index(drop=True)


def rows_of(cells, n_rows=1000):
    return pa.Table.from_batches([batch.table for batch in cells.batches(n_rows)]).to_pandas()


def in_memory(frame):
    rank = {name: at for at, name in enumerate(dict.fromkeys(frame["source"]))}
    return frame.assign(rank=frame["source"].map(rank)).sort_values(["rank", "row"]).reset_index(drop=True)


@pytest.mark.parametrize("bucket_rows", [700, 5_000, 1 << 21])
def test_any_number_of_buckets_is_one_order(tmp_path, bucket_rows):
    frame = shuffled(30_000)
    frame.to_feather(tmp_path / "i.feather")
    cells = read_cells(tmp_path / "i.feather", scratch=tmp_path / "scratch", bucket_rows=bucket_rows)
    found, wanted = rows_of(cells), in_memory(frame)
    for name in ("source", "row", "score", "dataset_id"):
        assert found[name].tolist() == wanted[name].tolist()
    kinds = [column.astype(object).where(column.notna(), None).tolist() for column in (found["kind"], wanted["kind"])]
    assert kinds[0] == kinds[1]
    assert found["kind"].cat.categories.tolist() == list(dict.fromkeys(wanted["kind"].dropna()))
    assert cells.largest.tolist() == wanted.groupby("rank")["row"].max().tolist()


def test_buckets_are_about_equal_however_cells_are_spread(tmp_path, monkeypatch):
    """Half of the cells within 1 % of the range, and one coordinate that no source has."""
    sizes = []
    plain = source_order._sorted_rows

    def counted(bucket, key, doubles):
        rows = plain(bucket, key, doubles)
        sizes.append(0 if rows is None else len(rows))
        return rows

    monkeypatch.setattr(source_order, "_sorted_rows", counted)
    rows = np.concatenate([np.arange(50_000), np.arange(50_000) * 100 + 50_000, [2**61]])
    frame = pd.DataFrame({"source": FILES[0], "row": np.random.default_rng(1).permutation(rows)})
    frame.to_feather(tmp_path / "i.feather")
    cells = read_cells(tmp_path / "i.feather", bucket_rows=10_000)
    assert rows_of(cells)["row"].tolist() == sorted(rows.tolist())
    assert sum(sizes) == len(rows)
    assert len(sizes) > 1


@settings(max_examples=examples(12))
@given(
    st.lists(st.tuples(st.sampled_from(FILES), st.integers(0, 30)), min_size=2, max_size=60),
    st.integers(1, 7),
    st.booleans(),
    st.integers(1, 4),
)
def test_doubles_are_counted_across_buckets_and_batches(tmp_path_factory, cells, bucket_rows, in_order, chunk_rows):
    path = tmp_path_factory.mktemp("doubles") / "i.feather"
    cells = sorted(cells) if in_order else cells
    table = pa.table({"source": [name for name, _ in cells], "row": [row for _, row in cells]})
    feather.write_feather(table, path, chunksize=chunk_rows)
    n_doubles = len(cells) - len(set(cells))
    if not n_doubles:
        assert len(read_cells(path, bucket_rows=bucket_rows)) == len(cells)
        return
    rank = {name: at for at, name in enumerate(dict.fromkeys(name for name, _ in cells))}
    first = min((cell for cell in set(cells) if cells.count(cell) > 1), key=lambda cell: (rank[cell[0]], cell[1]))
    with pytest.raises(ConfigError, match=f"{n_doubles} cells stand twice, the first is {first[1]} of {first[0]}"):
        read_cells(path, bucket_rows=bucket_rows)


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 4])
def test_what_is_out_of_order_only_between_two_batches_is_sorted(tmp_path, chunk_rows):
    rows = [4, 5, 6, 1, 2, 3]
    table = pa.table({"source": [FILES[0]] * 6, "row": rows})
    feather.write_feather(table, tmp_path / "i.feather", chunksize=chunk_rows)
    assert rows_of(read_cells(tmp_path / "i.feather"))["row"].tolist() == sorted(rows)


def test_coordinates_as_large_as_they_get(tmp_path):
    rows = [2**63 - 1, 5, 2**63 - 2, 0, 2**62]
    frame = pd.DataFrame({"source": [FILES[0]] * 5 + [FILES[1]] * 5, "row": rows + rows})
    frame.to_feather(tmp_path / "i.feather")
    assert rows_of(read_cells(tmp_path / "i.feather", bucket_rows=2))["row"].tolist() == sorted(rows) * 2


def test_dataset_ids_are_those_of_their_source_whatever_the_order(tmp_path):
    frame = pd.DataFrame(
        {
            "source": [HUMAN, HUMAN.replace("homo_sapiens", "mus_musculus"), HUMAN],
            "soma_joinid": [9, 4, 2],
            "dataset_id": ["late", "mouse", "early"],
        }
    )
    frame.to_feather(tmp_path / "i.feather")
    assert read_cells(tmp_path / "i.feather", bucket_rows=1).datasets == ({"late", "early"}, {"mouse"})


def test_scratch_is_left_as_it_was(tmp_path):
    shuffled(3000).to_feather(tmp_path / "i.feather")
    scratch = tmp_path / "scratch"
    cells = read_cells(tmp_path / "i.feather", scratch=scratch, bucket_rows=100)
    assert [path.name for path in next(scratch.iterdir()).iterdir() if path.name != "lock"] == ["sorted.arrow"]
    cells.close()
    assert list(scratch.iterdir()) == []
    cells = read_cells(tmp_path / "i.feather", scratch=scratch, bucket_rows=100)
    del cells
    gc.collect()
    assert list(scratch.iterdir()) == []
    twice = shuffled(3000)
    pd.concat([twice, twice.head(1)], ignore_index=True).to_feather(tmp_path / "twice.feather")
    with pytest.raises(ConfigError, match="1 cells stand twice"):
        read_cells(tmp_path / "twice.feather", scratch=scratch, bucket_rows=100)
    gc.collect()
    assert list(scratch.iterdir()) == []


def test_a_full_scratch_disk_is_said_and_left_clean(tmp_path, monkeypatch):
    shuffled(3000).to_feather(tmp_path / "i.feather")

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(source_order, "regrouped", full)
    with pytest.raises(ConfigError, match="the disk is full") as caught:
        read_cells(tmp_path / "i.feather", scratch=tmp_path / "scratch", bucket_rows=100)
    assert (caught.value.kind, "--scratch" in caught.value.hint) == ("disk-full", True)
    del caught
    gc.collect()
    assert list((tmp_path / "scratch").iterdir()) == []
