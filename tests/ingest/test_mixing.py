"""Entropy per chunk, against a textbook loop."""

from __future__ import annotations

from collections import Counter
from math import log2

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.cells import CellBatch
from ingest.mixing import MixingMeter

DATASETS = pa.array(["a", "b", "c"])
ACCESSIONS = pa.array(["x", "y"])


def batch(cells):
    """Cells as (dataset or None, accession or None, source)."""
    datasets, accessions, codes = (list(column) for column in zip(*cells, strict=True))
    columns = [
        pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(["s0", "s1"])),
        pa.DictionaryArray.from_arrays(pa.array(datasets, pa.int32()), DATASETS),
        pa.DictionaryArray.from_arrays(pa.array(accessions, pa.int32()), ACCESSIONS),
    ]
    table = pa.RecordBatch.from_arrays(columns, ["source", "dataset_id", "SRX_accession"])
    return CellBatch(table, np.array(codes, np.int32), np.zeros(len(codes), np.int64))


def origin(cell):
    dataset, accession, source = cell
    return ("d", dataset) if dataset is not None else ("a", accession) if accession is not None else ("s", source)


def entropy(cells):
    counts = Counter(map(origin, cells))
    return -sum(n / len(cells) * log2(n / len(cells)) for n in counts.values())


CELLS = st.lists(
    st.tuples(st.sampled_from([None, 0, 1, 2]), st.sampled_from([None, 0, 1]), st.integers(0, 1)),
    min_size=1,
    max_size=80,
)


@given(CELLS, st.integers(1, 20), st.integers(1, 4))
def test_bits_of_chunks(cells, size, chunks_at_once):
    meter = MixingMeter(len(cells), size)
    step = size * chunks_at_once
    for start in range(0, len(cells), step):
        meter.add(batch(cells[start : start + step]))
    found = meter.finish()
    whole = [cells[start : start + size] for start in range(0, len(cells) - size + 1, size)] or [cells]
    bits = [entropy(chunk) for chunk in whole]
    assert found.mean_bits == pytest.approx(sum(bits) / len(bits), abs=1e-9)
    assert found.min_bits == pytest.approx(min(bits), abs=1e-9)
    assert found.whole_bits == pytest.approx(entropy(cells), abs=1e-9)
    assert meter.origin == "dataset_id"


def test_without_columns_sources_are_told_apart():
    meter = MixingMeter(4, 2)
    codes = np.array([0, 1, 1, 1], np.int32)
    meter.add(CellBatch(pa.record_batch({"row": pa.array([0, 1, 2, 3])}), codes, np.zeros(4, np.int64)))
    found = meter.finish()
    assert (meter.origin, found.mean_bits, found.min_bits) == ("source", 0.5, 0.0)
    assert str(found.min_bits) == "0.0"


def test_a_column_of_numbers_is_nobodys_origin():
    meter = MixingMeter(2, 2)
    table = pa.record_batch({"dataset_id": pa.array([4, 5])})
    meter.add(CellBatch(table, np.zeros(2, np.int32), np.zeros(2, np.int64)))
    assert (meter.origin, meter.finish().mean_bits) == ("source", 0.0)
