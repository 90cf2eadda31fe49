"""obs of all cells: what anndata says of them, whichever cells and whatever they lack."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.errors import ConfigError
from ingest.load.dataset import open_chunks
from ingest.testing.datasets import write_h5ad_index
from ingest.testing.examples import examples
from ingest.testing.shelf import make_blocky, write_sample

N = 106
COLUMNS = ["cell_type", "tissue", "SRX_accession", "age", "score", "primary", "note"]


def texts_of(column):
    if column.categories is None:
        return column.values.tolist()
    return [column.categories[code] if code >= 0 else None for code in column.values.tolist()]


@settings(max_examples=examples(8))
@given(rows=st.lists(st.integers(0, N - 1), max_size=60), column=st.sampled_from(COLUMNS))
def test_a_column_of_any_cells(opened, plain, rows, column):
    found = opened.column(column, rows)
    assert texts_of(found) == plain.obs[column].iloc[rows].tolist()


@pytest.fixture(scope="module")
def opened(dest):
    with open_chunks(dest) as cells:
        yield cells


def test_categories(cells, plain):
    for column in COLUMNS:
        values = plain.obs[column].dropna()
        wanted = tuple(sorted(set(values))) if values.dtype == object else None
        assert cells.categories(column) == wanted


@pytest.mark.parametrize(
    ("where", "ask"),
    [
        ("tissue == 'lung'", lambda o: o.tissue == "lung"),
        ("tissue != 'lung'", lambda o: o.tissue.notna() & (o.tissue != "lung")),
        ("tissue in ['lung', 'brain'] and age > 2", lambda o: o.tissue.isin(["lung", "brain"]) & (o.age > 2)),
        ("not age > 2 or primary == True", lambda o: ~(o.age > 2) | o.primary),
        ("score >= 3.25 and score < 4", lambda o: (o.score >= 3.25) & (o.score < 4)),
        ("note == 'well 3'", lambda o: o.note == "well 3"),
        ("age > 100", lambda o: o.age > 100),
    ],
)
def test_where(cells, plain, where, ask):
    assert cells.where(where).tolist() == np.flatnonzero(ask(plain.obs)).tolist()


@pytest.mark.parametrize(
    "where", ["tisue == 'lung'", "tissue ==", "__import__('os')", "tissue == 'lung'; age", "", "age == 'old'"]
)
def test_what_is_no_filter(cells, where):
    with pytest.raises(ConfigError) as raised:
        cells.where(where)
    assert "\n" not in str(raised.value)


def test_a_column_that_is_not_there(cells):
    for ask in (
        lambda: cells.column("tisue", [0]),
        lambda: cells.categories("tisue"),
        lambda: cells.obs.table([0], ["tisue"]),
    ):
        with pytest.raises(ConfigError, match=r"no column 'tisue'.*tissue"):
            ask()


def test_accessions(cells, plain):
    wanted = np.flatnonzero(plain.obs.SRX_accession.isin(["SRX1", "SRX3"])).tolist()
    assert cells.of_accessions(["SRX3", "SRX1", "SRX3"]).tolist() == wanted
    assert cells.of_accessions([]).tolist() == []
    with pytest.raises(ConfigError, match="SRX9"):
        cells.of_accessions(["SRX1", "SRX9"])


def test_obs_as_a_table(cells, plain):
    rows = np.random.default_rng(0).integers(0, N, 50)
    for table, wanted in ((cells.obs.table(rows), plain.obs.iloc[rows]), (cells.obs.table(), plain.obs)):
        for column in COLUMNS:
            assert table[column].to_pylist() == wanted[column].tolist()
    assert cells.obs.table(rows, []).num_rows == 50
    assert cells.obs.table([], ["age"]).num_rows == 0


def test_numbers_and_flags_with_gaps(tmp_path):
    """Whole numbers and flags of which some are missing, as pandas writes them: batches have them all the same."""
    import torch

    from ingest.load.torch.create import create_dataloader

    file = write_sample(tmp_path / "x.h5ad", n_cells=12, n_genes=6)
    index = write_h5ad_index(tmp_path / "x.feather", [file])
    table = pd.read_feather(index)
    table["age"] = pd.array([None, *range(11)], "Int64")
    table["smoker"] = pd.array([True, None, False] * 4, "boolean")
    table["donor"] = pd.array([None] * 12, "string")
    table["seen"] = pd.to_datetime(["2024-01-01"] * 12)
    table["SRX_accession"] = pd.Categorical(["SRX1", None] * 6)
    table.to_feather(index)
    make_blocky(str(tmp_path / "dest"), index)
    cells = open_chunks(tmp_path / "dest")
    loader = create_dataloader(cells, 12, shuffle=False, obs=["age", "smoker", "donor", "seen"])
    [(_, metadata)] = loader
    ages = np.asarray(metadata["age"], float)
    assert np.isnan(ages[0])
    assert ages[1:].tolist() == list(range(11))
    assert isinstance(metadata["age"], torch.Tensor)
    assert metadata["donor"].tolist() == [-1] * 12
    assert metadata["experiment_id"].tolist() == [0, -1] * 6
    assert loader.categories["smoker"] == ("false", "true")
    assert metadata["smoker"].tolist() == [1, -1, 0] * 4
    # Of a cell that is of no experiment nobody knows what was measured.
    measured = cells.measured([0, 1])
    assert measured[0].all()
    assert not measured[1].any()


def test_obs_does_not_look_at_x(damageable, plain):
    dest = damageable()
    for path in (dest.path / "chunks").iterdir():
        path.unlink()
    cells = open_chunks(dest.path)
    assert cells.column("age", range(N)).values.tolist() == plain.obs.age.tolist()
    assert cells.measured([3]).shape == (1, 40)
    assert len(cells.where("age == 1"))
