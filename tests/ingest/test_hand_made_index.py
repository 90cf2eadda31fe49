"""Indexes that people make: what cannot be taken in is said in one line, not thrown."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather

from ingest.cells import read_cells
from ingest.errors import ConfigError


def written(tmp_path, **columns):
    sources = pa.array(["file:///data/a.h5ad"] * 3)
    table = pa.table({"source": sources, "row": pa.array([0, 1, 2]), **columns})
    feather.write_feather(table, str(tmp_path / "index.feather"))
    return tmp_path / "index.feather"


@pytest.mark.parametrize(
    "column",
    [
        pa.array([(1, 2, 3)] * 3, pa.month_day_nano_interval()),
        pa.array([1, 2, 3], pa.timestamp("s", "Mars/Phobos")),
    ],
    ids=["interval", "time-zone"],
)
def test_a_column_that_arrow_cannot_turn_is_said(tmp_path, column):
    with pytest.raises(ConfigError, match=r"index\.feather: a column cannot be turned") as caught:
        read_cells(written(tmp_path, odd=column))
    assert caught.value.kind == "bad-index"


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b", "a"], pa.large_string()).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.uint64()), pa.array(["a", "b"])),
        pa.array(["a", "b", "a"], pa.string_view()),
    ],
    ids=["large", "wide", "view"],
)
def test_texts_are_taken_however_they_are_laid(tmp_path, column):
    (cells,) = read_cells(written(tmp_path, kind=column)).batches()
    assert cells.table["kind"].type == pa.dictionary(pa.int32(), pa.string())
    assert cells.table["kind"].to_pylist() == ["a", "b", "a"]
    assert np.array_equal(cells.coordinates, [0, 1, 2])
