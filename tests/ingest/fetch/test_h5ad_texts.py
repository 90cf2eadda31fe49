"""Texts longer than their headers say: read the same where they are honest, refused where they fill all memory."""

from __future__ import annotations

import h5py
import numpy as np
import pyarrow as pa
import pytest

from ingest.errors import HostileFileError
from ingest.fetch.h5ad_genes import read_genes
from ingest.fetch.h5ad_obs import iter_obs, obs_columns, obs_names
from ingest.fetch.h5ad_open import open_h5ad
from ingest.fetch.h5ad_table import open_table
from ingest.stream import load_obs
from ingest.testing.hostile.good import N_CELLS, write_good_h5ad
from ingest.testing.hostile.h5ad_texts import TEXTS, WIDE
from ingest.testing.watch import watched_memory


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_good_h5ad(tmp_path_factory.mktemp("texts") / "good.h5ad")


def read_obs(file):
    batches = list(iter_obs(file, list(obs_columns(file)), N_CELLS))
    return pa.Table.from_batches(batches), obs_names(file, np.arange(N_CELLS)), read_genes(file, "var")


@pytest.mark.parametrize("dtype", [h5py.string_dtype(), f"S{4 << 20}"], ids=["any length", "one width"])
def test_long_texts_of_some_rows_are_read_as_ever(dtype, good, tmp_path):
    path = tmp_path / "long.h5ad"
    path.write_bytes(good.read_bytes())
    texts = [f"{row}" * (3 << 20 if row == 5 else 1) for row in range(N_CELLS)]
    with h5py.File(path, "r+") as file:
        attributes = dict(file["obs/note"].attrs)
        del file["obs/note"]
        values = np.array(texts, object if dtype == h5py.string_dtype() else dtype)
        file.create_dataset("obs/note", data=values, dtype=dtype, compression="gzip", chunks=(4,))
        file["obs/note"].attrs.update(attributes)
    with open_h5ad(str(path)) as file:
        for _ in range(2):  # the heap is known, and held by HDF5
            assert open_table(file, "obs").columns["note"].read(0, N_CELLS).to_pylist() == texts
        assert file.longest_text >= (3 << 20 if dtype == h5py.string_dtype() else 0)
        assert read_obs(file)[0]["cell_type"].null_count == 0
    read = load_obs(path)["note"].tolist()
    assert [text.decode() if isinstance(text, bytes) else text for text in read] == texts


@pytest.mark.parametrize("name", [*TEXTS, *WIDE])
def test_texts_that_would_fill_all_memory_are_refused_or_take_little(name, good, tmp_path):
    path = tmp_path / "bad.h5ad"
    {**TEXTS, **WIDE}[name](good, path)
    for read in (lambda: read_by_handle(path), lambda: load_obs(path)):
        with watched_memory() as peak:
            outcome = kind_of(read)
        assert outcome in ("decoded-size", "read")
        assert outcome == "decoded-size" or name not in ("texts-shared-names", "texts-shared-labels")
        assert peak.taken_bytes < 450 << 20


def read_by_handle(path):
    with open_h5ad(str(path)) as file:
        return read_obs(file)


def kind_of(read):
    try:
        read()
    except HostileFileError as error:
        return error.kind
    return "read"
